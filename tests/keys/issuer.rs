//! Somebody who issues tokens: for the tests of the host and for the suite. Signs by itself, without the library that checks.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use serde_json::{Value, json};

/// `ring` makes no RSA keys. This one is for these tests and nothing else.
const RSA_PRIVATE: &str = include_str!("rsa.key");
const RSA_PUBLIC: &str = include_str!("rsa.pub");

/// A key pair, or a secret.
pub struct Issuer {
    /// `HS256`, `RS256`, `ES256` or `EdDSA`.
    pub algorithm: &'static str,
    /// What the server's key file holds.
    pub key_file: Vec<u8>,
    private: Private,
}

enum Private {
    Secret(ring::hmac::Key),
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Issuer {
    /// One of each algorithm.
    pub fn all() -> [Self; 4] {
        [Self::hs256(), Self::rs256(), Self::es256(), Self::eddsa()]
    }

    /// A new secret; its file ends with a newline, as an editor's does.
    pub fn hs256() -> Self {
        let mut bytes = [0; 32];
        SystemRandom::new().fill(&mut bytes).unwrap();
        let secret = URL_SAFE_NO_PAD.encode(bytes);
        Self { key_file: format!("{secret}\n").into_bytes(), ..Self::of_secret(secret.as_bytes()) }
    }

    /// This secret.
    pub fn of_secret(secret: &[u8]) -> Self {
        let private = Private::Secret(ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret));
        Self { algorithm: "HS256", key_file: secret.to_vec(), private }
    }

    /// Always the same RSA key.
    pub fn rs256() -> Self {
        let private = Private::Rsa(RsaKeyPair::from_pkcs8(&der(RSA_PRIVATE)).unwrap());
        Self { algorithm: "RS256", key_file: RSA_PUBLIC.into(), private }
    }

    /// A new key of P-256.
    pub fn es256() -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let private = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der(), &SystemRandom::new()).unwrap();
        Self { algorithm: "ES256", key_file: key.public_key_pem().into_bytes(), private: Private::P256(private) }
    }

    /// A new Ed25519 key.
    pub fn eddsa() -> Self {
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let private = Ed25519KeyPair::from_pkcs8(&key.serialize_der()).unwrap();
        Self { algorithm: "EdDSA", key_file: key.public_key_pem().into_bytes(), private: Private::Ed25519(private) }
    }

    /// A token with these claims.
    pub fn token(&self, claims: &Value) -> String {
        self.sign(&json!({"typ": "JWT", "alg": self.algorithm}).to_string(), &claims.to_string())
    }

    /// A token with any header and any text for claims.
    pub fn sign(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let random = SystemRandom::new();
        let signature = match &self.private {
            Private::Secret(key) => ring::hmac::sign(key, message.as_bytes()).as_ref().to_vec(),
            Private::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message.as_bytes(), &mut signature).unwrap();
                signature
            }
            Private::P256(key) => key.sign(&random, message.as_bytes()).unwrap().as_ref().to_vec(),
            Private::Ed25519(key) => key.sign(message.as_bytes()).as_ref().to_vec(),
        };
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// So many seconds from now, as `exp` and `nbf` have it.
pub fn in_seconds(seconds: i64) -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap() + seconds
}

fn der(pem: &str) -> Vec<u8> {
    let text: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}

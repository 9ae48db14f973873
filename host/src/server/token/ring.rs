//! The signatures of tokens by `ring`, which also does TLS here: `jsonwebtoken` brings other cryptography only when it is asked to.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{ErrorKind, Result};
use jsonwebtoken::signature::{Error, Verifier};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey};
use ring::hmac;
use ring::signature::{ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm};

static PROVIDER: CryptoProvider =
    CryptoProvider { signer_factory: no_signer, verifier_factory: verifier, key_utils: KeyUtils::new_unimplemented() };

/// Makes it the library's only cryptography in this process.
pub(super) fn install() {
    // A second time it is there already.
    let _ = PROVIDER.install_default();
}

fn no_signer(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    Err(ErrorKind::UnsupportedAlgorithm.into())
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    let (family, method) = match algorithm {
        Algorithm::HS256 => (AlgorithmFamily::Hmac, None),
        Algorithm::RS256 => (AlgorithmFamily::Rsa, Some(&RSA_PKCS1_2048_8192_SHA256 as &'static dyn VerificationAlgorithm)),
        Algorithm::ES256 => (AlgorithmFamily::Ec, Some(&ECDSA_P256_SHA256_FIXED as &'static dyn VerificationAlgorithm)),
        Algorithm::EdDSA => (AlgorithmFamily::Ed, Some(&ED25519 as &'static dyn VerificationAlgorithm)),
        _ => return Err(ErrorKind::InvalidAlgorithm.into()),
    };
    // A public key is never taken for a secret.
    if key.family() != family {
        return Err(ErrorKind::InvalidAlgorithm.into());
    }
    Ok(Box::new(RingVerifier { algorithm: *algorithm, method, key: key.try_get_as_bytes()?.to_vec() }))
}

struct RingVerifier {
    algorithm: Algorithm,
    /// `None` for a secret.
    method: Option<&'static dyn VerificationAlgorithm>,
    key: Vec<u8>,
}

impl Verifier<Vec<u8>> for RingVerifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> std::result::Result<(), Error> {
        let verified = match self.method {
            Some(method) => UnparsedPublicKey::new(method, &self.key).verify(message, signature),
            None => hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &self.key), message, signature),
        };
        verified.map_err(|_| Error::new())
    }
}

impl JwtVerifier for RingVerifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

//! The keys that tokens are checked with: read from their files, and again when those change.

use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::join_all;
use jsonwebtoken::{Algorithm, DecodingKey};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::Tokens;
use crate::config::{TokenAlgorithm, TokenKey};
use crate::server::follow::{Fingerprint, Followed, Watch};

/// Longest key file: an RSA key of 8192 bits has less than 2 KiB.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// RFC 7518 §3.2: a secret has at least as many bits as the hash.
const SECRET_BYTES_MIN: usize = 32;
/// An RSA key as DER: from 2048 to 8192 bits, which is what `ring` takes.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 264..=1064;
/// An uncompressed point of P-256.
const P256_BYTES: usize = 65;
const ED25519_BYTES: usize = 32;

/// Why a key can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the token key {} can't be used: {reason}", file.display())]
pub struct KeyError {
    /// Its file.
    pub file: PathBuf,
    /// What is wrong, and what to do.
    pub reason: String,
}

/// One key.
#[derive(Clone)]
pub(super) struct Key {
    /// The only algorithm it is for.
    pub algorithm: Algorithm,
    /// The key itself.
    pub decoding: DecodingKey,
    id: Option<String>,
    fingerprint: Fingerprint,
}

impl Key {
    /// Reads a key's file.
    ///
    /// # Errors
    /// [`KeyError`]
    pub fn read(settings: &TokenKey) -> Result<Self, KeyError> {
        Self::of(settings, &contents(settings)?)
    }

    fn of(settings: &TokenKey, bytes: &[u8]) -> Result<Self, KeyError> {
        let (algorithm, decoding) = parse(settings.algorithm, bytes).map_err(|reason| KeyError { file: settings.file.clone(), reason })?;
        Ok(Self { algorithm, decoding, id: settings.id.clone(), fingerprint: Sha256::digest(bytes).into() })
    }

    /// Whether a token with this header may be signed with it.
    pub fn is_for(&self, algorithm: Algorithm, id: Option<&str>) -> bool {
        self.algorithm == algorithm && (self.id.is_none() || self.id.as_deref() == id)
    }
}

/// The file of one key.
pub(super) struct KeyFile {
    tokens: Arc<Tokens>,
    index: usize,
}

impl KeyFile {
    fn settings(&self) -> &TokenKey {
        &self.tokens.settings.keys[self.index]
    }
}

impl Followed for KeyFile {
    type Content = Vec<u8>;
    type Error = KeyError;

    fn read(&self) -> Result<Vec<u8>, KeyError> {
        contents(self.settings())
    }

    fn fingerprint(bytes: &Vec<u8>) -> Fingerprint {
        Sha256::digest(bytes).into()
    }

    fn take_up(&self, bytes: &Vec<u8>) -> Result<(), KeyError> {
        let mut keys = Vec::clone(&self.tokens.keys.load());
        keys[self.index] = Key::of(self.settings(), bytes)?;
        // One task follows all keys: none of them is lost.
        self.tokens.keys.store(Arc::new(keys));
        tracing::info!(file = %self.settings().file.display(), "a token key has changed; tokens of the old one are refused from now on");
        Ok(())
    }

    fn tell(&self, error: &KeyError) {
        metrics::counter!("plugsocket_token_key_failures_total").increment(1);
        let file = error.file.display();
        tracing::error!(%file, reason = error.reason, "a token key has changed and can't be used; the old one stays in force");
    }
}

impl Tokens {
    /// Follows the key files until `stop` fires.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let each = self.watched().into_iter().map(|(file, mut watch)| {
            let (file, stop) = (Arc::new(file), stop.clone());
            async move { while watch.look(&file, &stop).await.is_some() {} }
        });
        join_all(each).await;
    }

    /// Each key's file, and what has been seen of it: what is served.
    pub(super) fn watched(self: &Arc<Self>) -> Vec<(KeyFile, Watch)> {
        let keys = self.keys.load();
        let watched = |(index, key): (usize, &Key)| (KeyFile { tokens: Arc::clone(self), index }, Watch::new(key.fingerprint));
        keys.iter().enumerate().map(watched).collect()
    }
}

fn contents(settings: &TokenKey) -> Result<Vec<u8>, KeyError> {
    let fault = |reason| KeyError { file: settings.file.clone(), reason };
    let unreadable =
        |error: std::io::Error| fault(format!("{error}; put the key there, readable for this user, or correct server.token.keys"));
    let file = std::fs::File::open(&settings.file).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(fault(format!("it has more than {FILE_BYTES_MAX} bytes; a key is shorter")));
    }
    Ok(bytes)
}

fn parse(algorithm: TokenAlgorithm, bytes: &[u8]) -> Result<(Algorithm, DecodingKey), String> {
    if algorithm == TokenAlgorithm::HS256 {
        return secret(bytes).map(|secret| (Algorithm::HS256, DecodingKey::from_secret(secret)));
    }
    let (name, what, command) = match algorithm {
        TokenAlgorithm::RS256 => ("RS256", "an RSA key of 2048 to 8192 bits", "openssl rsa -in private.pem -pubout"),
        TokenAlgorithm::ES256 => ("ES256", "a key of the curve P-256", "openssl ec -in private.pem -pubout"),
        _ => ("EdDSA", "an Ed25519 key", "openssl pkey -in private.pem -pubout"),
    };
    let wrong = || format!("{name} needs the public part of {what} as PEM (`BEGIN PUBLIC KEY`); `{command}` writes it");
    let text = std::str::from_utf8(bytes).map_err(|_| wrong())?;
    if text.contains("PRIVATE KEY") {
        return Err(format!("it holds a private key, which belongs to whoever issues tokens and to nobody else; {}", wrong()));
    }
    if !text.contains("-----BEGIN PUBLIC KEY-----") && !text.contains("-----BEGIN RSA PUBLIC KEY-----") {
        return Err(wrong());
    }
    let (algorithm, decoding) = match algorithm {
        TokenAlgorithm::RS256 => (Algorithm::RS256, DecodingKey::from_rsa_pem(bytes)),
        TokenAlgorithm::ES256 => (Algorithm::ES256, DecodingKey::from_ec_pem(bytes)),
        _ => (Algorithm::EdDSA, DecodingKey::from_ed_pem(bytes)),
    };
    let decoding = decoding.map_err(|_| wrong())?;
    let key = decoding.try_get_as_bytes().map_err(|_| wrong())?;
    let is_usable = match algorithm {
        Algorithm::RS256 => RSA_BYTES.contains(&key.len()),
        Algorithm::ES256 => key.len() == P256_BYTES && key[0] == 4,
        _ => key.len() == ED25519_BYTES,
    };
    if is_usable { Ok((algorithm, decoding)) } else { Err(wrong()) }
}

/// The bytes of the file, without the newline that editors put at its end.
fn secret(bytes: &[u8]) -> Result<&[u8], String> {
    let secret = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
    if secret.starts_with(b"-----BEGIN ") {
        return Err(
            "HS256 needs a secret that only the issuer and this server know, and this is a PEM file; name its own algorithm".to_owned()
        );
    }
    if secret.len() < SECRET_BYTES_MIN {
        return Err(format!(
            "an HS256 secret has at least {SECRET_BYTES_MIN} bytes, this one has {}; `openssl rand -hex 32` makes one",
            secret.len()
        ));
    }
    Ok(secret)
}

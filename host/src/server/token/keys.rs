//! The keys that tokens are checked with: read from their files, and again when those change.

use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::{Algorithm, DecodingKey};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::Tokens;
use crate::config::{TokenAlgorithm, TokenKey};

/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
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
    /// What its file held when it was last looked at, good or not.
    seen: Result<Vec<u8>, String>,
}

impl Key {
    /// Reads a key's file.
    ///
    /// # Errors
    /// [`KeyError`]
    pub fn read(settings: &TokenKey) -> Result<Self, KeyError> {
        let fault = |reason| KeyError { file: settings.file.clone(), reason };
        let bytes = contents(settings).map_err(fault)?;
        let (algorithm, decoding) = parse(settings.algorithm, &bytes).map_err(fault)?;
        Ok(Self { algorithm, decoding, id: settings.id.clone(), seen: Ok(bytes) })
    }

    /// Whether a token with this header may be signed with it.
    pub fn is_for(&self, algorithm: Algorithm, id: Option<&str>) -> bool {
        self.algorithm == algorithm && (self.id.is_none() || self.id.as_deref() == id)
    }

    /// The key as its file has it now; `None` when nothing has changed. A bad file leaves the key as it is, and is told once.
    fn renewed(&self, settings: &TokenKey) -> Option<Self> {
        let seen = contents(settings);
        if seen == self.seen {
            return None;
        }
        let file = settings.file.display();
        match seen.clone().and_then(|bytes| parse(settings.algorithm, &bytes)) {
            Ok((algorithm, decoding)) => {
                tracing::info!(%file, "a token key has changed; tokens of the old one are refused from now on");
                Some(Self { algorithm, decoding, id: self.id.clone(), seen })
            }
            Err(reason) => {
                metrics::counter!("plugsocket_token_key_failures_total").increment(1);
                tracing::error!(%file, reason, "a token key has changed and can't be used; the old one stays in force");
                Some(Self { seen, ..self.clone() })
            }
        }
    }
}

impl Tokens {
    /// Looks at the key files once a second until `stop` fires.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let tokens = Arc::clone(&self);
            // The files may be on a slow file system; nobody who serves waits for it.
            let look = tokio::task::spawn_blocking(move || tokens.look());
            if let Err(error) = look.await {
                tracing::error!(%error, "the token keys could not be looked at");
            }
        }
    }

    /// Takes up what has changed in the key files.
    pub(super) fn look(&self) {
        let keys = self.keys.load_full();
        let renewed: Vec<_> = keys.iter().zip(&self.settings.keys).map(|(key, settings)| key.renewed(settings)).collect();
        if renewed.iter().any(Option::is_some) {
            let keys = keys.iter().zip(renewed).map(|(key, renewed)| renewed.unwrap_or_else(|| key.clone())).collect();
            self.keys.store(Arc::new(keys));
        }
    }
}

fn contents(settings: &TokenKey) -> Result<Vec<u8>, String> {
    let unreadable = |error: std::io::Error| format!("{error}; put the key there, readable for this user, or correct server.token.keys");
    let file = std::fs::File::open(&settings.file).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("it has more than {FILE_BYTES_MAX} bytes; a key is shorter"));
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

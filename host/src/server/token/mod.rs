//! Who a client is, by a token (JWT) that somebody else has signed: what is checked, and what the client is told when it is not good.
//!
//! `places` finds the token in a request, `keys` holds the keys and reads them again when they change, `ring` verifies signatures.

mod claims;
mod keys;
mod places;
mod ring;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arc_swap::ArcSwap;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Validation, decode, decode_header};
use serde_json::{Map, Value};

use self::claims::Claims;
use self::keys::Key;
pub use self::keys::KeyError;
pub(crate) use self::places::Places;
use super::head::Rejection;
use crate::config::TokenSettings;

/// Longest token.
pub(crate) const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// What a good token says.
#[derive(Debug)]
pub(crate) struct Verified {
    /// Its claims.
    pub claims: Map<String, Value>,
    /// Its `exp`, in milliseconds since the Unix epoch.
    pub expires_ms: u64,
}

/// Why there is no good token. Only what follows the signature depends on the token's content, so nobody learns a thing without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenFault {
    /// There is none.
    Missing,
    /// No JWT in its compact form, over the limit, claims that are no object or there twice, more than one token.
    Malformed,
    /// No key has its algorithm and `kid`.
    UnknownKey,
    /// Not signed with our key.
    Signature,
    /// Over.
    Expired,
    /// Not good yet.
    NotYet,
    /// `exp` is missing or no time, or `nbf` is no time.
    Times,
    /// From somebody else.
    Issuer,
    /// For somebody else.
    Audience,
}

impl TokenFault {
    /// A word for metrics and log.
    pub fn cause(self) -> &'static str {
        match self {
            Self::Missing => "token_missing",
            Self::Malformed => "token_malformed",
            Self::UnknownKey => "token_key",
            Self::Signature => "token_signature",
            Self::Expired => "token_expired",
            Self::NotYet => "token_not_yet",
            Self::Times => "token_times",
            Self::Issuer => "token_issuer",
            Self::Audience => "token_audience",
        }
    }

    /// A sentence for the client.
    pub fn text(self) -> &'static str {
        match self {
            Self::Missing => "a token is needed",
            Self::Malformed => "the token is malformed",
            Self::UnknownKey | Self::Signature => "the token is not signed with a key of this server",
            Self::Expired => "the token has expired",
            Self::NotYet => "the token is not valid yet",
            Self::Times => "the token needs `exp`, and its times must be seconds since 1970",
            Self::Issuer => "the token has another issuer",
            Self::Audience => "the token is for another audience",
        }
    }

    /// The answer to an upgrade.
    pub fn rejection(self) -> Rejection {
        let challenge = match self {
            Self::Missing => "WWW-Authenticate: Bearer\r\n",
            _ => "WWW-Authenticate: Bearer error=\"invalid_token\"\r\n",
        };
        Rejection::with_headers(self.cause(), "401 Unauthorized", challenge, self.text())
    }
}

/// Checks tokens. Settings hold until a restart, keys are read again when their files change.
pub(crate) struct Tokens {
    /// Where tokens are looked for.
    pub places: Places,
    /// What is asked of tokens beside a key.
    pub settings: TokenSettings,
    keys: ArcSwap<Vec<Key>>,
}

/// Whether the keys can be used.
///
/// # Errors
/// [`KeyError`]
pub fn check_token_keys(settings: &TokenSettings) -> Result<(), KeyError> {
    Tokens::open(settings).map(drop)
}

impl Tokens {
    /// Reads the keys; `None` when there are none in the settings, and no token is asked for.
    ///
    /// # Errors
    /// [`KeyError`]
    pub fn open(settings: &TokenSettings) -> Result<Option<Arc<Self>>, KeyError> {
        if settings.keys.is_empty() {
            return Ok(None);
        }
        ring::install();
        let keys = settings.keys.iter().map(Key::read).collect::<Result<Vec<_>, _>>()?;
        let places = Places::of(&settings.from);
        Ok(Some(Arc::new(Self { places, settings: settings.clone(), keys: ArcSwap::from_pointee(keys) })))
    }

    /// Checks a token.
    ///
    /// # Errors
    /// [`TokenFault`]
    pub fn check(&self, token: &str) -> Result<Arc<Verified>, TokenFault> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenFault::Malformed);
        }
        let header = decode_header(token).map_err(|error| fault_of(error.kind()))?;
        // What a token calls critical has to be understood, and we understand nothing but signatures.
        if header.crit.is_some() {
            return Err(TokenFault::Malformed);
        }
        let keys = self.keys.load();
        let mut fault = TokenFault::UnknownKey;
        for key in keys.iter().filter(|key| key.is_for(header.alg, header.kid.as_deref())) {
            match decode::<Claims>(token, &key.decoding, &self.validation(key)) {
                Ok(decoded) => return self.verified(decoded.claims),
                Err(error) => match fault_of(error.kind()) {
                    TokenFault::Signature => fault = TokenFault::Signature,
                    other => return Err(other),
                },
            }
        }
        Err(fault)
    }

    fn validation(&self, key: &Key) -> Validation {
        let mut validation = Validation::new(key.algorithm);
        validation.leeway = self.settings.leeway.as_secs();
        validation.validate_nbf = true;
        validation.validate_aud = self.settings.audience.is_some();
        let mut required = vec!["exp"];
        if let Some(issuer) = &self.settings.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        if let Some(audience) = &self.settings.audience {
            validation.set_audience(&[audience]);
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);
        validation
    }

    fn verified(&self, Claims(claims): Claims) -> Result<Arc<Verified>, TokenFault> {
        // The library takes a list for `iss`; RFC 7519 has one issuer.
        if let Some(issuer) = &self.settings.issuer
            && claims.get("iss").and_then(Value::as_str) != Some(issuer)
        {
            return Err(TokenFault::Issuer);
        }
        let expires_ms = claims.get("exp").and_then(unix_ms_of).ok_or(TokenFault::Times)?;
        Ok(Arc::new(Verified { claims, expires_ms }))
    }
}

/// A NumericDate in milliseconds; one beyond all clocks is the end of time.
fn unix_ms_of(date: &Value) -> Option<u64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, and is not negative")]
    let seconds = date.as_u64().or_else(|| date.as_f64().filter(|seconds| *seconds >= 0.0).map(|seconds| seconds.round() as u64))?;
    Some(seconds.saturating_mul(1000))
}

fn fault_of(kind: &ErrorKind) -> TokenFault {
    match kind {
        ErrorKind::InvalidSignature => TokenFault::Signature,
        ErrorKind::InvalidAlgorithm => TokenFault::UnknownKey,
        ErrorKind::ExpiredSignature => TokenFault::Expired,
        ErrorKind::ImmatureSignature => TokenFault::NotYet,
        ErrorKind::InvalidIssuer => TokenFault::Issuer,
        ErrorKind::InvalidAudience => TokenFault::Audience,
        ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => match claim.as_str() {
            "iss" => TokenFault::Issuer,
            "aud" => TokenFault::Audience,
            _ => TokenFault::Times,
        },
        _ => TokenFault::Malformed,
    }
}

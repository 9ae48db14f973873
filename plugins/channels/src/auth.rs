//! The secret that the application signs with, and what it has signed.

use std::fs;
use std::path::PathBuf;

use plugsocket_plugin::prelude::*;
use ring::hmac;
use serde::Deserialize;

/// Shortest secret, in bytes.
const SECRET_BYTES_MIN: usize = 16;

/// `[plugins.channels.config]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    secret: Option<String>,
    secret_file: Option<PathBuf>,
}

/// Where the secret is.
pub enum Secret {
    None,
    Text(String),
    /// Read anew each time, so that another secret needs no reload. A relative path begins at the folder the process runs in.
    File(PathBuf),
}

impl Secret {
    /// From the config table; a secret that can't be read, or is too short, refuses the load.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        let secret = match config.parse::<Settings>()? {
            Settings { secret: Some(_), secret_file: Some(_) } => {
                return Err(ConfigError::new("`secret` and `secret_file` are both there; one of them is enough"));
            }
            Settings { secret: Some(text), .. } => Self::Text(text),
            Settings { secret_file: Some(file), .. } => Self::File(file),
            Settings { .. } => Self::None,
        };
        secret.read().map_err(ConfigError::new)?;
        Ok(secret)
    }

    fn read(&self) -> Result<Option<Vec<u8>>, String> {
        let secret = match self {
            Self::None => return Ok(None),
            Self::Text(text) => text.as_bytes().to_vec(),
            Self::File(file) => {
                let bytes = fs::read(file).map_err(|error| format!("`secret_file` {}: {error}", file.display()))?;
                let bytes = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
                bytes.strip_suffix(b"\r").unwrap_or(bytes).to_vec()
            }
        };
        if secret.len() < SECRET_BYTES_MIN {
            return Err(format!("the secret has {} bytes, at least {SECRET_BYTES_MIN} are needed", secret.len()));
        }
        Ok(Some(secret))
    }

    /// Whether `auth` (`EXPIRES:HEX`) lets the connection into the channel at `now`, in seconds since the epoch.
    pub fn check(&self, auth: Option<&str>, connection: &str, channel: &str, data: Option<&str>, now: u64) -> Result<(), Failure> {
        let Some(secret) = self.read().map_err(Failure::Retry)? else {
            let message = "this server has no secret for private and presence channels: set `secret_file` in [plugins.channels.config]";
            return Err(Failure::reject("no_secret", message));
        };
        let wrong = |why: &str| {
            let message =
                format!("{why}; ask the application to authorize connection `{connection}` for `{channel}`, and send its answer unchanged");
            Failure::reject("bad_auth", message)
        };
        let auth = auth.ok_or_else(|| wrong("`auth` is missing"))?;
        let (expires, signature) = auth.split_once(':').ok_or_else(|| wrong("`auth` is not `EXPIRES:HEX`"))?;
        let (time, tag) = expires.parse::<u64>().ok().zip(from_hex(signature)).ok_or_else(|| wrong("`auth` is not `EXPIRES:HEX`"))?;
        let mut signed = format!("{connection}:{channel}:{expires}");
        if let Some(data) = data {
            signed.push(':');
            signed.push_str(data);
        }
        // Takes the same time wherever they differ.
        hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &secret), signed.as_bytes(), &tag)
            .map_err(|_| wrong("`auth` was signed for something else, or with another secret than this server's"))?;
        if time < now {
            let message = format!("`auth` ended {} s ago; ask the application to authorize again (or set the clocks right)", now - time);
            return Err(Failure::reject("expired", message));
        }
        Ok(())
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.bytes().map(|digit| char::from(digit).to_digit(16)).collect::<Option<Vec<_>>>()?;
    let bytes = digits.chunks_exact(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).ok()).collect::<Option<_>>()?;
    (text.len() == 64).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANNEL_DATA: &str = r#"{"user_id":7,"user_info":{"name":"Ada"}}"#;
    /// `php -r 'echo hash_hmac("sha256", "c1:private-orders.1:1700000300", "a secret that both know");'`
    const PRIVATE: &str = "1700000300:c376014c516f509ec17d351e15bdb54bfc19fd45b2e02d4b98d9f5a503e410c8";
    /// As above, for `c1:presence-room.1:1700000300:{"user_id":7,"user_info":{"name":"Ada"}}`.
    const PRESENCE: &str = "1700000300:ddb3199a708f614674256ca3f5d1dc3b1f2644ccf6c1d2bfadd5e9771a9d4887";

    fn secret() -> Secret {
        Secret::new(&Config::from(json!({ "secret": "a secret that both know" }))).unwrap()
    }

    fn code(result: Result<(), Failure>) -> String {
        match result {
            Err(Failure::Reject { code, .. }) => code,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_php_signs_is_let_in_until_it_ends() {
        let check = |now| secret().check(Some(PRIVATE), "c1", "private-orders.1", None, now);
        assert_eq!(check(1_700_000_300), Ok(()));
        assert_eq!(code(check(1_700_000_301)), "expired");
        assert_eq!(secret().check(Some(PRESENCE), "c1", "presence-room.1", Some(CHANNEL_DATA), 0), Ok(()));
    }

    #[test]
    fn anything_else_is_not() {
        let later = PRIVATE.replace("300:", "301:");
        let wrong = format!("{}9", &PRIVATE[..PRIVATE.len() - 1]);
        let long = format!("{PRIVATE}00");
        for auth in [None, Some(""), Some("1700000300"), Some("x:00"), Some(&later), Some(&wrong), Some(&long), Some(&PRIVATE[..30])] {
            assert_eq!(code(secret().check(auth, "c1", "private-orders.1", None, 0)), "bad_auth", "{auth:?}");
        }
        for (connection, channel, data) in
            [("c2", "private-orders.1", None), ("c1", "private-orders.2", None), ("c1", "private-orders.1", Some("{}"))]
        {
            assert_eq!(code(secret().check(Some(PRIVATE), connection, channel, data, 0)), "bad_auth");
        }
        let other = Secret::new(&Config::from(json!({ "secret": "a secret of somebody else" }))).unwrap();
        assert_eq!(code(other.check(Some(PRIVATE), "c1", "private-orders.1", None, 0)), "bad_auth");
        let none = Secret::new(&Config::default()).unwrap();
        assert_eq!(code(none.check(Some(PRIVATE), "c1", "private-orders.1", None, 0)), "no_secret");
    }

    #[test]
    fn a_secret_file_is_read_anew_and_mistakes_refuse_the_load() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        fs::write(&file, "a secret that both know\r\n").unwrap();
        let secret = Secret::new(&Config::from(json!({ "secret_file": file }))).unwrap();
        let check = || secret.check(Some(PRIVATE), "c1", "private-orders.1", None, 0);
        assert_eq!(check(), Ok(()));
        fs::write(&file, "quite another secret").unwrap();
        assert_eq!(code(check()), "bad_auth");
        fs::remove_file(&file).unwrap();
        assert!(matches!(check(), Err(Failure::Retry(error)) if error.contains("secret_file")));
        for (config, named) in [
            (json!({ "secret_file": file }), "secret_file"),
            (json!({ "secret": "short" }), "has 5 bytes"),
            (json!({ "secret": "a secret that both know", "secret_file": file }), "both"),
            (json!({ "secrte": "a secret that both know" }), "secrte"),
        ] {
            let error = Secret::new(&Config::from(config)).err().unwrap().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}

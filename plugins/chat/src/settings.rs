//! `[plugins.chat.config]`: every key with its default, strictly checked.

use std::time::Duration;

use plugsocket_plugin::prelude::*;
use serde::Deserialize;

/// Most messages a room's history may be told to keep; whoever joins is told the newest of it.
const HISTORY_MAX: u32 = 1000;

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Messages kept per room; 0 = none.
    pub history_limit: u32,
    /// Pause between two `heartbeat`s to everybody, as `500ms`, `10s`, `2m`; `0s` = never.
    pub heartbeat: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self { history_limit: 50, heartbeat: "10s".to_owned() }
    }
}

impl Settings {
    /// Reads and checks the table.
    pub fn read(config: &Config) -> Result<Self, ConfigError> {
        let settings: Self = config.parse()?;
        if settings.history_limit > HISTORY_MAX {
            return Err(ConfigError::new(format!("`history_limit` is {}, at most {HISTORY_MAX} are kept", settings.history_limit)));
        }
        settings.heartbeat()?;
        Ok(settings)
    }

    /// The pause between heartbeats; zero = never.
    pub fn heartbeat(&self) -> Result<Duration, ConfigError> {
        let text = self.heartbeat.trim();
        let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let millis = match unit {
            "ms" => Some(1),
            "s" => Some(1_000),
            "m" => Some(60_000),
            _ => None,
        };
        let pause = number.parse::<u64>().ok().zip(millis).and_then(|(number, millis)| number.checked_mul(millis));
        let wrong = || ConfigError::new(format!("`heartbeat` is `{text}`, say `500ms`, `10s` or `2m`"));
        pause.map(Duration::from_millis).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_what_the_documentation_says() {
        let settings = Settings::read(&Config::default()).unwrap();
        assert_eq!((settings.history_limit, settings.heartbeat()), (50, Ok(Duration::from_secs(10))));
    }

    #[test]
    fn mistakes_are_refused_by_name() {
        for (config, named) in [
            (json!({ "histroy_limit": 5 }), "histroy_limit"),
            (json!({ "history_limit": -1 }), "-1"),
            (json!({ "history_limit": 100_000 }), "history_limit"),
            (json!({ "heartbeat": "10" }), "heartbeat"),
            (json!({ "heartbeat": "soon" }), "heartbeat"),
            (json!({ "heartbeat": "99999999999999999999s" }), "heartbeat"),
        ] {
            let error = Settings::read(&Config::from(config)).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}

//! The plugin's own config table, `[plugins.<name>.config]`, as its constructors see it.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// The config table handed to every constructor of a plugin.
///
/// ```
/// use plugsocket_plugin::{Config, json};
///
/// #[derive(serde::Deserialize)]
/// #[serde(deny_unknown_fields, default)]
/// struct Settings { history_limit: u32 }
///
/// impl Default for Settings {
///     fn default() -> Self { Self { history_limit: 50 } }
/// }
///
/// let config = Config::from(json!({ "history_limt": 9 }));
/// let error = config.parse::<Settings>().err().unwrap();
/// assert!(error.to_string().contains("unknown field `history_limt`"));
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config(Map<String, Value>);

impl Config {
    /// The whole table as a serde type. `deny_unknown_fields` on it turns a mistyped key into a refused load.
    ///
    /// # Errors
    /// [`ConfigError`] in serde's words.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        T::deserialize(Value::Object(self.0.clone())).map_err(|error| ConfigError(error.to_string()))
    }

    /// One key as a serde type; `None` when it is absent.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key, when it is of another type.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, ConfigError> {
        let value = self.0.get(key).map(T::deserialize).transpose();
        value.map_err(|error| ConfigError(format!("`{key}`: {error}")))
    }
}

impl From<Map<String, Value>> for Config {
    fn from(table: Map<String, Value>) -> Self {
        Self(table)
    }
}

impl From<Value> for Config {
    /// The object's members; an empty table for anything else. Meant for tests.
    fn from(value: Value) -> Self {
        match value {
            Value::Object(table) => Self(table),
            _ => Self::default(),
        }
    }
}

/// A config table that a plugin can't work with. As a constructor's error it refuses the load with this text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(String);

impl ConfigError {
    /// An error in the author's words.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "config: {}", self.0)
    }
}

impl std::error::Error for ConfigError {}

//! How one version of a plugin follows another: `reload` and `[probation]`.

use std::time::Duration;

use serde::Deserialize;

/// What a changed library in the plugins folder does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reload {
    /// It is tried at once.
    Auto,
    /// It waits for `plugsocket plugins reload`.
    Manual,
    /// It waits for the next start.
    Off,
}

/// `[probation]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProbationSettings {
    /// It lasts at least so long …
    #[serde(with = "humantime_serde")]
    pub time: Duration,
    /// … and so many calls.
    pub calls: u64,
    /// Most of the calls that may fail, from 0 to 1; up to three times the share of the version before it are forgiven.
    pub errors_max: f64,
    /// The timeout that ends it.
    pub timeouts: u64,
}

impl Default for ProbationSettings {
    fn default() -> Self {
        Self { time: Duration::from_secs(60), calls: 200, errors_max: 0.05, timeouts: 3 }
    }
}

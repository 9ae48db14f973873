//! What the registry tells of its plugins and their versions, for health, operations output and the control socket.

use std::collections::BTreeMap;

use serde::Serialize;

/// Where a wanted plugin stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PluginState {
    /// A version takes calls.
    Live,
    /// None does: the file was refused, see the last rejection.
    Rejected,
    /// None does: there is no file.
    Missing,
    /// None does: no runner of its version comes up at present, see the version's last reason.
    Parked,
}

/// One wanted plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PluginStatus {
    /// Its name in the config.
    pub name: String,
    /// Where it stands.
    pub state: PluginState,
    /// sha256 of the live version.
    pub version: Option<String>,
    /// The live version's own version number.
    pub manifest_version: Option<String>,
    /// The actions that the live version exports.
    pub actions: Vec<String>,
    /// Since when it stands there, milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Actions that the config maps to it and it does not export, with the reason.
    pub refused_actions: BTreeMap<String, String>,
    /// What was refused last, if anything; forgotten when a later version goes live.
    pub last_rejection: Option<RejectionStatus>,
    /// A changed library that is not tried by itself (`reload`), and what to do about it.
    pub waiting: Option<String>,
    /// Its versions: the one that takes calls first, then the standby, then those that are leaving or were refused.
    pub versions: Vec<VersionStatus>,
}

/// A refused file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RejectionStatus {
    /// Its sha256; empty when it was not read.
    pub version: String,
    /// Why.
    pub reason: String,
    /// When, milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// Where one version stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VersionState {
    /// Copied from the plugins folder; only in the log.
    Staged,
    /// Tried in a process of its own; only in the log.
    Checked,
    /// Being loaded; only in the log.
    Starting,
    /// Takes calls and is watched; the last good version stands by, if there is one.
    Probation,
    /// Takes calls.
    Current,
    /// The last good version, kept while its successor is on probation, or taking its calls while a crash of that is looked into.
    Standby,
    /// Was replaced, and finishes the calls it has.
    Draining,
    /// Has ended; only in the log.
    Retired,
    /// Was refused before it took a call.
    Rejected,
    /// Failed its probation, or was taken back by hand: it is not tried again until it changes or is asked for.
    RolledBack,
    /// Crashed on probation: takes no calls while the message it crashed on is tried on the standby.
    Suspended,
    /// No runner of it comes up; tried again, ever more seldom.
    Parked,
}

impl VersionState {
    /// As it is written in logs and metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Staged => "staged",
            Self::Checked => "checked",
            Self::Starting => "starting",
            Self::Probation => "probation",
            Self::Current => "current",
            Self::Standby => "standby",
            Self::Draining => "draining",
            Self::Retired => "retired",
            Self::Rejected => "rejected",
            Self::RolledBack => "rolled_back",
            Self::Suspended => "suspended",
            Self::Parked => "parked",
        }
    }
}

/// One version of a plugin. The numbers are those of this process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VersionStatus {
    /// sha256 over its file and config table, in hex.
    pub version: String,
    /// sha256 of its file alone, as `sha256sum` prints it.
    pub sha256: String,
    /// Its own version number; empty when it was never brought up by this process.
    pub manifest_version: String,
    /// The version of `plugsocket-plugin` it was built with; empty as above.
    pub sdk: String,
    /// `process` or `in-process`.
    pub isolation: &'static str,
    /// Where it stands.
    pub state: VersionState,
    /// Since when it stands there, milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Calls that have ended.
    pub calls: u64,
    /// Those that failed: to be retried, panicked, crashed, or gone.
    pub errors: u64,
    /// Those that did not end in time.
    pub timeouts: u64,
    /// Crashes of it.
    pub crashes: u64,
    /// Calls at this moment.
    pub in_flight: u64,
    /// Why it stands there.
    pub last_reason: Option<String>,
}

/// Why something that was asked of the registry was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// `reload = "off"`.
    #[error("reload = \"off\": changed libraries wait for the next start; set reload = \"manual\" or \"auto\" in the config file")]
    ReloadOff,
    /// No such plugin.
    #[error("no plugin `{name}` is wanted here; wanted are: {}", wanted.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        wanted: Vec<String>,
    },
    /// There is no version to go back to.
    #[error("plugin `{0}` has no good version before the one it has: put an older build into the plugins folder instead")]
    NoGoodVersion(String),
    /// The version to go back to does not come up.
    #[error("plugin `{name}` stays as it is: its last good version {version} does not come up: {reason}")]
    DoesNotComeUp {
        /// The plugin.
        name: String,
        /// Its version.
        version: String,
        /// Why.
        reason: String,
    },
    /// Not the beginning of an id.
    #[error("`{0}` is no version: give at least 6 hex digits of its version or sha256 (`plugsocket plugins list` shows them)")]
    NotAnId(String),
    /// Nothing that was refused begins so.
    #[error("no version that was rejected or rolled back begins with {0}: see `plugsocket plugins list`")]
    NotRefused(String),
    /// Several begin so.
    #[error("several versions begin with {id}: {}; give more digits", versions.join(", "))]
    Ambiguous {
        /// What was asked for.
        id: String,
        /// What begins so.
        versions: Vec<String>,
    },
    /// The process is ending.
    #[error("this process is ending: ask again when it has started anew")]
    Closed,
}

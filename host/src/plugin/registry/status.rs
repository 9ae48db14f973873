//! What the registry tells of its plugins, for health and operations output.

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

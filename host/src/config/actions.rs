//! What is served by which plugin, and how: `[actions]` and `[plugins]`.

use std::time::Duration;

use serde::Deserialize;

/// One entry of `[actions]`: a plugin's name, or a table.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(from = "ActionEntry")]
pub struct ActionSettings {
    /// The plugin that serves it.
    pub plugin: String,
    /// Time limit of one call; `[worker] timeout` when absent.
    pub timeout: Option<Duration>,
    /// Attempts of one message; `[worker] attempts` when absent.
    pub attempts: Option<u32>,
    /// Calls of it that run at once in one worker; as many as there is room for when absent.
    pub concurrency: Option<usize>,
    /// Which of its messages wait for each other.
    pub ordering: Ordering,
}

impl ActionSettings {
    /// Served by `plugin`, with all defaults.
    pub fn of(plugin: impl Into<String>) -> Self {
        Self { plugin: plugin.into(), timeout: None, attempts: None, concurrency: None, ordering: Ordering::default() }
    }
}

/// Which messages of an action wait for those before them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ordering {
    /// Those of the same connection, whatever their action.
    #[default]
    Connection,
    /// None: they run as soon as there is room, beside everything else.
    None,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a plugin's name, or a table with `plugin` and optionally `timeout`, `attempts`, `concurrency` and `ordering`"
)]
enum ActionEntry {
    Name(String),
    Table(ActionTable),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ActionTable {
    plugin: String,
    #[serde(default, with = "humantime_serde")]
    timeout: Option<Duration>,
    #[serde(default)]
    attempts: Option<u32>,
    #[serde(default)]
    concurrency: Option<usize>,
    #[serde(default)]
    ordering: Ordering,
}

impl From<ActionEntry> for ActionSettings {
    fn from(entry: ActionEntry) -> Self {
        match entry {
            ActionEntry::Name(plugin) => Self::of(plugin),
            ActionEntry::Table(ActionTable { plugin, timeout, attempts, concurrency, ordering }) => {
                Self { plugin, timeout, attempts, concurrency, ordering }
            }
        }
    }
}

/// Where a plugin's code runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// In the host's own process: panics are contained, crashes are not.
    InProcess,
}

/// One table of `[plugins]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PluginSettings {
    /// Where its code runs.
    pub isolation: Isolation,
    /// Calls it runs at once.
    pub threads: usize,
    /// Calls that may wait for its threads.
    pub waiting_max: usize,
    /// Handed to its constructor.
    pub config: toml::Table,
}

impl Default for PluginSettings {
    fn default() -> Self {
        Self { isolation: Isolation::InProcess, threads: 8, waiting_max: 1024, config: toml::Table::new() }
    }
}

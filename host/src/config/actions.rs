//! What is served by which plugin, and how: `[actions]` and `[plugins]`.

use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;

/// One entry of `[actions]`: a plugin's name, or a table.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "ActionEntry")]
pub enum ActionSettings {
    /// Workers run it.
    Plugin(PluginAction),
    /// The PHP package's own `websocket:work` runs it.
    List(ListAction),
}

/// An action that a plugin serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginAction {
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

/// An action whose messages are pushed to a Redis list, from which PHP takes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListAction {
    /// The list, without `[php] prefix`.
    pub list: String,
    /// The PHP class that handles it.
    pub handle: String,
}

impl ActionSettings {
    /// Served by `plugin`, with all defaults.
    pub fn of(plugin: impl Into<String>) -> Self {
        let (timeout, attempts, concurrency) = (None, None, None);
        Self::Plugin(PluginAction { plugin: plugin.into(), timeout, attempts, concurrency, ordering: Ordering::default() })
    }

    /// The action, when a plugin serves it.
    #[must_use]
    pub fn plugin(&self) -> Option<&PluginAction> {
        match self {
            Self::Plugin(action) => Some(action),
            Self::List(_) => None,
        }
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
    expecting = "expected a plugin's name, or a table with `plugin` and optionally `timeout`, `attempts`, `concurrency` and `ordering`, \
                 or one with `list` and `handle`"
)]
enum ActionEntry {
    Name(String),
    Table(ActionTable),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ActionTable {
    #[serde(default)]
    plugin: Option<String>,
    #[serde(default)]
    list: Option<String>,
    #[serde(default)]
    handle: Option<String>,
    #[serde(default, with = "humantime_serde")]
    timeout: Option<Duration>,
    #[serde(default)]
    attempts: Option<u32>,
    #[serde(default)]
    concurrency: Option<usize>,
    #[serde(default)]
    ordering: Option<Ordering>,
}

impl TryFrom<ActionEntry> for ActionSettings {
    type Error = &'static str;

    fn try_from(entry: ActionEntry) -> Result<Self, Self::Error> {
        let table = match entry {
            ActionEntry::Name(plugin) => return Ok(Self::of(plugin)),
            ActionEntry::Table(table) => table,
        };
        let ActionTable { plugin, list, handle, timeout, attempts, concurrency, ordering } = table;
        let has_terms = timeout.is_some() || attempts.is_some() || concurrency.is_some() || ordering.is_some();
        match (plugin, list, handle) {
            (Some(plugin), None, None) => {
                Ok(Self::Plugin(PluginAction { plugin, timeout, attempts, concurrency, ordering: ordering.unwrap_or_default() }))
            }
            (None, Some(_), Some(_)) if has_terms => {
                Err("an action of a list has no `timeout`, `attempts`, `concurrency` or `ordering`: PHP's own worker runs it")
            }
            (None, Some(list), Some(handle)) => Ok(Self::List(ListAction { list, handle })),
            (None, Some(_), None) => Err("a `list` needs a `handle` too: the PHP class, such as \"\\\\Chat\\\\Actions\\\\ChatText\""),
            (None, None, Some(_)) => Err("a `handle` needs a `list` too, such as \"queues:chat_in\""),
            (Some(_), ..) => Err("has a `plugin` and a `list` or `handle`: it is served by one of them"),
            (None, None, None) => Err("needs a `plugin`, or a `list` and a `handle`"),
        }
    }
}

/// Where a plugin's code runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// In processes of its own, runners: a crash costs the call that crashed.
    Process,
    /// In the host's own process: panics are contained, crashes are not.
    InProcess,
}

/// One table of `[plugins]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PluginSettings {
    /// Where its code runs.
    pub isolation: Isolation,
    /// Runners at once, each with an instance of its own.
    pub runners: usize,
    /// Calls that one instance runs at once.
    pub threads: usize,
    /// Calls that may wait for an instance's threads.
    pub waiting_max: usize,
    /// Most memory that a runner may take; 0 = no limit.
    pub memory_max: ByteSize,
    /// A runner that has grown beyond this is replaced when its calls have ended; 0 = never.
    pub recycle_memory: ByteSize,
    /// A runner older than this is replaced when its calls have ended; zero = never.
    #[serde(with = "humantime_serde")]
    pub recycle_age: Duration,
    /// How long the other calls may go on in a runner that is ended because of a call past its time limit.
    #[serde(with = "humantime_serde")]
    pub timeout_grace: Duration,
    /// How long the calls of a version that is being replaced may go on.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
    /// Handed to its constructor.
    pub config: toml::Table,
}

impl Default for PluginSettings {
    fn default() -> Self {
        Self {
            isolation: Isolation::Process,
            runners: 1,
            threads: 8,
            waiting_max: 1024,
            memory_max: ByteSize::gib(1),
            recycle_memory: ByteSize::b(0),
            recycle_age: Duration::ZERO,
            timeout_grace: Duration::from_secs(1),
            drain_timeout: Duration::from_secs(60),
            config: toml::Table::new(),
        }
    }
}

impl PluginSettings {
    /// Calls of it that run at once.
    #[must_use]
    pub fn calls_max(&self) -> usize {
        match self.isolation {
            Isolation::Process => self.threads.saturating_mul(self.runners),
            Isolation::InProcess => self.threads,
        }
    }
}

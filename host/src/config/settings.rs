//! Every key of the config file, with its default. The shipped `config/plugsocket.toml` says the same; a test compares them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer};

use super::actions::{ActionSettings, ListAction, PluginAction, PluginSettings};
use super::limits::Limits;
use super::server::{ServerSettings, parse_address};
use super::versions::{ProbationSettings, Reload};

/// The whole file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Name of the application in every queue key; `[A-Za-z0-9_-]{1,64}`.
    pub app: String,
    /// `redis://…`, `rediss://…`, `unix://…`, or `memory` for `plugsocket dev`.
    pub queue: String,
    /// Where plugins are dropped; relative to the config file's folder.
    pub plugins_dir: PathBuf,
    /// Where staged copies and other state are kept; relative to the config file's folder.
    pub state_dir: PathBuf,
    /// What a changed library does.
    pub reload: Reload,
    /// When this file exists, only the libraries it lists are loaded; relative to the config file's folder.
    pub plugins_lock: PathBuf,
    /// Libraries loaded into this process itself and replaced since: at this number it drains and starts anew, because none can be unloaded.
    pub retired_max: u64,
    /// Threads that serve sockets and the queue, beside those that plugins run on. One costs least CPU for each message.
    pub threads: usize,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter like `info,plugsocket::server=debug`.
    pub log_level: String,
    /// The server.
    pub server: ServerSettings,
    /// The worker.
    pub worker: WorkerSettings,
    /// The ops listener.
    pub ops: OpsSettings,
    /// The queue's own limits and times.
    pub queue_options: QueueSettings,
    /// Limits for clients.
    pub limits: Limits,
    /// The PHP package's lists.
    pub php: PhpSettings,
    /// What a new version must show before the one it replaced is let go.
    pub probation: ProbationSettings,
    /// Action name → what serves it.
    pub actions: BTreeMap<String, ActionSettings>,
    /// The host's settings for each plugin, by name.
    pub plugins: BTreeMap<String, PluginSettings>,
}

impl Settings {
    /// The action, when a plugin serves it.
    #[must_use]
    pub fn plugin_action(&self, name: &str) -> Option<&PluginAction> {
        self.actions.get(name).and_then(ActionSettings::plugin)
    }

    /// All actions that plugins serve, by name.
    pub fn plugin_actions(&self) -> impl Iterator<Item = (&String, &PluginAction)> {
        self.actions.iter().filter_map(|(name, action)| Some((name, action.plugin()?)))
    }

    /// All actions that PHP serves from a list, by name.
    pub fn list_actions(&self) -> impl Iterator<Item = (&String, &ListAction)> {
        self.actions.iter().filter_map(|(name, action)| match action {
            ActionSettings::List(action) => Some((name, action)),
            ActionSettings::Plugin(_) => None,
        })
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            app: "plugsocket".to_owned(),
            queue: "redis://127.0.0.1:6379".to_owned(),
            plugins_dir: "../plugins".into(),
            state_dir: "../var".into(),
            reload: Reload::Auto,
            plugins_lock: "plugins.lock".into(),
            retired_max: 200,
            threads: 1,
            log_level: "info".to_owned(),
            server: ServerSettings::default(),
            worker: WorkerSettings::default(),
            ops: OpsSettings::default(),
            queue_options: QueueSettings::default(),
            limits: Limits::default(),
            php: PhpSettings::default(),
            probation: ProbationSettings::default(),
            actions: BTreeMap::new(),
            plugins: BTreeMap::new(),
        }
    }
}

/// `[worker]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerSettings {
    /// Messages handled at once.
    pub slots: usize,
    /// Messages taken ahead of the slots.
    pub prefetch: usize,
    /// Further messages held that can't run yet: their lane is busy, or their plugin or action has all it may run.
    pub waiting_max: usize,
    /// Default time limit of one call.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Default attempts of one message.
    pub attempts: u32,
    /// Pause before the second attempt; doubled for each further one.
    #[serde(with = "humantime_serde")]
    pub retry_backoff: Duration,
    /// A longer pause than this is not waited for in the lane: the message goes to the end of the queue's line for later.
    #[serde(with = "humantime_serde")]
    pub retry_in_lane_max: Duration,
    /// How long a message waits for a worker that serves its action.
    #[serde(with = "humantime_serde")]
    pub unserved_timeout: Duration,
    /// How long SIGTERM waits for running calls.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            slots: 64,
            prefetch: 256,
            waiting_max: 4096,
            timeout: Duration::from_secs(30),
            attempts: 3,
            retry_backoff: Duration::from_millis(100),
            retry_in_lane_max: Duration::from_secs(5),
            unserved_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(30),
        }
    }
}

impl WorkerSettings {
    /// Most messages a worker holds at once.
    #[must_use]
    pub fn held_max(&self) -> usize {
        self.slots.max(1).saturating_add(self.prefetch).saturating_add(self.waiting_max)
    }
}

/// `[ops]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OpsSettings {
    /// Address of the server's health, metrics and HTTP API; empty = none.
    #[serde(deserialize_with = "optional_address")]
    pub listen: Option<SocketAddr>,
    /// The same for a worker; empty = none.
    #[serde(deserialize_with = "optional_address")]
    pub worker_listen: Option<SocketAddr>,
    /// Bearer token; required when `listen` is not a loopback address.
    pub token: Option<String>,
    /// Largest request body.
    pub body_max: ByteSize,
}

impl Default for OpsSettings {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 8001))),
            worker_listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 8002))),
            token: None,
            body_max: ByteSize::mib(1),
        }
    }
}

fn optional_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() { Ok(None) } else { parse_address(&text).map(Some).map_err(serde::de::Error::custom) }
}

/// `[queue_options]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QueueSettings {
    /// Partitions of the incoming queue; fixed when the app first starts on a Redis.
    pub partitions: u32,
    /// Most jobs queued in the app.
    pub jobs_max: usize,
    /// Most jobs and deliveries waiting for the next write.
    pub batcher_items_max: usize,
    /// How long an unconfirmed write is tried again.
    #[serde(with = "humantime_serde")]
    pub confirm_timeout: Duration,
    /// After this long without renewal a worker's partitions, and a server's `disconnect` calls, pass to others.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// Dead letters kept per partition.
    pub dead_max: usize,
    /// How long dead letters are kept.
    #[serde(with = "humantime_serde")]
    pub dead_age_max: Duration,
    /// Default time to live of the plugins' stored values; "0s" = for ever.
    #[serde(with = "humantime_serde")]
    pub store_ttl: Duration,
    /// For `rediss://`: who signed the server's certificate (PEM); relative to the config file's folder.
    pub tls_ca_file: Option<PathBuf>,
    /// For `rediss://`: our own certificate (PEM), with its key.
    pub tls_cert_file: Option<PathBuf>,
    /// The key of `tls_cert_file` (PEM).
    pub tls_key_file: Option<PathBuf>,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            partitions: 32,
            jobs_max: 1_000_000,
            batcher_items_max: 16_384,
            confirm_timeout: Duration::from_secs(10),
            lease: Duration::from_secs(5),
            dead_max: 10_000,
            dead_age_max: Duration::from_secs(30 * 24 * 3600),
            store_ttl: Duration::from_secs(30 * 24 * 3600),
            tls_ca_file: None,
            tls_cert_file: None,
            tls_key_file: None,
        }
    }
}

/// `[php]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PhpSettings {
    /// Lists that PHP pushes to; empty = `queues:<app>_out` and `queues:{<app>_out}`.
    pub lists: Vec<String>,
    /// Put before the name of every list: what PHP's client puts there by itself, Laravel's `REDIS_PREFIX`.
    pub prefix: String,
    /// Longest list item.
    pub item_max: ByteSize,
    /// Most messages waiting in a list of `[actions]`; beyond them clients are told `busy`.
    pub waiting_max: usize,
}

impl PhpSettings {
    /// The lists that are served, without the prefix.
    #[must_use]
    pub fn out_lists(&self, app: &str) -> Vec<String> {
        if self.lists.is_empty() { vec![format!("queues:{app}_out"), format!("queues:{{{app}_out}}")] } else { self.lists.clone() }
    }
}

impl Default for PhpSettings {
    fn default() -> Self {
        Self { lists: Vec::new(), prefix: String::new(), item_max: ByteSize::mib(1), waiting_max: 100_000 }
    }
}

//! The usual arrangement: servers and workers of one app on one Redis, with the chat plugin.

use super::config::Config;
use super::plugin;
use super::process::Process;
use super::redis::Redis;
use super::{START_PATIENCE, eventually, http};

/// The default of `queue_options.partitions`.
pub const PARTITIONS: usize = 32;

/// Everything a test of several processes needs; ends with it.
pub struct App {
    /// Its servers.
    pub servers: Vec<Process>,
    /// Its workers.
    pub workers: Vec<Process>,
    /// The config file all of them read.
    pub config: Config,
    /// Their Redis; dropped last, so that the processes end before it.
    pub redis: Redis,
}

impl App {
    /// Starts `servers` and `workers` and waits until they are ready.
    pub fn start(servers: usize, workers: usize) -> Self {
        Self::start_with(servers, workers, |config| config)
    }

    /// As [`Self::start`], with other settings.
    pub fn start_with(servers: usize, workers: usize, change: impl FnOnce(Config) -> Config) -> Self {
        Self::start_on(Redis::start(), servers, workers, change)
    }

    /// As [`Self::start_with`], on this Redis.
    pub fn start_on(redis: Redis, servers: usize, workers: usize, change: impl FnOnce(Config) -> Config) -> Self {
        let config = change(Config::chat(&redis.url()).with("log_level", "info"));
        plugin::install(&plugin::chat(), &config.plugins_dir(), "chat");
        let servers: Vec<_> = (0..servers).map(|_| Process::server(&config)).collect();
        let workers: Vec<_> = (0..workers).map(|_| Process::worker(&config)).collect();
        for server in &servers {
            server.ws_url();
        }
        for worker in &workers {
            worker.wait_worker_ready();
        }
        Self { servers, workers, config, redis }
    }

    /// The servers' addresses for clients.
    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(Process::ws_url).collect()
    }

    /// Waits until every worker has its share of the partitions.
    pub async fn wait_balanced(&self) {
        let share = PARTITIONS / self.workers.len();
        let has_share = |worker: &Process| metric(worker, "plugsocket_worker_partitions") == share.to_string();
        eventually("each worker's share of the partitions", START_PATIENCE, async || self.workers.iter().all(has_share)).await;
    }
}

/// The present value of a metric of a process; empty when it has none.
pub fn metric(process: &Process, name: &str) -> String {
    let text = http::get(&format!("{}metrics", process.ops_url())).body;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_default().to_owned()
}

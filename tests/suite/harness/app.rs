//! The usual arrangement: one Redis, the chat plugin, servers and workers of one app.

use super::config::Config;
use super::plugin;
use super::process::Process;
use super::redis::Redis;

/// One app. Fields are dropped in their order: the processes end before their Redis.
pub struct App {
    /// Its servers; the first is there from the start.
    pub servers: Vec<Process>,
    /// Its workers; the first is there from the start.
    pub workers: Vec<Process>,
    /// The config file all of them read.
    pub config: Config,
    /// Their Redis.
    pub redis: Redis,
}

impl App {
    /// One server, one worker, the chat plugin; both are ready.
    pub fn start() -> Self {
        Self::start_with(|config| config)
    }

    /// As [`Self::start`], with changes to the config before anything reads it.
    pub fn start_with(change: impl FnOnce(Config) -> Config) -> Self {
        let redis = Redis::start();
        let config = change(Config::chat(&redis.url()));
        plugin::install(&plugin::chat(), &config.plugins_dir(), "chat");
        let mut app = Self { servers: Vec::new(), workers: Vec::new(), config, redis };
        // Started together, waited for afterwards: half the time on a slow machine.
        app.servers.push(Process::server(&app.config));
        app.workers.push(Process::worker(&app.config));
        app.url();
        app.workers[0].wait_worker_ready();
        app
    }

    /// The socket's address of the first server.
    pub fn url(&self) -> String {
        self.servers[0].ws_url()
    }

    /// Starts another server and gives back its socket's address.
    pub fn add_server(&mut self) -> String {
        self.servers.push(Process::server(&self.config));
        self.servers[self.servers.len() - 1].ws_url()
    }

    /// Starts another worker and waits until it is ready.
    pub fn add_worker(&mut self) -> &mut Process {
        self.workers.push(Process::worker(&self.config));
        let last = self.workers.len() - 1;
        self.workers[last].wait_worker_ready();
        &mut self.workers[last]
    }
}

//! A server with somebody on it who must not notice what others send.

use serde_json::json;

use super::app::App;
use super::client::Client;
use super::config::Config;
use super::{PATIENCE, eventually, procfs};

/// What the server may keep after something bad, beyond what it had before.
const GROWTH_MAX_KIB: u64 = 32 * 1024;

/// One server and worker, and a client that entered before anything happened.
pub struct Calm {
    /// The server and its worker.
    pub app: App,
    bystander: Client,
    before_kib: u64,
    /// The server's address.
    pub url: String,
}

impl Calm {
    /// Starts them.
    pub async fn start(change: impl FnOnce(Config) -> Config) -> Self {
        let app = App::start_with(1, 1, change);
        let url = app.urls().remove(0);
        let mut bystander = Client::enter(&url, "bystander").await;
        bystander.request("echo", json!(0)).await;
        let before_kib = procfs::resident_kib(app.servers[0].pid());
        Self { app, bystander, before_kib, url }
    }

    /// The server's CPU time so far, in microseconds.
    pub fn cpu_us(&self) -> u64 {
        procfs::cpu_us(self.app.servers[0].pid())
    }

    /// The bystander is served, a newcomer too, and memory is back.
    ///
    /// # Panics
    /// When that is not so; `what` says after what.
    pub async fn check(&mut self, what: &str) {
        self.check_within(what, GROWTH_MAX_KIB).await;
    }

    /// As [`Self::check`], while the server has reason to hold up to `growth_max_kib` more than before.
    ///
    /// # Panics
    /// As [`Self::check`].
    pub async fn check_within(&mut self, what: &str, growth_max_kib: u64) {
        assert_eq!(self.bystander.request("echo", json!(what)).await["echo"], what);
        let mut newcomer = Client::enter(&self.url, "newcomer").await;
        assert_eq!(newcomer.request("echo", json!(what)).await["echo"], what);
        newcomer.close().await;
        let pid = self.app.servers[0].pid();
        let growth_kib = || procfs::resident_kib(pid).saturating_sub(self.before_kib);
        println!("{what}: {} KiB more than before", growth_kib());
        eventually(&format!("the server's memory after {what}"), PATIENCE, async || growth_kib() < growth_max_kib).await;
    }
}

//! Promise: whatever a plugin's code does costs a call, and never a connection, a process of ours or another's message.

mod actions;
mod chains;
mod constructors;
mod ends;
mod files;
mod handler;
mod hung;
mod load;
mod versions;

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::app::App;
use crate::harness::client::Client;
use crate::harness::config::Config;
use crate::harness::process::Process;
use crate::harness::{eventually, plugin, procfs};

const SOURCE: &str = include_str!("villain.rs.txt");
const PLUGIN: &str = "villain";
const PATIENCE: Duration = Duration::from_secs(60);
/// Partitions of these apps: few, as all of them are searched for dead letters.
const PARTITIONS: u32 = 2;
/// Messages that run beside the one that is up to something.
const NEIGHBOURS: usize = 3;
/// How long these take, and when the other one shows what it is; in milliseconds.
const NEIGHBOUR_MS: u64 = 400;
const DELAY_MS: u64 = 150;

/// One server and one worker with the villain installed, which serves `act` and `act_briefly`.
fn app(change: impl FnOnce(Config) -> Config) -> App {
    app_of(1, 1, change)
}

fn app_of(servers: usize, workers: usize, change: impl FnOnce(Config) -> Config) -> App {
    let library = plugin::from_source(PLUGIN, SOURCE);
    App::start_with(servers, workers, |config| {
        plugin::install_bytes(&library, &config.plugins_dir(), PLUGIN);
        let mut brief = toml::Table::new();
        brief.insert("plugin".into(), PLUGIN.into());
        brief.insert("timeout".into(), "500ms".into());
        let config = config
            .with("queue_options.partitions", i64::from(PARTITIONS))
            .with("worker.retry_backoff", "10ms")
            .with("plugins.villain.timeout_grace", "300ms")
            .with("actions.act", PLUGIN)
            .with("actions.act_briefly", brief);
        change(config)
    })
}

/// Ends a process at once.
pub fn kill(pid: u32) {
    let status = Command::new("sh").args(["-c", "kill -9 \"$1\"", "sh", &pid.to_string()]).status().unwrap();
    assert!(status.success(), "can't kill {pid}");
}

/// Connects, registers, and has all the time that processes take to start again on a busy machine.
async fn enter(url: &str, nickname: &str) -> (Client, String) {
    let mut client = Client::connect(url).await;
    client.set_patience(PATIENCE);
    let id = client.register(json!({ "nickname": nickname })).await["connection_id"].as_str().unwrap().to_owned();
    (client, id)
}

/// Those whose messages are in the villain's hands when it happens.
struct Neighbours {
    clients: Vec<Client>,
    asked: Vec<Value>,
}

impl Neighbours {
    async fn enter(url: &str) -> Self {
        let mut clients = Vec::new();
        for number in 0..NEIGHBOURS {
            clients.push(enter(url, &format!("neighbour {number}")).await.0);
        }
        Self { clients, asked: Vec::new() }
    }

    /// One message each, which runs for [`NEIGHBOUR_MS`].
    async fn ask(&mut self, action: &str) {
        self.asked.clear();
        for client in &mut self.clients {
            self.asked.push(client.send_request(action, json!({ "milliseconds": NEIGHBOUR_MS })).await);
        }
    }

    /// All of them are answered, and none of them has failed before.
    async fn answered(&mut self, after: &str) {
        for (client, asked) in self.clients.iter_mut().zip(&self.asked) {
            let answer = client.answer(asked).await;
            assert_eq!(answer.as_ref().map(|answer| &answer["attempt"]), Ok(&json!(1)), "a neighbour after {after}: {answer:?}");
            assert_eq!(client.closed(), None, "a neighbour after {after}");
        }
    }
}

/// Reasons of the dead letters.
fn dead(app: &App) -> Vec<String> {
    let mut reasons = Vec::new();
    for partition in 0..PARTITIONS {
        let key = format!("ps:{{plugsocket:p{partition}}}:dead");
        let letters: Value = serde_json::from_str(&app.redis.cli(&["--json", "XRANGE", &key, "-", "+"])).unwrap();
        reasons.extend(letters.as_array().unwrap().iter().map(|letter| letter[1].to_string()));
    }
    reasons
}

/// What a host says when one of its runners has ended: the lines after `mark`.
fn obituaries(host: &Process, mark: usize) -> Vec<String> {
    host.lines().into_iter().skip(mark).filter(|line| line.contains("runner ended") && line.contains(PLUGIN)).collect()
}

/// As [`obituaries`], once there are at least `count`: a client is told of a timeout before the runner has ended.
async fn obituaries_of(host: &Process, mark: usize, count: usize) -> Vec<String> {
    eventually(&format!("{count} ends of runners"), PATIENCE, async || obituaries(host, mark).len() >= count).await;
    obituaries(host, mark)
}

/// Waits until a host has as many runners of the villain as it should, and no dead child that it has not noticed.
async fn settled(host: &Process, runners: usize) {
    let what = format!("{runners} runners of the villain and nothing dead under {}", host.pid());
    let is_settled = async || {
        let children = procfs::children(host.pid());
        procfs::runners(host.pid(), PLUGIN).len() == runners && children.into_iter().all(procfs::is_running)
    };
    eventually(&what, PATIENCE, is_settled).await;
}

/// The signal, or whatever else is one of these, that a text names.
fn names_one_of(text: &str, ends: &[&str]) -> bool {
    ends.is_empty() || ends.iter().any(|end| text.contains(end))
}

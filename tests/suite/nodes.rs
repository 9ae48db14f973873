//! Promise: every registered connection gets its `disconnect`, also when its server dies, freezes, or Redis stalls.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;

use crate::harness::app::App;
use crate::harness::client::Client;
use crate::harness::process::Process;
use crate::harness::{PATIENCE, START_PATIENCE, eventually, http, plugin};

const SOURCE: &str = include_str!("nodes/plugin.rs.txt");
const CROWD: usize = 1_000;
const CONNECTS_AT_ONCE: usize = 50;
const LEASE: Duration = Duration::from_secs(2);
/// A lease is renewed six times.
const PROMISED: Duration = Duration::from_millis(2_000 + 334);
/// What a machine that builds and tests other things meanwhile may add.
const SLACK: Duration = Duration::from_secs(5);
/// After a start or an outage servers wait so long before they take others for dead, when the lease is shorter.
const RETURN_TIME: Duration = Duration::from_secs(3);

fn app(servers: usize) -> App {
    let library = plugin::from_source("tally", SOURCE);
    App::start_with(servers, 0, |config| {
        plugin::install_bytes(&library, &config.plugins_dir(), "tally");
        let config = config.with("server.handler", "tally").with("queue_options.lease", "2s").with("server.drain_timeout", "2s");
        config.with("limits.connections_per_ip_max", 2 * CROWD as i64)
    })
}

/// Registered clients, by their connection ids.
async fn crowd(url: &str, count: usize) -> BTreeMap<String, Client> {
    let (mut clients, mut entering, mut started) = (BTreeMap::new(), JoinSet::new(), 0);
    while clients.len() < count {
        while started < count && entering.len() < CONNECTS_AT_ONCE {
            let url = url.to_owned();
            entering.spawn(async move {
                let mut client = Client::connect(&url).await;
                client.set_patience(START_PATIENCE);
                let id = client.register(json!("name")).await["connection_id"].as_str().unwrap().to_owned();
                (id, client)
            });
            started += 1;
        }
        let (id, client) = entering.join_next().await.unwrap().unwrap();
        clients.insert(id, client);
    }
    clients
}

/// What the handler was told: connection id, reason.
fn told(app: &App) -> Vec<(String, String)> {
    let lines = app.redis.cli(&["LRANGE", "ps:{plugsocket:s:tally:told}", "0", "-1"]);
    let mut told = Vec::new();
    for line in lines.lines().filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split(' ').collect();
        assert_eq!(words[2..], ["name", "true"], "the identity comes back as it was granted: {line}");
        told.push((words[0].to_owned(), words[1].to_owned()));
    }
    told.sort();
    told
}

fn told_count(app: &App) -> usize {
    app.redis.cli(&["LLEN", "ps:{plugsocket:s:tally:told}"]).parse().unwrap()
}

fn expected(clients: &BTreeMap<String, Client>, reason: &str) -> Vec<(String, String)> {
    clients.keys().map(|id| (id.clone(), reason.to_owned())).collect()
}

/// Waits until a dead node is done with: nothing is called for it after that.
async fn cleaned(app: &App, node: &str) {
    let gone = format!("ps:{{plugsocket:n:{node}}}:gone");
    eventually("the dead node is done with", PATIENCE + SLACK, async || app.redis.cli(&["EXISTS", &gone]) == "1").await;
    assert_eq!(app.redis.cli(&["EXISTS", &format!("ps:{{plugsocket:n:{node}}}:roster"), "ps:{plugsocket}:cleaners"]), "0");
}

fn node_of(clients: &BTreeMap<String, Client>) -> String {
    clients.keys().next().unwrap().split('.').next().unwrap().to_owned()
}

/// A signal is delivered before it is obeyed.
fn is_frozen(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let stands = |thread: std::io::Result<std::fs::DirEntry>| {
        let facts = std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap_or_default();
        facts.rsplit(") ").next().is_some_and(|state| state.starts_with('T'))
    };
    threads.into_iter().all(stands)
}

#[tokio::test]
async fn a_killed_servers_connections_get_their_disconnect_from_another() {
    let mut app = app(2);
    let urls = app.urls();
    let bystanders = crowd(&urls[1], 5).await;
    let clients = crowd(&urls[0], CROWD).await;
    // The survivor has been there for long enough to know who is dead.
    tokio::time::sleep(RETURN_TIME).await;
    app.servers[0].kill();
    let killed = Instant::now();
    eventually("every disconnect", PROMISED + SLACK, async || told_count(&app) >= CROWD).await;
    let took = killed.elapsed();
    cleaned(&app, &node_of(&clients)).await;
    println!("{CROWD} connections of a killed server had their disconnect after {took:?} (promised {PROMISED:?})");
    assert_eq!(told(&app), expected(&clients, "node_lost"), "each once");
    assert_eq!(app.redis.cli(&["SMEMBERS", "ps:{plugsocket:g:all}:nodes"]), node_of(&bystanders), "the routes to it are gone");
}

#[tokio::test]
async fn the_next_server_to_start_calls_what_the_only_one_left() {
    let mut app = app(1);
    let clients = crowd(&app.urls()[0], CROWD).await;
    app.servers[0].kill();
    let killed = Instant::now();
    app.servers[0] = Process::server(&app.config);
    app.servers[0].ws_url();
    let started = Instant::now();
    eventually("every disconnect", RETURN_TIME + PROMISED + SLACK, async || told_count(&app) >= CROWD).await;
    let (after_kill, after_start) = (killed.elapsed(), started.elapsed());
    cleaned(&app, &node_of(&clients)).await;
    println!(
        "{CROWD} connections of the only server, killed: disconnect {after_start:?} after its next start, {after_kill:?} after the kill"
    );
    assert_eq!(told(&app), expected(&clients, "node_lost"), "each once");
}

#[tokio::test]
async fn a_server_that_was_frozen_past_its_lease_comes_back_as_another_node() {
    let app = app(2);
    let urls = app.urls();
    let bystanders = crowd(&urls[1], 5).await;
    let mut clients = crowd(&urls[0], 30).await;
    let (owed, node) = (expected(&clients, "node_lost"), node_of(&clients));
    tokio::time::sleep(RETURN_TIME).await;
    app.servers[0].signal("STOP");
    eventually("all its threads stand still", PATIENCE, async || is_frozen(app.servers[0].pid())).await;
    for _ in 0..10 {
        clients.pop_first(); // Its server learns of that when it wakes up, and must not tell the handler.
    }
    cleaned(&app, &node).await;
    assert_eq!(told(&app), owed);
    app.servers[0].signal("CONT");
    for client in clients.values_mut() {
        assert_eq!(client.wait_closed().await.code, 4104);
    }
    let ready = format!("{}readyz", app.servers[0].ops_url());
    eventually("it serves again", PATIENCE, async || http::get(&ready).status == 200).await;
    let newcomers = crowd(&urls[0], 5).await;
    assert!(node_of(&newcomers) != node && node_of(&newcomers) != node_of(&bystanders));
    let mut all = [owed, expected(&newcomers, "client")].concat();
    all.sort();
    drop(newcomers);
    eventually("the newcomers' disconnects", PATIENCE, async || told_count(&app) >= all.len()).await;
    assert_eq!(told(&app), all, "each once");
}

#[tokio::test]
async fn a_stall_of_redis_costs_nobody_the_connection() {
    let app = app(2);
    let urls = app.urls();
    let mut crowds = [crowd(&urls[0], 20).await, crowd(&urls[1], 20).await];
    tokio::time::sleep(RETURN_TIME).await;
    app.redis.freeze();
    tokio::time::sleep(LEASE).await;
    let leaving = crowds[0].pop_first().unwrap();
    drop(leaving.1);
    tokio::time::sleep(LEASE).await;
    app.redis.thaw();
    let left = vec![(leaving.0, "client".to_owned())];
    eventually("the disconnect that had to wait", PATIENCE, async || told_count(&app) == 1).await;
    // Longer than anybody would need to take somebody for dead.
    tokio::time::sleep(RETURN_TIME + LEASE).await;
    assert_eq!(told(&app), left);
    assert_eq!(app.redis.cli(&["EXISTS", "ps:{plugsocket}:cleaners"]), "0");
    for client in crowds.iter_mut().flat_map(BTreeMap::values_mut) {
        client.request("ping", json!(null)).await;
    }
    assert_eq!(app.redis.cli(&["ZCARD", "ps:{plugsocket}:nodes"]), "2", "the same nodes");
    for clients in &crowds {
        let roster = format!("ps:{{plugsocket:n:{}}}:roster", node_of(clients));
        assert_eq!(app.redis.cli(&["HLEN", &roster]), clients.len().to_string());
    }
}

#[tokio::test]
async fn a_drain_without_redis_leaves_the_disconnects_to_others() {
    let mut app = app(2);
    let urls = app.urls();
    let mut clients = crowd(&urls[0], 20).await;
    let _bystanders = crowd(&urls[1], 1).await;
    app.redis.freeze();
    tokio::time::sleep(LEASE).await;
    app.servers[0].signal("TERM");
    for client in clients.values_mut() {
        assert_eq!(client.wait_closed().await.code, 4104);
    }
    app.servers[0].wait_exit(PATIENCE + SLACK);
    app.redis.thaw();
    cleaned(&app, &node_of(&clients)).await;
    assert_eq!(told(&app), expected(&clients, "node_lost"), "each once");
}

//! Promise: a message that ends its worker, as it can in-process, is set aside, and takes no other with it.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::app::App;
use crate::harness::client::Client;
use crate::harness::eventually;
use crate::harness::plugin;
use crate::harness::process::Process;

const SOURCE: &str = include_str!("poison/plugin.rs.txt");
const INNOCENTS: usize = 100;
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_poisonous_message_takes_no_innocent_with_it() {
    let library = plugin::from_source("poison", SOURCE);
    let mut app = App::start_with(1, 0, |config| {
        let config = config.with("queue_options.partitions", 1).with("queue_options.lease", "1s").with("limits.unanswered_max", 200);
        plugin::install_bytes(&library, &config.plugins_dir(), "poison");
        config.with("actions.work", "poison").with("plugins.poison.isolation", "in-process")
    });
    let url = app.urls().remove(0);
    let mut innocents = [Client::enter(&url, "one").await, Client::enter(&url, "two").await];
    let mut villain = Client::enter(&url, "villain").await;
    let mut asked = Vec::new();
    for number in 0..INNOCENTS {
        if number == INNOCENTS / 2 {
            asked.push((2, villain.send_request("work", json!({"abort": true})).await));
        }
        asked.push((number % 2, innocents[number % 2].send_request("work", json!({"n": number})).await));
    }
    let stored = async || app.redis.cli(&["XLEN", "ps:{plugsocket:p0}:in"]) == asked.len().to_string();
    eventually("all messages in the queue", PATIENCE, stored).await;
    let started = Instant::now();
    let mut deaths = 0;
    app.workers.push(Process::worker(&app.config));
    // A supervisor, as a process manager would be.
    while app.redis.cli(&["XLEN", "ps:{plugsocket:p0}:in"]) != "0" {
        assert!(started.elapsed() < PATIENCE, "the queue does not empty");
        if !app.workers[0].is_running() {
            deaths += 1;
            app.workers[0] = Process::worker(&app.config);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("a poison among {INNOCENTS}: {deaths} workers died of it, queue empty after {:?}", started.elapsed());
    assert_eq!(deaths, 5, "twice among the others, three times alone");
    for (client, id) in &asked {
        match client {
            2 => assert_eq!(villain.answer(id).await.unwrap_err()["code"], "failed"),
            innocent => assert!(innocents[*innocent].answer(id).await.unwrap()["attempt"].is_number()),
        }
    }
    let dead = app.redis.cli(&["XRANGE", "ps:{plugsocket:p0}:dead", "-", "+"]);
    assert_eq!(app.redis.cli(&["XLEN", "ps:{plugsocket:p0}:dead"]), "1", "{dead}");
    assert!(dead.contains("ended 3 times while this message ran alone") && dead.contains("abort"), "{dead}");
    assert_eq!(app.redis.cli(&["EXISTS", "ps:{plugsocket:p0}:suspects"]), "0");
}

//! Promise: a client that does not read costs the others nothing and the server a bounded amount of memory.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::app::metric;
use crate::harness::client::Client;
use crate::harness::config::Config;
use crate::harness::process::Process;
use crate::harness::{PATIENCE, eventually, http, plugin};

/// Long enough that a few dozen are more than the kernel's own buffers take.
const LONG_BYTES: usize = 500_000;

fn dev(change: impl FnOnce(Config) -> Config) -> (Process, Config) {
    let config = change(Config::chat("memory").with("log_level", "info"));
    plugin::install(&plugin::chat(), &config.plugins_dir(), "chat");
    (Process::dev(&config), config)
}

fn send(process: &Process, to: &Value, data: &Value) {
    let body = json!({"to": to, "action": "news", "data": data});
    assert_eq!(http::post_json(&format!("{}v1/send", process.ops_url()), &body, &[]).status, 202);
}

/// Sends one client so many long frames.
fn flood(process: &Process, user: &str, frames: usize) {
    let data = json!("x".repeat(LONG_BYTES));
    for _ in 0..frames {
        send(process, &json!({"user_id": user}), &data);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broadcast_to_a_hundred_reaches_all_but_the_one_that_does_not_read() {
    const NEWS: usize = 50;
    let (dev, _config) = dev(|config| config);
    let (url, ops) = (dev.ws_url(), dev.ops_url());
    let stuck = Client::enter(&url, "stuck").await;
    let mut readers = Vec::new();
    for index in 0..99 {
        let mut client = Client::enter(&url, &format!("reader{index}")).await;
        client.set_patience(Duration::from_secs(60));
        readers.push(tokio::spawn(async move {
            for number in 0..NEWS {
                assert_eq!(client.next_action("news").await["number"], number, "in order, none missing");
            }
        }));
    }
    let dev = std::sync::Arc::new(dev);
    let sender = std::sync::Arc::clone(&dev);
    tokio::task::spawn_blocking(move || {
        for number in 0..NEWS {
            send(&sender, &json!({"all": true}), &json!({"number": number}));
            if number % 2 == 0 {
                flood(&sender, "stuck", 1);
            }
        }
    })
    .await
    .unwrap();
    for reader in readers {
        reader.await.unwrap();
    }
    let closed = "plugsocket_slow_consumers_total{policy=\"close\"}";
    eventually("the one that does not read is closed", PATIENCE, async || metric(&dev, closed) == "1").await;
    eventually("nothing waits any more", PATIENCE, async || metric(&dev, "plugsocket_outgoing_bytes") == "0").await;
    // Counted at each beat of the server, not with each write.
    let passed = || metric(&dev, "plugsocket_bytes_total{direction=\"out\"}").parse::<u64>();
    eventually("all bytes are counted", PATIENCE, async || passed().is_ok_and(|passed| passed > 99 * 50 * 40)).await;
    assert!(http::get(&format!("{ops}metrics")).body.contains("plugsocket_bytes_total{direction=\"in\"}"));
    drop(stuck);
}

#[tokio::test(flavor = "multi_thread")]
async fn drop_oldest_keeps_the_newest_and_the_connection() {
    let (dev, _config) = dev(|config| config.with("limits.slow_consumer", "drop_oldest"));
    let mut slow = Client::enter(&dev.ws_url(), "slow").await;
    flood(&dev, "slow", 40);
    for number in 0..3 {
        send(&dev, &json!({"user_id": "slow"}), &json!({"number": number}));
    }
    let dropped = "plugsocket_frames_dropped_total{reason=\"slow_consumer\"}";
    let count = async || metric(&dev, dropped).parse::<u64>().unwrap_or(0);
    eventually("frames are dropped", PATIENCE, async || count().await > 0).await;
    slow.next_where("the last number", |frame| frame["data"]["number"] == 2).await;
    let news = slow.drain(Duration::from_millis(100)).await;
    let numbers: Vec<_> = news.iter().filter_map(|frame| frame["data"]["number"].as_u64()).collect();
    assert_eq!(numbers, [0, 1], "the newest are all there, in order");
    assert!(news.iter().filter(|frame| frame["data"].is_string()).count() < 40);
    assert_eq!(slow.request("echo", json!(1)).await["echo"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_nothing_for_too_long_is_cut() {
    let change = |config: Config| config.with("limits.outgoing_max", "64MiB").with("limits.write_timeout", "1s");
    let (dev, _config) = dev(change);
    let mut other = Client::enter(&dev.ws_url(), "other").await;
    let mut stuck = Client::enter(&dev.ws_url(), "stuck").await;
    flood(&dev, "stuck", 40);
    let cut = "plugsocket_slow_consumers_total{policy=\"write_timeout\"}";
    eventually("it is cut", PATIENCE, async || metric(&dev, cut) == "1").await;
    eventually("it is gone", PATIENCE, async || metric(&dev, "plugsocket_sessions") == "1").await;
    assert_eq!(stuck.wait_closed().await.code, 1006, "there was no way to tell it");
    assert_eq!(other.request("echo", json!(1)).await["echo"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_slow_clients_together_have_a_limit_too() {
    const STUCK: usize = 12;
    let change = |config: Config| config.with("limits.outgoing_max", "64MiB").with("limits.outgoing_total_max", "8MiB");
    let (dev, _config) = dev(change);
    let url = dev.ws_url();
    let mut other = Client::enter(&url, "other").await;
    let mut stuck = Vec::new();
    for index in 0..STUCK {
        stuck.push(Client::enter(&url, &format!("stuck{index}")).await);
    }
    let (before, mut most) = (dev.resident_mib(), 0);
    for _ in 0..4 {
        for index in 0..STUCK {
            flood(&dev, &format!("stuck{index}"), 5);
            most = most.max(metric(&dev, "plugsocket_outgoing_bytes").parse().unwrap_or(0));
        }
        assert_eq!(other.request("echo", json!(1)).await["echo"], 1, "who reads is not touched");
    }
    let grown = dev.resident_mib().saturating_sub(before);
    let frames_of_each = STUCK * (LONG_BYTES + 1000);
    assert!(most <= (8 << 20) + frames_of_each, "{most} bytes waited");
    assert!(most > 2 << 20, "the test offers too little: {most} bytes waited");
    assert!(grown < 60, "the server has grown by {grown} MiB");
    let closed: usize = metric(&dev, "plugsocket_slow_consumers_total{policy=\"close\"}").parse().unwrap();
    assert!((1..=STUCK).contains(&closed), "{closed} were closed");
    drop(stuck);
    eventually("nothing waits any more", PATIENCE, async || metric(&dev, "plugsocket_outgoing_bytes") == "0").await;
    assert_eq!(other.request("echo", json!(1)).await["echo"], 1);
}

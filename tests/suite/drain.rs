//! Promise: SIGTERM ends a process in order, and every registered connection gets its `disconnect`.

use std::time::Duration;

use serde_json::json;

use crate::harness::app::App;
use crate::harness::client::Client;
use crate::harness::config::Config;
use crate::harness::process::Process;
use crate::harness::{PATIENCE, plugin};

#[tokio::test]
async fn a_server_that_drains_tells_clients_and_rooms() {
    let mut app = App::start(2, 1);
    let urls = app.urls();
    let mut bob = Client::enter(&urls[1], "bob").await;
    bob.request("join", json!({"room": "lobby"})).await;
    let mut leaving = Vec::new();
    for name in ["ann", "ben", "cat"] {
        let mut client = Client::enter(&urls[0], name).await;
        client.request("join", json!({"room": "lobby"})).await;
        leaving.push(client);
    }
    app.servers[0].signal("TERM");
    for client in &mut leaving {
        assert_eq!(client.wait_closed().await.code, 4104);
    }
    assert!(app.servers[0].wait_exit(PATIENCE).success());
    let mut left = Vec::new();
    for _ in 0..3 {
        let frame = bob.next_action("left").await;
        assert_eq!(frame["reason"], "draining");
        left.push(frame["nickname"].as_str().unwrap().to_owned());
    }
    left.sort();
    assert_eq!(left, ["ann", "ben", "cat"]);
    assert!(bob.drain(Duration::from_millis(300)).await.iter().all(|frame| frame["action"] != "left"), "each once");
}

#[tokio::test]
async fn a_signal_that_comes_twice_at_once_still_drains() {
    let mut app = App::start(2, 1);
    let urls = app.urls();
    let mut bob = Client::enter(&urls[1], "bob").await;
    bob.request("join", json!({"room": "lobby"})).await;
    let mut ann = Client::enter(&urls[0], "ann").await;
    ann.request("join", json!({"room": "lobby"})).await;
    app.servers[0].signal("TERM");
    app.servers[0].signal("INT");
    app.servers[0].signal("TERM");
    assert_eq!(ann.wait_closed().await.code, 4104);
    assert!(app.servers[0].wait_exit(PATIENCE).success());
    assert_eq!(bob.next_action("left").await["nickname"], "ann");
}

#[tokio::test]
async fn a_worker_that_drains_finishes_what_it_runs() {
    let mut app = App::start(1, 1);
    let mut client = Client::enter(&app.urls()[0], "ann").await;
    let report = client.send_request("report", json!({"seconds": 2, "steps": 4})).await;
    client.next_action("report_progress").await;
    app.workers[0].signal("TERM");
    assert_eq!(client.answer(&report).await.unwrap()["finished"], true);
    assert!(app.workers[0].wait_exit(PATIENCE).success());
}

/// Waits for `draining` and answers when the client is to come back.
async fn dismissed(client: &mut Client) -> u64 {
    client.next_action("draining").await["reconnect_after_ms"].as_u64().unwrap()
}

#[tokio::test]
async fn a_server_that_drains_waits_for_answers_and_begins_nothing_new() {
    let mut app = App::start(1, 1);
    let url = app.urls()[0].clone();
    let mut busy = Client::enter(&url, "busy").await;
    let mut idle = Vec::new();
    for index in 0..20 {
        idle.push(Client::enter(&url, &format!("idle{index}")).await);
    }
    let report = busy.send_request("report", json!({"seconds": 2, "steps": 4})).await;
    busy.next_action("report_progress").await;
    app.servers[0].signal("TERM");
    let comes_back = dismissed(&mut busy).await;
    let error = busy.try_request("echo", json!(1)).await.unwrap_err();
    assert_eq!((&error["code"], &error["retry_after_ms"]), (&json!("busy"), &json!(comes_back)), "{error}");
    assert!(Client::try_connect(&url, &[]).await.is_err(), "nobody new is let in");
    let mut moments = Vec::new();
    for client in &mut idle {
        moments.push(dismissed(client).await);
        assert_eq!(client.wait_closed().await.code, 4104);
    }
    moments.sort_unstable();
    assert!(moments[19] < 10_000 && moments[19] - moments[0] > 3_000, "not spread over server.drain_window: {moments:?}");
    assert_eq!(busy.answer(&report).await.unwrap()["finished"], true, "its progress and its answer come through the drain");
    assert_eq!(busy.wait_closed().await.code, 4104);
    assert!(app.servers[0].wait_exit(PATIENCE).success());
}

#[tokio::test]
async fn an_answer_that_takes_too_long_does_not_hold_the_drain_up() {
    let mut app = App::start_with(1, 1, |config| config.with("server.drain_timeout", "2s"));
    let mut client = Client::enter(&app.urls()[0], "ann").await;
    client.send_request("report", json!({"seconds": 20, "steps": 40})).await;
    client.next_action("report_progress").await;
    let begin = std::time::Instant::now();
    app.servers[0].signal("TERM");
    assert_eq!(client.wait_closed().await.code, 4104);
    assert!(app.servers[0].wait_exit(PATIENCE).success());
    assert!(begin.elapsed() > Duration::from_secs(1), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn dev_works_on_while_its_server_drains() {
    let config = Config::chat("memory");
    plugin::install(&plugin::chat(), &config.plugins_dir(), "chat");
    let mut dev = Process::dev(&config);
    let mut client = Client::enter(&dev.ws_url(), "ann").await;
    let report = client.send_request("report", json!({"seconds": 2, "steps": 4})).await;
    client.next_action("report_progress").await;
    dev.signal("TERM");
    dismissed(&mut client).await;
    assert_eq!(client.answer(&report).await.unwrap()["finished"], true);
    assert_eq!(client.wait_closed().await.code, 4104);
    assert!(dev.wait_exit(PATIENCE).success());
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let mut app = App::start(1, 1);
    let mut client = Client::enter(&app.urls()[0], "ann").await;
    client.send_request("report", json!({"seconds": 20, "steps": 40})).await;
    client.next_action("report_progress").await;
    app.servers[0].signal("TERM");
    dismissed(&mut client).await;
    tokio::time::sleep(Duration::from_millis(600)).await; // Within half a second it would be the same wish.
    app.servers[0].signal("TERM");
    assert_eq!(app.servers[0].wait_exit(Duration::from_secs(2)).code(), Some(143));
}

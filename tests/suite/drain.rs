//! Promise: SIGTERM ends a process in order, and every registered connection gets its `disconnect`.

use std::time::Duration;

use serde_json::json;

use crate::harness::PATIENCE;
use crate::harness::app::App;
use crate::harness::client::Client;

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

//! Promise: a message goes from a browser to a plugin and back, in order, through whichever processes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::app::{App, metric};
use crate::harness::client::Client;
use crate::harness::load::{self, Plan, Watch};

#[tokio::test]
async fn a_room_spans_servers_in_order() {
    let app = App::start(2, 2);
    let urls = app.urls();
    let mut alice = Client::enter(&urls[0], "alice").await;
    let mut bob = Client::enter(&urls[1], "bob").await;
    alice.request("join", json!({"room": "lobby"})).await;
    let joined = bob.request("join", json!({"room": "lobby"})).await;
    assert_eq!(joined["members"].as_array().unwrap().len(), 2, "{joined}");
    for number in 0..100 {
        alice.send("chat_text", json!({"room": "lobby", "text": number.to_string()}), None).await;
    }
    for number in 0..100 {
        let text = bob.next_action("chat_text").await;
        assert_eq!(text["text"], number.to_string());
        assert_eq!(text["nickname"], "alice");
    }
    let history = bob.request("history", json!({"room": "lobby", "count": 3})).await;
    let texts: Vec<_> = history["messages"].as_array().unwrap().iter().map(|message| message["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["97", "98", "99"]);

    alice.close().await;
    let left = bob.next_action("left").await;
    assert_eq!((left["nickname"].as_str(), left["reason"].as_str()), (Some("alice"), Some("client")));
}

#[tokio::test]
async fn fifty_thousand_messages_through_two_servers_and_two_workers() {
    let app = App::start_with(2, 2, |config| config.with("limits.messages_per_second", 0));
    app.wait_balanced().await;
    let plan = Plan {
        urls: app.urls(),
        connections: 50,
        messages: 1_000,
        window: 32,
        interval: None,
        action: "echo",
        patience: Duration::from_secs(20),
    };
    let started = Instant::now();
    let report = load::run(plan, Arc::default()).await;
    report.assert_clean();
    assert_eq!(report.answered, 50_000);
    println!("50 x 1000 in {:?}: p50 {:?}, p99 {:?}", started.elapsed(), report.percentile(0.5), report.percentile(0.99));
    let taken = app.workers.iter().map(|worker| metric(worker, "plugsocket_jobs_taken_total").parse::<u64>().unwrap());
    let taken: Vec<_> = taken.collect();
    println!("taken by each worker: {taken:?}");
    assert!(taken.iter().all(|taken| *taken > 1_000), "both workers take their share: {taken:?}");
}

/// What the PHP package was left for: there the second job waits for the first, ten seconds in all.
#[tokio::test]
async fn slow_jobs_run_side_by_side_and_newcomers_are_served() {
    let app = App::start(1, 1);
    let url = app.urls().remove(0);
    let mut one = Client::enter(&url, "one").await;
    let mut two = Client::enter(&url, "two").await;
    for client in [&mut one, &mut two] {
        client.set_patience(Duration::from_secs(20));
    }
    let started = Instant::now();
    let first = one.send_request("report", json!({"seconds": 5, "steps": 5})).await;
    tokio::time::sleep(Duration::from_secs(1)).await; // The case itself: the second comes a second later.
    let second = two.send_request("report", json!({"seconds": 5, "steps": 5})).await;
    let mut newcomer = Client::enter(&url, "newcomer").await;
    let echo = newcomer.request("echo", json!("still here")).await;
    let newcomer_served = started.elapsed();
    assert_eq!(echo["echo"], "still here");
    assert_eq!(one.next_action("report_progress").await["total"], 5);
    one.answer(&first).await.unwrap();
    let first_done = started.elapsed();
    two.answer(&second).await.unwrap();
    let all = started.elapsed();
    println!("newcomer served after {newcomer_served:?}, first report after {first_done:?}, both after {all:?}");
    assert!(newcomer_served < first_done, "the newcomer waited for a report");
    assert!(all < Duration::from_secs(9), "one after the other would take 10 s; took {all:?}");
}

#[tokio::test]
async fn messages_behind_a_registration_wait_for_it() {
    let app = App::start(1, 1);
    let mut client = Client::connect(&app.urls()[0]).await;
    client.send("register", json!({"nickname": "eager"}), Some(&json!("r"))).await;
    client.send("echo", json!(1), Some(&json!("e"))).await;
    assert_eq!(client.answer(&json!("r")).await.unwrap()["nickname"], "eager");
    assert_eq!(client.answer(&json!("e")).await.unwrap()["echo"], 1);
}

#[tokio::test]
async fn a_watch_sees_the_load() {
    let app = App::start(1, 1);
    let plan = Plan {
        urls: app.urls(),
        connections: 2,
        messages: 10,
        window: 4,
        interval: Some(Duration::from_millis(1)),
        action: "chat_text",
        patience: Duration::from_secs(10),
    };
    let watch = Arc::new(Watch::default());
    load::run(plan, Arc::clone(&watch)).await.assert_clean();
    assert_eq!(watch.answered(), 20);
}

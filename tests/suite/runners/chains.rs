//! Messages of one connection that wait together go to their runner together, and still run one after the other, however each of them ends.

use std::collections::HashMap;
use std::fs;

use serde_json::json;

use super::{PARTITIONS, PATIENCE};
use crate::harness::app::App;
use crate::harness::client::Client;
use crate::harness::process::Process;
use crate::harness::redis::Redis;
use crate::harness::{eventually, plugin, sequence};

/// Few, so that calls are quick for the worker, also in a debug build: only then they go together.
const CONNECTIONS: u64 = 3;
const MESSAGES: u64 = 200;

/// One in so many ends its runner, and one takes longer than calls that go together may.
fn is_poison(number: u64) -> bool {
    number % 67 == 31
}
fn is_slow(number: u64) -> bool {
    number % 29 == 4
}

#[tokio::test]
async fn what_goes_to_a_runner_together_keeps_its_order_however_it_ends() {
    let mut app = App::start_on(Redis::start(), 1, 0, |config| {
        let config = sequence::with_tracer(config)
            .with("queue_options.partitions", i64::from(PARTITIONS))
            .with("worker.retry_backoff", "1ms")
            .with("worker.attempts", 3);
        plugin::install_bytes(&sequence::bad_tracer(30, 0), &config.plugins_dir(), "tracer");
        config
    });
    let url = app.urls().remove(0);
    let mut clients = Vec::new();
    for connection in 0..CONNECTIONS {
        let mut client = Client::enter(&url, "sender").await;
        client.set_patience(PATIENCE);
        for number in 0..MESSAGES {
            let (slow, poison) = (3 * u64::from(is_slow(number)), is_poison(number));
            let data = json!({ "connection": connection, "number": number, "milliseconds": slow, "push": false, "poison": poison });
            client.send("trace", data, Some(&json!(number))).await;
        }
        clients.push(client);
    }
    // All of them wait before there is a worker: each lane has many to hand over.
    let stored = async || {
        let lengths = (0..PARTITIONS).map(|partition| app.redis.cli(&["XLEN", &format!("ps:{{plugsocket:p{partition}}}:in")]));
        lengths.map(|length| length.parse::<u64>().unwrap()).sum::<u64>() == CONNECTIONS * MESSAGES
    };
    eventually("all messages in the queue", PATIENCE, stored).await;
    app.workers.push(Process::worker(&app.config));
    for client in &mut clients {
        for number in 0..MESSAGES {
            let answer = client.next_where("an answer", |frame| !frame["id"].is_null()).await;
            assert_eq!(answer["id"], number, "{answer}");
            // The others have three attempts as well, and may fail in all of them.
            assert!(answer["data"]["code"] == "failed" || !is_poison(number) && answer["data"].is_null(), "{answer}");
        }
    }
    // A runner's crash may have others run again; never after one behind them.
    let mut last = HashMap::new();
    let trace = fs::read_to_string(app.config.state_dir().join("trace")).unwrap();
    let mut runs = 0;
    for line in trace.lines() {
        let numbers: Vec<u64> = line.split(' ').take(2).map(|number| number.parse().unwrap()).collect();
        let before = last.insert(numbers[0], numbers[1]).unwrap_or(0);
        assert!(before <= numbers[1] && numbers[1] <= before + 1, "connection {}: {} after {before}", numbers[0], numbers[1]);
        runs += 1;
    }
    assert!(runs > CONNECTIONS * MESSAGES, "some failed, and ran again");
    assert!(last.values().all(|last| *last == MESSAGES - 1) && last.len() as u64 == CONNECTIONS);
}

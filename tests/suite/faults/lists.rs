//! The PHP package's lists on a Redis that is full, and under a prefix.

use std::process::Command;

use serde_json::json;

use crate::harness::app::{App, metric};
use crate::harness::client::Client;
use crate::harness::process::Process;
use crate::harness::redis::Redis;
use crate::harness::{PATIENCE, eventually};

const ITEMS: usize = 300;
const LISTS: [&str; 2] = ["laravel_database_queues:plugsocket_out", "laravel_database_queues:{plugsocket_out}"];

/// `RPUSH`es numbered items to everybody, in one step.
fn push(redis: &Redis, list: &str, items: usize) {
    let mut command = vec!["RPUSH".to_owned(), list.to_owned()];
    command.extend((0..items).map(|n| json!({"to": {"broadcast": true}, "action": "item", "data": {"n": n}}).to_string()));
    redis.cli(&command.iter().map(String::as_str).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_redis_still_serves_what_php_pushed_before() {
    let app = App::start(1, 0);
    let list = "queues:plugsocket_out";
    let mut client = Client::enter(&app.urls()[0], "seven").await;
    // Served while it stands still, the items would be gone before Redis is full.
    app.servers[0].signal("STOP");
    push(&app.redis, list, ITEMS);
    assert_eq!(app.redis.cli(&["CONFIG", "SET", "maxmemory", "1"]), "OK");
    assert!(app.redis.cli(&["SET", "a", "b"]).starts_with("OOM"), "full");
    app.servers[0].signal("CONT");
    for n in 0..ITEMS {
        assert_eq!(client.next_action("item").await["n"], n);
    }
    assert_eq!(app.redis.cli(&["EXISTS", list]), "0");
    assert_eq!(app.redis.cli(&["CONFIG", "SET", "maxmemory", "0"]), "OK");
    push(&app.redis, list, 1);
    assert_eq!(client.next_action("item").await["n"], 0, "waited for again");
    assert_eq!(app.servers[0].lines().into_iter().find(|line| line.contains("PHP list can't be served")), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_served_under_the_prefix_of_the_php_client() {
    let app = App::start_with(1, 0, |config| config.with("php.prefix", "laravel_database_"));
    let mut client = Client::enter(&app.urls()[0], "seven").await;
    for list in LISTS {
        let notify = format!("{list}:notify");
        app.redis.cli(&["RPUSH", &notify, "1"]);
        push(&app.redis, list, 3);
        for n in 0..3 {
            assert_eq!(client.next_action("item").await["n"], n);
        }
        eventually("a list that is gone, its `:notify` too", PATIENCE, async || app.redis.cli(&["EXISTS", list, &notify]) == "0").await;
    }
    // By the extension's own option, as Laravel sets it.
    let port = app.redis.port();
    let script = format!(
        "$r = new Redis; $r->connect('127.0.0.1', {port}); $r->setOption(Redis::OPT_PREFIX, 'laravel_database_');
        $r->rPush('queues:plugsocket_out', json_encode(['to' => ['broadcast' => true], 'action' => 'item', 'data' => ['n' => 7]]));"
    );
    let mut command = Command::new("php");
    command.args(["-r", &script]);
    let mut php = Process::spawn("php", command);
    assert!(php.wait_exit(PATIENCE).success(), "{:?}", php.lines());
    assert_eq!(client.next_action("item").await["n"], 7);
    // Dead items go to the app's own list; a list without the prefix is somebody else's.
    app.redis.cli(&["RPUSH", LISTS[0], "garbage"]);
    let dead = "ps:{plugsocket}:php:dead";
    eventually("a dead item", PATIENCE, async || app.redis.cli(&["LLEN", dead]) == "1").await;
    assert_eq!(app.redis.cli(&["EXISTS", &format!("laravel_database_{dead}")]), "0");
    push(&app.redis, "queues:plugsocket_out", 1);
    push(&app.redis, LISTS[0], 1);
    assert_eq!(client.next_action("item").await["n"], 0);
    assert_eq!(app.redis.cli(&["LLEN", "queues:plugsocket_out"]), "1");
    assert_eq!(metric(&app.servers[0], "plugsocket_php_items_dead_total"), "1");
}

//! Promise: anyone can send to anyone, on whichever server they are.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::app::App;
use crate::harness::client::Client;
use crate::harness::http;
use crate::harness::process::Process;
use crate::harness::{PATIENCE, eventually};

const QUIET: Duration = Duration::from_millis(300);

async fn user_seven_twice(app: &App) -> [Client; 2] {
    let urls = app.urls();
    let mut clients = [Client::connect(&urls[0]).await, Client::connect(&urls[1]).await];
    for client in &mut clients {
        client.register(json!({"nickname": "seven", "user_id": 7})).await;
    }
    clients
}

#[tokio::test]
async fn a_php_list_item_reaches_every_connection_of_a_user_once() {
    let app = App::start(2, 0);
    let mut sevens = user_seven_twice(&app).await;
    let mut other = Client::enter(&app.urls()[0], "other").await;
    let item = r#"{"to":{"user_id":7},"action":"chat_text","data":{"text":"hi"},"meta":{"time":1}}"#;
    app.redis.cli(&["RPUSH", "queues:plugsocket_out", item]);
    for client in &mut sevens {
        assert_eq!(client.next_action("chat_text").await, json!({"text": "hi"}));
    }
    for client in &mut sevens {
        assert_eq!(texts(client.drain(QUIET).await), Vec::<Value>::new(), "once");
    }
    assert_eq!(texts(other.drain(QUIET).await), Vec::<Value>::new());
    assert_eq!(app.redis.cli(&["LLEN", "queues:plugsocket_out"]), "0");
}

fn texts(frames: Vec<Value>) -> Vec<Value> {
    frames.into_iter().filter(|frame| frame["action"] == "chat_text").collect()
}

#[tokio::test]
async fn list_items_keep_their_order_and_garbage_is_set_aside() {
    let app = App::start(2, 0);
    let mut sevens = user_seven_twice(&app).await;
    let garbage = ["", "not json", "[]", "7", r#"{"action":"a"}"#, r#"{"to":{},"action":"a"}"#, r#"{"to":{"user_id":7}}"#];
    for item in garbage {
        app.redis.cli(&["RPUSH", "queues:plugsocket_out", item]);
    }
    for number in 0..200 {
        let item = json!({"to": {"user_id": "7"}, "action": "chat_text", "data": {"n": number}}).to_string();
        app.redis.cli(&["RPUSH", "queues:{plugsocket_out}", &item]);
    }
    let logged = |server: &Process| server.lines().iter().any(|line| line.contains("PHP items set aside") && line.contains("reason="));
    eventually("a log line with the reason", PATIENCE, async || app.servers.iter().any(logged)).await;
    assert_eq!(app.redis.cli(&["LLEN", "ps:{plugsocket}:php:dead"]), garbage.len().to_string());
    for client in &mut sevens {
        for number in 0..200 {
            assert_eq!(client.next_action("chat_text").await["n"], number);
        }
    }
}

#[tokio::test]
async fn the_tool_and_http_send() {
    let app = App::start(2, 0);
    let mut sevens = user_seven_twice(&app).await;
    let mut send = Process::tool(&["send", "--config", app.config.path(), "--to-user", "7", "notice", r#"{"n":1}"#]);
    assert!(send.wait_exit(PATIENCE).success());
    let ops = app.servers[0].ops_url();
    let body = json!({"to": {"all": true}, "action": "notice", "data": {"n": 2}});
    let answer = http::post_json(&format!("{ops}v1/send"), &body, &[]);
    assert_eq!((answer.status, answer.body.as_str()), (202, r#"{"accepted":true}"#));
    for client in &mut sevens {
        assert_eq!(client.next_action("notice").await["n"], 1);
        assert_eq!(client.next_action("notice").await["n"], 2);
    }
    let mut bad = Process::tool(&["send", "--config", app.config.path(), "--all", "notice", "{not json"]);
    assert_eq!(bad.wait_exit(PATIENCE).code(), Some(1));
    assert!(bad.lines().iter().any(|line| line.contains("DATA is not JSON")), "{:?}", bad.lines());
}

#[tokio::test]
async fn the_ops_listener_is_guarded() {
    let app = App::start(1, 0);
    let ops = app.servers[0].ops_url();
    let body = r#"{"to":{"all":true},"action":"notice"}"#;
    for (headers, status) in [
        (vec![("Content-Type", "text/plain")], 415),
        (vec![("Content-Type", "application/json"), ("Host", "evil.example")], 403),
        (vec![("Content-Type", "application/json")], 202),
    ] {
        assert_eq!(http::request("POST", &format!("{ops}v1/send"), &headers, body).status, status, "{headers:?}");
    }
    for (bad, word) in [("{}", "missing field"), (r#"{"to":{"everyone":true},"action":"a"}"#, "unknown field"), ("[", "EOF")] {
        let answer = http::request("POST", &format!("{ops}v1/send"), &[("Content-Type", "application/json")], bad);
        assert!(answer.status == 400 && answer.body.contains(word), "{bad}: {} {}", answer.status, answer.body);
    }
    assert_eq!(http::get(&format!("{ops}healthz")).status, 200);
    assert_eq!(http::get(&format!("{ops}readyz")).status, 200);
    assert!(http::get(&format!("{ops}metrics")).body.contains("plugsocket_"));
    let preflight = http::request("OPTIONS", &format!("{ops}v1/send"), &[("Origin", "http://evil.example")], "");
    assert!(preflight.header("Access-Control-Allow-Origin").is_none() && preflight.status != 200, "no CORS");
}

//! Promise: front ends of the PHP package work unchanged against `protocol = "flat"`, through Redis, workers and several servers.

use std::time::Duration;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::app::{App, metric};
use crate::harness::client::Client;
use crate::harness::config::Config;
use crate::harness::process::Process;
use crate::harness::{PATIENCE, eventually, plugin};

mod front_end;

const SOURCE: &str = include_str!("flat/plugin.rs.txt");

fn set_up(config: Config) -> Config {
    plugin::install_bytes(&plugin::from_source("hall", SOURCE), &config.plugins_dir(), "hall");
    let config = config.with("server.handler", "hall");
    ["chat_text", "answer", "fail"].iter().fold(config, |config, action| config.with(&format!("actions.{action}"), "hall"))
}

fn app(servers: usize, workers: usize) -> App {
    App::start_with(servers, workers, |config| set_up(config).with("server.protocol", "flat"))
}

async fn say(client: &mut Client, frame: Value) {
    client.send_raw(Message::text(frame.to_string())).await;
}

/// The next frame, whatever it is.
async fn hear(client: &mut Client) -> Value {
    client.next_where("any frame", |_| true).await
}

async fn enter(url: &str, frame: Value) -> Client {
    let mut client = Client::connect(url).await;
    register(&mut client, frame).await;
    client
}

async fn register(client: &mut Client, mut frame: Value) -> Value {
    frame["action"] = "register".into();
    say(client, frame).await;
    let confirmed = hear(client).await;
    assert_eq!((&confirmed["action"], &confirmed["message"]), (&json!("registred"), &json!("Registration confirmed")), "{confirmed}");
    confirmed
}

/// What came before this, through the worker as well, was the last that came.
async fn nothing_came(client: &mut Client) {
    say(client, json!({"action": "answer", "reply": {"fence": 1}})).await;
    assert_eq!(hear(client).await, json!({"action": "answer", "fence": 1}));
}

fn push(app: &App, to: &Value, text: &str) {
    let item = json!({"to": to, "action": "chat_text", "data": {"text": text}, "meta": {"time": 1}});
    app.redis.cli(&["RPUSH", "queues:plugsocket_out", &item.to_string()]);
}

async fn gets(client: &mut Client, text: &str) {
    assert_eq!(hear(client).await, json!({"action": "chat_text", "text": text}));
}

/// Waits until the handler has been told of so many ends; who and why, in their order.
async fn told(app: &App, count: usize) -> Vec<String> {
    let key = "ps:{plugsocket:s:hall:told}";
    eventually("disconnects", PATIENCE, async || app.redis.cli(&["LLEN", key]) == count.to_string()).await;
    app.redis.cli(&["LRANGE", key, "0", "-1"]).lines().map(ToOwned::to_owned).collect()
}

#[tokio::test]
async fn each_shape_goes_through_redis_and_a_worker() {
    let app = app(1, 1);
    let mut client = Client::connect(&app.urls()[0]).await;
    for frame in
        ["garbage", "[]", "{}", r#"{"action":["a"]}"#, r#"{"action":"register","nickname":""}"#, r#"{"action":"chat_text","text":"early"}"#]
    {
        client.send_raw(Message::text(frame)).await;
    }
    say(&mut client, json!({"action": "ping", "id": 3})).await;
    let unknown = hear(&mut client).await;
    assert_eq!(unknown, json!({"action": "ping", "connection": "", "user": null, "asked": {"action": "ping", "id": 3}}));
    let confirmed = register(&mut client, json!({"nickname": "Ärger 😀", "connection": 5, "user": 7, "id": "x"})).await;
    assert_eq!((&confirmed["connection_id"], &confirmed["user_id"], &confirmed["nickname"]), (&json!(5), &json!(7), &json!("Ärger 😀")));
    let mut other = enter(&app.urls()[0], json!({"nickname": "ben", "connection": "ben"})).await;
    for (reply, frame) in [
        (json!({"sum": 5, "id": "x", "data": {"action": "y"}}), json!({"action": "answer", "sum": 5, "id": "x", "data": {"action": "y"}})),
        (json!({"action": "mine", "n": 1.5}), json!({"action": "answer", "n": 1.5})),
        (json!([1, [2]]), json!({"action": "answer", "0": 1, "1": [2]})),
        (json!("é"), json!({"action": "answer", "value": "é"})),
    ] {
        say(&mut client, json!({"action": "answer", "id": 1, "receipt": true, "reply": reply})).await;
        assert_eq!(hear(&mut client).await, frame);
    }
    say(&mut client, json!({"action": "fail", "id": 1})).await;
    say(&mut client, json!({"action": "chat_text", "text": 5})).await;
    nothing_came(&mut client).await;
    say(&mut client, json!({"action": "chat_text", "text": "hi"})).await;
    for client in [&mut client, &mut other] {
        assert_eq!(hear(client).await, json!({"action": "chat_text", "text": "hi", "from": "5"}));
    }
    for (to, text) in
        [(json!({"user_id": 7}), "to the user"), (json!({"connection_id": 5}), "to it"), (json!({"broadcast": true}), "to all")]
    {
        push(&app, &to, text);
        gets(&mut client, text).await;
    }
    gets(&mut other, "to all").await;
    let server = &app.servers[0];
    for (name, value) in [
        ("plugsocket_bad_frames_total{reason=\"syntax\"}", "2"),
        ("plugsocket_bad_frames_total{reason=\"member\"}", "2"),
        ("plugsocket_frames_withheld_total{code=\"bad_frame\"}", "4"),
        ("plugsocket_frames_withheld_total{code=\"refused\"}", "1"),
        ("plugsocket_frames_withheld_total{code=\"not_registered\"}", "1"),
        ("plugsocket_frames_withheld_total{code=\"plugin\"}", "2"),
        ("plugsocket_errors_sent_total{code=\"refused\"}", ""),
    ] {
        assert_eq!(metric(server, name), value, "{name}");
    }
}

#[tokio::test]
async fn of_two_on_one_server_the_older_gets_its_messages_again_when_the_newer_leaves() {
    let app = app(1, 1);
    let url = &app.urls()[0];
    let mut older = enter(url, json!({"nickname": "older", "connection": "alice", "user": 1})).await;
    let mut newer = enter(url, json!({"nickname": "newer", "connection": "alice", "user": 1})).await;
    let alice = json!({"connection_id": "alice"});
    push(&app, &alice, "one");
    gets(&mut newer, "one").await;
    let holder = || app.redis.cli(&["GET", "ps:{plugsocket:a:alice}"]);
    let before = holder();
    newer.close().await;
    assert_eq!(told(&app, 1).await, ["newer client"]);
    // The queue hears of it behind the handler.
    eventually("the queue knows the older", PATIENCE, async || !["", before.as_str()].contains(&holder().as_str())).await;
    push(&app, &alice, "two");
    gets(&mut older, "two").await;
    nothing_came(&mut older).await;
    older.close().await;
    assert_eq!(told(&app, 2).await, ["newer client", "older client"]);
    eventually("nobody has the id", PATIENCE, async || app.redis.cli(&["EXISTS", "ps:{plugsocket:a:alice}"]) == "0").await;
}

#[tokio::test]
async fn of_two_on_one_server_the_older_gets_its_messages_again_when_the_newer_takes_another_id() {
    let app = app(1, 1);
    let url = &app.urls()[0];
    let mut older = enter(url, json!({"nickname": "older", "connection": "alice"})).await;
    let mut newer = enter(url, json!({"nickname": "newer", "connection": "alice"})).await;
    let holder = |id: &str| app.redis.cli(&["GET", &format!("ps:{{plugsocket:a:{id}}}")]);
    let before = holder("alice");
    register(&mut newer, json!({"nickname": "newer", "connection": "bob"})).await;
    assert_eq!(holder("bob"), before);
    eventually("the queue knows the older", PATIENCE, async || !["", before.as_str()].contains(&holder("alice").as_str())).await;
    push(&app, &json!({"connection_id": "alice"}), "for alice");
    gets(&mut older, "for alice").await;
    push(&app, &json!({"connection_id": "bob"}), "for bob");
    gets(&mut newer, "for bob").await;
    for client in [&mut older, &mut newer] {
        nothing_came(client).await;
    }
}

#[tokio::test]
async fn of_two_on_two_servers_the_newer_gets_what_is_for_it_and_neither_takes_from_the_other() {
    let app = app(2, 1);
    let urls = app.urls();
    let frame = |nickname: &str| json!({"nickname": nickname, "connection": "alice", "user": 1});
    let (alice, all, user) = (json!({"connection_id": "alice"}), json!({"broadcast": true}), json!({"user_id": 1}));
    let mut older = enter(&urls[0], frame("older")).await;
    let mut newer = enter(&urls[1], frame("newer")).await;
    for (to, text) in [(&alice, "1"), (&all, "2"), (&user, "3")] {
        push(&app, to, text);
        gets(&mut newer, text).await;
    }
    for text in ["2", "3"] {
        gets(&mut older, text).await;
    }
    older.close().await;
    assert_eq!(told(&app, 1).await, ["older client"]);
    for (to, text) in [(&alice, "4"), (&user, "5")] {
        push(&app, to, text);
        gets(&mut newer, text).await;
    }
    // The reverse: the one that registers anew has the id, and keeps it when another leaves.
    let mut third = enter(&urls[0], frame("third")).await;
    register(&mut newer, frame("newer again")).await;
    push(&app, &alice, "6");
    gets(&mut newer, "6").await;
    newer.close().await;
    assert_eq!(told(&app, 2).await[1], "newer again client");
    eventually("nobody has the id", PATIENCE, async || app.redis.cli(&["EXISTS", "ps:{plugsocket:a:alice}"]) == "0").await;
    push(&app, &alice, "into the void");
    push(&app, &user, "7");
    gets(&mut third, "7").await;
    register(&mut third, frame("third")).await;
    push(&app, &alice, "8");
    gets(&mut third, "8").await;
    nothing_came(&mut third).await;
}

#[tokio::test]
async fn a_flat_and_an_envelope_server_share_one_queue() {
    let app = app(1, 1);
    let config = set_up(Config::chat(&app.redis.url()));
    let server = Process::server(&config);
    let (flat_url, url) = (app.urls()[0].clone(), server.ws_url());
    let mut flat = enter(&flat_url, json!({"nickname": "ann", "connection": "ann"})).await;
    let mut envelope = Client::connect(&url).await;
    envelope.register(json!({"nickname": "ben", "connection": "ben"})).await;
    say(&mut flat, json!({"action": "chat_text", "text": "hi"})).await;
    assert_eq!(hear(&mut flat).await, json!({"action": "chat_text", "text": "hi", "from": "ann"}));
    assert_eq!(hear(&mut envelope).await, json!({"action": "chat_text", "data": {"text": "hi", "from": "ann"}}));
    envelope.send("chat_text", json!({"text": "hello"}), None).await;
    assert_eq!(hear(&mut flat).await, json!({"action": "chat_text", "text": "hello", "from": "ben"}));
    assert_eq!(envelope.next_action("chat_text").await["text"], "hello");
    let failed = envelope.try_request("fail", json!({})).await.unwrap_err();
    assert_eq!(failed["code"], "no_room");
    assert_eq!(envelope.request("answer", json!({"reply": 5})).await, 5);
    // The older one's own protocol says whether it stays.
    let mut second = Client::connect(&url).await;
    second.register(json!({"nickname": "ann 2", "connection": "ann"})).await;
    push(&app, &json!({"connection_id": "ann"}), "for the newer");
    assert_eq!(second.next_action("chat_text").await["text"], "for the newer");
    nothing_came(&mut flat).await;
    register(&mut flat, json!({"nickname": "ann", "connection": "ben"})).await;
    assert_eq!(envelope.wait_closed().await.code, 4009);
}

#[tokio::test]
async fn a_drain_stores_what_was_sent_and_says_nothing() {
    let mut app = app(2, 1);
    let urls = app.urls();
    let mut witness = enter(&urls[1], json!({"nickname": "witness"})).await;
    let mut client = enter(&urls[0], json!({"nickname": "ann", "connection": "ann"})).await;
    for n in 0..50 {
        say(&mut client, json!({"action": "chat_text", "text": n.to_string()})).await;
    }
    // All of them have been read by now, and not all of them need be stored.
    say(&mut client, json!({"action": "read"})).await;
    client.next_where("the fallback's reply", |frame| frame["action"] == "read").await;
    app.servers[0].signal("TERM");
    assert_eq!(client.wait_closed().await.code, 4104);
    let rest = client.drain(Duration::ZERO).await;
    assert!(rest.iter().all(|frame| frame["action"] == "chat_text"), "{rest:?}");
    for n in 0..50 {
        assert_eq!(hear(&mut witness).await["text"], n.to_string());
    }
    assert_eq!(told(&app, 1).await, ["ann draining"]);
    assert!(app.servers[0].wait_exit(PATIENCE).success());
}

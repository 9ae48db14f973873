//! Promise: bad input gets a clear answer, and nobody else notices.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::app::{App, PARTITIONS};
use crate::harness::client::Client;
use crate::harness::{PATIENCE, eventually, http};

#[tokio::test]
async fn bad_frames_are_answered_and_others_go_on() {
    let app = App::start(1, 1);
    let url = app.urls().remove(0);
    let mut bystander = Client::enter(&url, "bystander").await;
    let mut client = Client::enter(&url, "clumsy").await;
    let long = json!({"action": "x".repeat(129)}).to_string();
    let deep = format!("{}1", "[".repeat(60_000));
    let frames = [
        "",
        "hello",
        "[]",
        "[\"echo\"]",
        "null",
        "{}",
        "{\"action\":7}",
        "{\"action\":\"\"}",
        "{\"action\":\"a\",\"action\":\"b\"}",
        "{\"action\":\"echo\",\"id\":1.5}",
        "{\"action\":\"echo\",\"id\":{}}",
        "{\"action\":\"registered\"}",
        long.as_str(),
        deep.as_str(),
    ];
    for frame in frames {
        client.send_raw(Message::text(frame)).await;
        let error = client.next_action("error").await;
        assert_eq!(error["code"], "bad_frame", "{frame:.60}: {error}");
        assert!(!error["message"].as_str().unwrap().is_empty());
    }
    for id in [json!(7), json!("a\n\u{1F600}"), json!(""), json!(u64::MAX)] {
        client.send("echo", json!("ok"), Some(&id)).await;
        assert_eq!(client.answer(&id).await.unwrap()["echo"], "ok");
    }
    client.send_raw(Message::text(r#"{"id":"kept","data":1}"#)).await;
    assert_eq!(client.answer(&json!("kept")).await.unwrap_err()["code"], "bad_frame", "the id of a bad frame is echoed");
    assert_eq!(bystander.request("echo", json!(1)).await["echo"], 1);
}

#[tokio::test]
async fn what_breaks_the_protocol_closes_that_socket_only() {
    let app = App::start(1, 1);
    let url = app.urls().remove(0);
    let mut bystander = Client::enter(&url, "bystander").await;
    // 200 000 brackets are over the frame limit: the socket is closed before anything is parsed.
    let brackets = Message::text("[".repeat(200_000));
    for (message, code) in [(Message::binary(vec![1, 2, 3]), 1003), (brackets, 1009), (Message::text("x".repeat(70_000)), 1009)] {
        let mut client = Client::enter(&url, "rude").await;
        client.send_raw(message).await;
        assert_eq!(client.wait_closed().await.code, code);
    }
    for origin in ["http://evil.example", "null"] {
        assert_eq!(Client::try_connect(&url, &[("Origin", origin)]).await.err().as_deref(), Some("HTTP 403"), "{origin}");
    }
    assert_eq!(bystander.request("echo", json!(1)).await["echo"], 1);
}

#[tokio::test]
async fn before_registration_and_refusals() {
    let app = App::start(1, 0);
    let mut client = Client::connect(&app.urls()[0]).await;
    for action in ["echo", "nobody_serves_this"] {
        assert_eq!(client.try_request(action, json!(1)).await.unwrap_err()["code"], "not_registered");
    }
    let refused = client.try_request("register", json!({"nickname": "<script>"})).await.unwrap_err();
    assert_eq!(refused["code"], "refused", "{refused}");
    assert_eq!(client.register(json!({"nickname": "ada"})).await["nickname"], "ada", "the chat leaves the socket open for another try");
    let mut pinged = Client::connect(&app.urls()[0]).await;
    pinged.send("ping", Value::Null, Some(&json!(1))).await;
    assert_eq!(pinged.next_where("pong", |frame| frame["action"] == "pong").await["id"], 1);
}

#[tokio::test]
async fn a_stream_entry_that_is_no_job_is_set_aside() {
    let app = App::start(1, 1);
    let mut client = Client::enter(&app.urls()[0], "ada").await;
    for partition in 0..PARTITIONS {
        let key = format!("ps:{{plugsocket:p{partition}}}:in");
        app.redis.cli(&["XADD", &key, "*", "a", "echo", "d", "{}"]);
    }
    assert_eq!(client.request("echo", json!(1)).await["echo"], 1);
    let dead = async || {
        let count = |partition: usize| app.redis.cli(&["XLEN", &format!("ps:{{plugsocket:p{partition}}}:dead")]).parse::<u32>().unwrap();
        (0..PARTITIONS).map(count).sum::<u32>() as usize == PARTITIONS
    };
    eventually("a dead letter of each", PATIENCE, dead).await;
    app.workers[0].wait_line("field `", PATIENCE);
}

#[tokio::test]
async fn data_that_an_action_can_not_read_is_bad_data_and_a_panic_is_contained() {
    let app = App::start(1, 1);
    let mut client = Client::enter(&app.urls()[0], "ada").await;
    assert_eq!(client.try_request("join", json!({"room": 7})).await.unwrap_err()["code"], "bad_data");
    assert_eq!(client.try_request("chat_text", json!({"room": "x", "text": "hi"})).await.unwrap_err()["code"], "not_in_room");
    assert_eq!(client.request("echo", json!(1)).await["echo"], 1);
    let metrics = http::get(&format!("{}metrics", app.servers[0].ops_url())).body;
    assert!(metrics.contains("plugsocket_"), "{metrics}");
}

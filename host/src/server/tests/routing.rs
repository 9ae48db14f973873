//! Where frames go, and what comes of those that go nowhere.

use std::sync::PoisonError;
use std::time::Duration;

use futures_util::SinkExt;
use plugsocket_plugin::call::Operation;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use super::harness::House;
use super::queue::Mode;
use crate::queue::Stored;
use crate::wire::delivery::{Address, Body, Delivery, MessageName, Origin};
use crate::wire::envelope::ClientId;
use crate::wire::json::Json;

#[tokio::test]
async fn bad_frames_are_answered_and_the_socket_lives() {
    let mut house = House::open(|_| {}).await;
    let mut client = house.registered(json!({})).await;
    let long_name = json!({"action": "x".repeat(129)}).to_string();
    let long_id = json!({"action": "x", "id": "x".repeat(65)}).to_string();
    for frame in [
        "",
        "hello",
        "[]",
        "[\"known\"]",
        "{}",
        "{\"action\":1}",
        "{\"action\":\"\"}",
        "{\"action\":\"a\\u0000\"}",
        "{\"action\":\"a\",\"action\":\"b\"}",
        "{\"action\":\"a\",\"id\":1.5}",
        "{\"action\":\"a\",\"id\":[]}",
        "{\"action\":\"registered\"}",
        "{\"action\":\"resume\"}",
        &long_name,
        &long_id,
        &"[".repeat(60_000),
        &format!("{{\"action\":\"a\",\"data\":{}", "[".repeat(60_000)),
    ] {
        client.send_text(frame).await;
        assert_eq!(client.error().await, "bad_frame", "{}", &frame[..frame.len().min(60)]);
    }
    let error = client.ask(json!({"id": "7"})).await;
    assert_eq!(error["id"], "7", "the id is echoed when it can be read");
    assert_eq!(client.ask(json!({"action": "ping", "id": 5})).await, json!({"action": "pong", "id": 5}));
}

#[tokio::test]
async fn what_is_no_text_frame_within_the_limit_closes_the_socket() {
    let mut house = House::open(|_| {}).await;
    let invalid = Frame::message(vec![b'"', 0xff, b'"'], OpCode::Data(Data::Text), true);
    let reserved = Frame::message(Vec::new(), OpCode::Data(Data::Reserved(3)), true);
    for (message, code) in [
        (Message::binary(vec![1]), 1003),
        (Message::Frame(invalid), 1007),
        (Message::text("x".repeat(300_000)), 1009),
        (Message::Frame(reserved), 1002),
    ] {
        let mut client = house.registered(json!({})).await;
        client.stream.send(message).await.unwrap();
        assert_eq!(client.close_code().await, code);
        house.disconnected("protocol").await;
    }
}

#[tokio::test]
async fn before_registration_only_register_and_ping_are_served() {
    let house = House::open(|_| {}).await;
    let mut client = house.client().await;
    for action in ["known", "unknown"] {
        assert_eq!(client.ask(json!({"action": action, "id": 1})).await["data"]["code"], "not_registered");
    }
    assert_eq!(client.ask(json!({"action": "ping"})).await["action"], "pong");
}

#[tokio::test]
async fn unknown_actions_go_to_the_handler() {
    let mut house = House::open(|_| {}).await;
    let mut client = house.registered(json!({"user_id": "u"})).await;
    assert_eq!(client.ask(json!({"action": "a", "data": [1]})).await, json!({"action": "a", "data": [1]}));
    let (operation, call) = house.call().await;
    assert_eq!((operation, &call["user_id"], &call["meta"]["attempt"]), (Operation::Fallback, &json!("u"), &json!(1)));
    let silent = client.ask(json!({"action": "a", "id": 1, "data": {"do": "silent"}})).await;
    assert_eq!(silent, json!({"action": "a", "id": 1, "data": null}), "a request gets its answer");
    let rejected = client.ask(json!({"action": "a", "id": 2, "data": {"do": "reject"}})).await;
    assert_eq!(rejected, json!({"action": "error", "id": 2, "data": {"code": "no_room", "message": "no"}}));
}

#[tokio::test]
async fn a_failing_handler_is_tried_again_then_given_up() {
    let mut house = House::open(|settings| settings.server.handler_attempts = 2).await;
    let mut client = house.registered(json!({})).await;
    *house.script.failures.lock().unwrap() = 1;
    assert_eq!(client.ask(json!({"action": "a", "id": 1, "data": 1})).await["data"], 1);
    *house.script.failures.lock().unwrap() = 2;
    assert_eq!(client.ask(json!({"action": "a", "id": 2, "data": 1})).await["data"]["code"], "failed");
    let attempts: Vec<_> = [house.call().await, house.call().await, house.call().await, house.call().await]
        .iter()
        .map(|(_, call)| call["meta"]["attempt"].as_u64().unwrap())
        .collect();
    assert_eq!(attempts, [1, 2, 1, 2]);
    super::harness::until("a dead letter", || house.queue.dead.lock().unwrap().len() == 1).await;
    let (job, reason) = house.queue.dead.lock().unwrap().remove(0);
    assert_eq!((job.action.as_str(), job.sequence, job.attempts), ("a", 2, 2), "the one that was given up alone");
    assert_eq!(reason, "the handler's fallback: boom");
}

#[tokio::test]
async fn fallback_messages_wait_in_order_up_to_their_limit() {
    let mut house = House::open(|settings| settings.server.fallback_waiting_max = 2).await;
    let mut client = house.registered(json!({})).await;
    client.send(json!({"action": "a", "id": 0, "data": "hold"})).await;
    assert_eq!(house.call().await.0, Operation::Fallback);
    for id in 1..=3 {
        client.send(json!({"action": "a", "id": id, "data": id})).await;
    }
    let busy = client.next().await;
    assert_eq!((&busy["id"], &busy["data"]["code"]), (&json!(3), &json!("busy")));
    house.script.gate.add_permits(1);
    for id in 0..=2 {
        assert_eq!(client.next().await["id"], id);
    }
}

#[tokio::test]
async fn the_queue_decides_over_known_actions() {
    let mut house = House::open(|settings| settings.limits.queue_wait = Duration::from_millis(50)).await;
    let mut client = house.registered(json!({})).await;
    let set = |house: &House, mode| *house.queue.mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    for (mode, code) in
        [(Mode::Answer(Stored::No("full".to_owned())), "busy"), (Mode::Answer(Stored::Unknown), "unconfirmed"), (Mode::Full, "busy")]
    {
        set(&house, mode);
        let error = client.ask(json!({"action": "known", "id": 1, "receipt": true})).await;
        assert_eq!((&error["id"], error["data"]["code"].as_str()), (&json!(1), Some(code)));
    }
    set(&house, Mode::Answer(Stored::Yes));
    assert_eq!(client.ask(json!({"action": "known", "receipt": true})).await, json!({"action": "accepted"}));
}

#[tokio::test]
async fn a_full_queue_pauses_the_socket_and_keeps_the_order() {
    let mut house = House::open(|settings| settings.limits.queue_wait = Duration::from_secs(30)).await;
    let mut client = house.registered(json!({})).await;
    *house.queue.mode.lock().unwrap() = Mode::Full;
    for _ in 0..3 {
        client.send(json!({"action": "known"})).await;
    }
    house.deliveries.send(Delivery::message(Address::All, "news", Json::NULL)).unwrap();
    assert_eq!(client.next().await["action"], "news", "outgoing frames go on meanwhile");
    *house.queue.mode.lock().unwrap() = Mode::Answer(Stored::Yes);
    for sequence in 1..=3 {
        assert_eq!(house.job().await.sequence, sequence);
    }
}

#[tokio::test]
async fn unanswered_requests_are_limited_and_each_is_answered_once() {
    let mut house = House::open(|settings| settings.limits.unanswered_max = 1).await;
    let mut client = house.registered(json!({})).await;
    client.send(json!({"action": "known", "id": 1})).await;
    let job = house.job().await;
    assert_eq!(client.ask(json!({"action": "known", "id": 2})).await["data"]["code"], "busy");
    let reply = Delivery {
        to: vec![Address::Session(job.session.clone())],
        except: None,
        body: Body::Reply { action: "known".to_owned(), client_id: ClientId::parse("1"), data: Json::NULL },
        origin: Some(Origin { message: MessageName::Id(job.message_id()), index: 0 }),
    };
    house.deliveries.send(reply.clone()).unwrap();
    house.deliveries.send(reply).unwrap();
    let failure = Body::Failure { client_id: ClientId::parse("1"), code: "failed".to_owned(), message: String::new() };
    let origin = Some(Origin { message: MessageName::Id(job.message_id()), index: 0 });
    house.deliveries.send(Delivery { to: vec![Address::Session(job.session.clone())], except: None, body: failure, origin }).unwrap();
    house.deliveries.send(Delivery::message(Address::All, "end", Json::NULL)).unwrap();
    assert_eq!(client.next().await, json!({"action": "known", "id": 1, "data": null}));
    assert_eq!(client.next().await["action"], "end", "the repeats were dropped");
    client.send(json!({"action": "known", "id": 3})).await;
    assert_eq!(house.job().await.client_id, ClientId::parse("3"), "its place is free again");
}

#[tokio::test]
async fn the_rate_is_limited() {
    let mut house = House::open(|settings| {
        settings.limits.messages_per_second = 1;
        settings.limits.messages_burst = 3;
    })
    .await;
    let mut client = house.registered(json!({})).await;
    for _ in 0..2 {
        assert_eq!(client.ask(json!({"action": "ping"})).await["action"], "pong");
    }
    let limited = client.ask(json!({"action": "ping", "id": 9})).await;
    assert_eq!((&limited["id"], &limited["data"]["code"]), (&json!(9), &json!("rate_limited")));
    let retry_after_ms = limited["data"]["retry_after_ms"].as_u64().unwrap();
    assert!((1..=1000).contains(&retry_after_ms), "{retry_after_ms}");
}

#[tokio::test]
async fn groups_are_joined_and_left_through_deliveries() {
    let mut house = House::open(|_| {}).await;
    let mut client = house.registered(json!({"connection_id": "alice"})).await;
    let change = |body| Delivery { to: vec![Address::Connection("alice".to_owned())], except: None, body, origin: None };
    let news = |action: &str| Delivery::message(Address::Group("red".to_owned()), action, Json::NULL);
    for delivery in [news("1"), change(Body::Join("red".to_owned())), news("2")] {
        house.deliveries.send(delivery).unwrap();
    }
    assert_eq!(client.next().await["action"], "2");
    let has_groups = |house: &House, groups: &[&str]| house.queue.entries.lock().unwrap().values().all(|entry| entry.groups == groups);
    super::harness::until("the queue knows", || has_groups(&house, &["red"])).await;
    for delivery in [change(Body::Leave("red".to_owned())), news("3"), Delivery::message(Address::All, "4", Json::NULL)] {
        house.deliveries.send(delivery).unwrap();
    }
    assert_eq!(client.next().await["action"], "4");
    super::harness::until("the queue knows", || has_groups(&house, &[])).await;
}

#[tokio::test]
async fn long_messages_arrive_whole_and_in_their_place() {
    let mut house = House::open(|settings| settings.limits.frame_out_max = bytesize::ByteSize::mib(1)).await;
    let mut client = house.registered(json!({})).await;
    let text = "ä€x".repeat(100_000 / 6 * 5);
    let too_long = Json::encode(&"x".repeat(1024 * 1024)).unwrap();
    for (action, data) in [("1", Json::NULL), ("2", Json::encode(&text).unwrap()), ("-", too_long), ("3", Json::NULL)] {
        house.deliveries.send(Delivery::message(Address::All, action, data)).unwrap();
    }
    assert_eq!(client.next().await["action"], "1");
    assert_eq!(client.next().await, json!({"action": "2", "data": text}));
    assert_eq!(client.next().await["action"], "3", "what is over the limit is left out");
}

#[tokio::test]
async fn a_delivery_leaves_the_excepted_connection_out() {
    let mut house = House::open(|_| {}).await;
    let mut alice = house.registered(json!({"connection_id": "alice", "groups": ["red"]})).await;
    let mut bob = house.registered(json!({"connection_id": "bob", "groups": ["red"]})).await;
    let delivery = Delivery::message(Address::Group("red".to_owned()), "1", Json::NULL);
    house.deliveries.send(Delivery { except: Some("alice".to_owned()), ..delivery }).unwrap();
    house.deliveries.send(Delivery::message(Address::All, "2", Json::NULL)).unwrap();
    assert_eq!(bob.next().await["action"], "1");
    assert_eq!(alice.next().await["action"], "2");
}

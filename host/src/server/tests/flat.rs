//! `protocol = "flat"`: the PHP package's shapes, and what its clients are not told.

use std::time::Duration;

use plugsocket_plugin::call::Operation;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::harness::{Client, House, until};
use super::http::{self, HEAD};
use super::queue::Mode;
use crate::config::{ActionSettings, ConnectOn, Settings};
use crate::queue::Stored;
use crate::wire::delivery::{Address, Body, Delivery, MessageName, Origin};
use crate::wire::json::Json;
use crate::wire::protocol::Protocol;

pub(super) async fn house(change: impl FnOnce(&mut Settings)) -> House {
    House::open(|settings| {
        settings.server.protocol = Protocol::Flat;
        change(settings);
    })
    .await
}

pub(super) async fn registered(house: &mut House, mut frame: Value) -> Client {
    let mut client = house.client().await;
    frame["action"] = "register".into();
    let registered = client.ask(frame).await;
    assert_eq!(registered["action"], "registred", "{registered}");
    assert_eq!(house.call().await.0, Operation::Connect);
    client
}

/// What came before this has been dealt with, and the client was told nothing about it.
pub(super) async fn nothing_came(house: &mut House, client: &mut Client) {
    let fence = json!({"action": "fence", "n": 1});
    assert_eq!(client.ask(fence.clone()).await, fence);
    assert_eq!(house.call().await.0, Operation::Fallback);
}

fn session_of(client: &Value) -> String {
    client["connection_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn each_frame_is_its_data_and_each_reply_has_its_members_beside_the_action() {
    let mut house = house(|_| {}).await;
    let mut client = registered(&mut house, json!({})).await;
    for frame in [
        r#"{"action":"ping"}"#,
        r#"{"action":"ping","id":[1],"receipt":5}"#,
        r#"{"action":"resume","id":"x"}"#,
        r#"{"action":"error","data":{"code":1}}"#,
        r#"{"action":"registered"}"#,
        r#"{"action":"draining","text":"\u00e9 😀","n":1.0}"#,
        r#"{"n":1,"action":"a","list":[1,{"action":"b"}],"none":null,"o":{}}"#,
    ] {
        client.send_text(frame).await;
        let frame: Value = serde_json::from_str(frame).unwrap();
        assert_eq!(client.next().await, frame);
        let (operation, call) = house.call().await;
        assert_eq!((operation, &call["data"], &call["action"]), (Operation::Fallback, &frame, &frame["action"]));
        assert_eq!(call["meta"].get("client_id"), None, "an id is data");
    }
    client.send(json!({"action": "known", "id": 7, "receipt": true, "data": 1})).await;
    let job = house.job().await;
    assert_eq!((job.action.as_str(), job.client_id.as_ref()), ("known", None));
    assert_eq!(job.data, Json::encode(&json!({"action": "known", "id": 7, "receipt": true, "data": 1})).unwrap());
    nothing_came(&mut house, &mut client).await;
}

#[tokio::test]
async fn messages_and_replies_of_workers_have_the_shape_too() {
    let mut house = house(|_| {}).await;
    let mut client = registered(&mut house, json!({})).await;
    client.send(json!({"action": "known"})).await;
    let job = house.job().await;
    for (data, frame) in [
        (json!({"text": "hi", "id": 5}), json!({"action": "m", "text": "hi", "id": 5})),
        (json!({"action": "mine", "data": {"action": "x"}}), json!({"action": "m", "data": {"action": "x"}})),
        (json!([1, "é"]), json!({"action": "m", "0": 1, "1": "é"})),
        (json!("hi"), json!({"action": "m", "value": "hi"})),
        (json!(7), json!({"action": "m", "value": 7})),
        (json!(null), json!({"action": "m", "value": null})),
    ] {
        let data = Json::encode(&data).unwrap();
        house.deliveries.send(Delivery::message(Address::All, "m", data.clone())).unwrap();
        assert_eq!(client.next().await, frame);
        let body = Body::Reply { action: "m".to_owned(), client_id: None, data };
        house.deliveries.send(Delivery { to: vec![Address::Session(job.session.clone())], except: None, body, origin: None }).unwrap();
        assert_eq!(client.next().await, frame);
    }
}

#[tokio::test]
async fn a_registration_is_confirmed_with_the_ids_as_they_were_given() {
    let mut house = house(|_| {}).await;
    let mut clients = Vec::new();
    for (granted, confirmed) in [
        (json!({"connection_id": 5, "user_id": "7"}), json!({"connection_id": 5, "user_id": "7"})),
        (json!({"connection_id": "a", "user_id": 7}), json!({"connection_id": "a", "user_id": 7})),
        (
            json!({"connection_id": "b", "fields": {"name": "Al", "action": "x", "message": "y"}}),
            json!({"connection_id": "b", "user_id": null, "name": "Al"}),
        ),
    ] {
        let mut client = house.client().await;
        let mut frame = granted.clone();
        (frame["action"], frame["id"], frame["token"]) = ("register".into(), 3.into(), "mine".into());
        let mut expected = confirmed;
        (expected["action"], expected["message"]) = ("registred".into(), "Registration confirmed".into());
        assert_eq!(client.ask(frame.clone()).await, expected);
        let (operation, call) = house.call().await;
        assert_eq!((operation, &call["data"]), (Operation::Connect, &frame), "connect is given the whole object");
        clients.push(client);
    }
    let mut client = house.client().await;
    let own = client.ask(json!({"action": "register"})).await;
    assert!(session_of(&own).contains('.'), "its own id: {own}");
}

#[tokio::test]
async fn a_refusal_is_silent_and_keeps_the_socket() {
    let mut house = house(|settings| settings.server.handler_timeout = Duration::from_millis(200)).await;
    let mut client = house.client().await;
    for way in ["refuse", "refuse_softly"] {
        client.send(json!({"action": "register", "do": way})).await;
        assert_eq!(house.call().await.0, Operation::Connect);
        nothing_came(&mut house, &mut client).await;
    }
    client.send(json!({"action": "register", "connection_id": "~mine"})).await;
    assert_eq!(house.call().await.0, Operation::Connect);
    house.disconnected("policy").await;
    nothing_came(&mut house, &mut client).await;
    assert_eq!(client.ask(json!({"action": "register", "user_id": 1})).await["user_id"], 1, "and then it is let in");
}

#[tokio::test]
async fn what_is_no_message_is_passed_over() {
    let mut house = house(|_| {}).await;
    let mut client = registered(&mut house, json!({})).await;
    let long_name = json!({"action": "x".repeat(129)}).to_string();
    let nested = format!("{{\"action\":\"a\",\"data\":{}", "[".repeat(60_000));
    for frame in ["", "ping", "[]", "[\"known\"]", "\"known\"", "{}", "{\"action\":null}", "{\"action\":[]}", &long_name, &nested] {
        client.send_text(frame).await;
    }
    nothing_came(&mut house, &mut client).await;
}

#[tokio::test]
async fn before_registration_only_what_nobody_serves_reaches_the_handler() {
    let list =
        toml::from_str::<std::collections::BTreeMap<String, ActionSettings>>("listed = { list = \"queues:in\", handle = \"X\" }").unwrap();
    let mut house = house(|settings| settings.actions.extend(list)).await;
    let mut client = house.client().await;
    for action in ["known", "listed"] {
        client.send(json!({"action": action})).await;
    }
    assert_eq!(client.ask(json!({"action": "hello", "n": 1})).await, json!({"action": "hello", "n": 1}), "the reply finds it");
    let (operation, call) = house.call().await;
    assert_eq!((operation, &call["connection_id"], call.get("user_id")), (Operation::Fallback, &json!(""), None));
    client.send(json!({"action": "hello", "do": "reject"})).await;
    assert_eq!(house.call().await.0, Operation::Fallback);
    assert_eq!(client.ask(json!({"action": "register"})).await["action"], "registred");
    assert_eq!(house.call().await.0, Operation::Connect);
    client.send(json!({"action": "known", "n": 2})).await;
    let job = house.job().await;
    assert_eq!(job.data, Json::encode(&json!({"action": "known", "n": 2})).unwrap(), "the one before was not kept");
    client.send(json!({"action": "hello"})).await;
    assert_eq!(house.call().await.1["connection_id"], json!(*job.connection_id), "now it has an id");
}

#[tokio::test]
async fn nothing_tells_of_errors() {
    let mut house = house(|settings| {
        settings.server.handler_attempts = 1;
        settings.limits.queue_wait = Duration::from_millis(20);
        settings.limits.messages_per_second = 1000;
        settings.limits.messages_burst = 100;
    })
    .await;
    let mut client = registered(&mut house, json!({})).await;
    client.send(json!({"action": "a", "do": "reject"})).await;
    assert_eq!(house.call().await.0, Operation::Fallback);
    *house.script.failures.lock().unwrap() = 1;
    client.send(json!({"action": "a"})).await;
    assert_eq!(house.call().await.0, Operation::Fallback);
    for mode in [Mode::Answer(Stored::No("full".to_owned())), Mode::Answer(Stored::Unknown), Mode::Full, Mode::Answer(Stored::Yes)] {
        *house.queue.mode.lock().unwrap() = mode;
        client.send(json!({"action": "known"})).await;
        nothing_came(&mut house, &mut client).await;
    }
    let job = house.job().await;
    for code in ["failed", "no_room"] {
        let body = Body::Failure { client_id: None, code: code.to_owned(), message: "no".to_owned() };
        let origin = Some(Origin { message: MessageName::Id(job.message_id()), index: 0 });
        house.deliveries.send(Delivery { to: vec![Address::Session(job.session.clone())], except: None, body, origin }).unwrap();
    }
    house.deliveries.send(Delivery::message(Address::All, "end", Json::encode(&json!({})).unwrap())).unwrap();
    assert_eq!(client.next().await, json!({"action": "end"}));
}

#[tokio::test]
async fn a_rate_is_kept_in_silence() {
    let mut house = house(|settings| {
        settings.limits.messages_per_second = 1;
        settings.limits.messages_burst = 3;
    })
    .await;
    let mut client = registered(&mut house, json!({})).await;
    for n in 0..4 {
        client.send(json!({"action": "a", "n": n})).await;
    }
    house.deliveries.send(Delivery::message(Address::All, "end", Json::NULL)).unwrap();
    let mut frames = Vec::new();
    while frames.len() < 3 {
        frames.push(client.next().await["n"].clone());
    }
    frames.sort_by_key(Value::to_string);
    assert_eq!(frames, [json!(0), json!(1), json!(null)], "two messages and what was sent to it");
}

#[tokio::test]
async fn nobody_has_to_register_and_the_idle_are_pinged() {
    let house = house(|settings| {
        settings.limits.registration_timeout = Duration::from_millis(10);
        settings.limits.ping_interval = Duration::from_millis(10);
    })
    .await;
    let mut client = house.client().await;
    // The sweep that pings has looked for who is not registered before.
    while !matches!(client.message().await, Message::Ping(_)) {}
    client.send(json!({"action": "register", "do": "refuse"})).await;
    while !matches!(client.message().await, Message::Ping(_)) {}
    assert_eq!(client.ask(json!({"action": "a"})).await, json!({"action": "a"}));
}

#[tokio::test]
async fn with_connect_on_upgrade_the_confirmation_is_the_first_frame_and_a_refusal_is_http() {
    let mut house = house(|settings| settings.server.connect_on = ConnectOn::Upgrade).await;
    let (mut client, _) = house.client_with("/", &[("x-data", r#"{"connection_id":5,"user_id":7}"#)]).await;
    let confirmed = json!({"action": "registred", "connection_id": 5, "user_id": 7, "message": "Registration confirmed"});
    assert_eq!(client.next().await, confirmed);
    assert_eq!(house.call().await.0, Operation::Connect);
    let refused = http::answer(&house, &format!("{HEAD}X-Data: {{\"do\":\"refuse\"}}\r\n\r\n")).await;
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
}

#[tokio::test]
async fn a_drain_closes_when_all_is_stored_and_says_nothing_before() {
    let mut house = house(|_| {}).await;
    let mut idle = registered(&mut house, json!({})).await;
    let mut busy = registered(&mut house, json!({})).await;
    *house.queue.mode.lock().unwrap() = Mode::Hold;
    busy.send(json!({"action": "known"})).await;
    house.job().await;
    house.stop.cancel();
    assert_eq!(idle.message().await.into_text().unwrap().as_str(), "this server is going away; connect again");
    house.disconnected("draining").await;
    busy.send(json!({"action": "known", "n": 2})).await;
    busy.send(json!({"action": "register"})).await;
    house.deliveries.send(Delivery::message(Address::All, "news", Json::NULL)).unwrap();
    assert_eq!(busy.next().await, json!({"action": "news", "value": null}), "the first frame since");
    until("it is held", || house.queue.held.lock().unwrap().len() == 1).await;
    let on_stored = house.queue.held.lock().unwrap().remove(0);
    on_stored(Stored::Yes);
    let Message::Close(Some(frame)) = busy.message().await else { panic!("no close frame") };
    assert_eq!(u16::from(frame.code), 4104);
    house.disconnected("draining").await;
    assert_eq!(house.drained().await.cut, 0);
}

#[tokio::test]
async fn who_can_not_be_registered_at_present_is_closed_to_try_again() {
    let mut house = house(|settings| {
        settings.server.handler_timeout = Duration::from_millis(200);
    })
    .await;
    *house.queue.is_announcing.lock().unwrap() = false;
    let mut unannounced = house.client().await;
    unannounced.send(json!({"action": "register"})).await;
    assert_eq!(unannounced.close_code().await, 1013);
    assert_eq!(house.call().await.0, Operation::Connect);
    house.disconnected("lost").await;
    *house.queue.is_announcing.lock().unwrap() = true;

    let mut member = registered(&mut house, json!({})).await;
    for frame in [json!({"action": "register", "do": "panic"}), json!({"action": "register", "x": "hold"})] {
        let mut newcomer = house.client().await;
        newcomer.send(frame.clone()).await;
        assert_eq!(newcomer.close_code().await, 1013, "{frame}");
        assert_eq!(house.call().await.0, Operation::Connect);
        member.send(frame.clone()).await;
        assert_eq!(house.call().await.0, Operation::Connect);
        nothing_came(&mut house, &mut member).await;
    }
}

//! Actions that PHP serves from a list.

use std::time::Duration;

use serde_json::{Value, json};

use super::harness::House;
use super::queue::Mode;
use crate::config::{ActionSettings, ListAction, Settings};
use crate::queue::Stored;

fn with_list(settings: &mut Settings) {
    let action = ListAction { list: "queues:app_in".to_owned(), handle: "\\Chat\\Actions\\X".to_owned() };
    settings.actions.insert("legacy".to_owned(), ActionSettings::List(action));
}

#[tokio::test]
async fn the_whole_object_is_pushed_with_ids_as_the_handler_gave_them() {
    let mut house = House::open(with_list).await;
    let mut clients = Vec::new();
    for (granted, connection_id, user_id) in [
        (json!({"connection_id": "alice", "user_id": "7"}), json!("alice"), json!("7")),
        (json!({"connection_id": 12, "user_id": -7}), json!(12), json!(-7)),
        (json!({"connection_id": "13"}), json!("13"), Value::Null),
    ] {
        let mut client = house.registered(granted).await;
        client.send_text(r#"{"action":"legacy","data":{"text":"a\/b"},"room":[1.0],"x":"é"}"#).await;
        let (list, item) = house.item().await;
        assert_eq!(list, "queues:app_in");
        assert_eq!((&item["connection_id"], &item["user_id"]), (&connection_id, &user_id));
        assert_eq!(item["data"], json!({"action": "legacy", "data": {"text": "a/b"}, "room": [1.0], "x": "é"}));
        assert_eq!(item["handle"], "\\Chat\\Actions\\X");
        let time = item["meta"]["time"].as_u64().unwrap();
        assert!((1_700_000_000..10_000_000_000).contains(&time), "whole seconds: {time}");
        assert_eq!(item.as_object().unwrap().len(), 5);
        clients.push(client);
    }
    let mut client = house.registered(json!({})).await;
    client.send(json!({"action": "legacy"})).await;
    assert!(house.item().await.1["connection_id"].as_str().unwrap().contains('.'), "the session's own id");
}

#[tokio::test]
async fn a_request_is_answered_when_it_is_pushed() {
    let mut house = House::open(|settings| {
        with_list(settings);
        settings.limits.unanswered_max = 1;
    })
    .await;
    let mut client = house.registered(json!({})).await;
    for id in [json!(1), json!("b")] {
        client.send(json!({"action": "legacy", "id": id, "receipt": true})).await;
        assert_eq!(client.next().await, json!({"action": "accepted", "id": id}));
        assert_eq!(client.next().await, json!({"action": "legacy", "id": id, "data": null}), "and its place is free again");
    }
    client.send(json!({"action": "legacy"})).await;
    assert_eq!(client.ask(json!({"action": "legacy", "receipt": true})).await, json!({"action": "accepted"}), "nothing for the first");
    assert_eq!(client.ask(json!({"action": "ping"})).await["action"], "pong");
}

#[tokio::test]
async fn what_is_not_pushed_is_told() {
    let mut house = House::open(|settings| {
        with_list(settings);
        settings.limits.queue_wait = Duration::from_millis(50);
    })
    .await;
    let mut client = house.client().await;
    assert_eq!(client.ask(json!({"action": "legacy"})).await["data"]["code"], "not_registered");
    let mut client = house.registered(json!({})).await;
    for (mode, code) in
        [(Mode::Answer(Stored::No("full".to_owned())), "busy"), (Mode::Answer(Stored::Unknown), "unconfirmed"), (Mode::Full, "busy")]
    {
        *house.queue.mode.lock().unwrap() = mode;
        for id in [json!(1), Value::Null] {
            let error = client.ask(json!({"action": "legacy", "id": id, "receipt": true})).await;
            assert_eq!((&error["id"], error["data"]["code"].as_str()), (&id, Some(code)));
        }
    }
    *house.queue.mode.lock().unwrap() = Mode::Answer(Stored::Yes);
    client.send_text(r#"{"action":"legacy","id":2,"data":"\ud83d"}"#).await;
    let error = client.next().await;
    assert_eq!((&error["id"], &error["data"]["code"]), (&json!(2), &json!("bad_frame")), "PHP could not read it: {error}");
    assert_eq!(client.ask(json!({"action": "legacy", "id": 3})).await, json!({"action": "legacy", "id": 3, "data": null}));
}

#[tokio::test]
async fn a_full_queue_pauses_the_socket_and_keeps_the_order() {
    let mut house = House::open(|settings| {
        with_list(settings);
        settings.limits.queue_wait = Duration::from_secs(30);
    })
    .await;
    let mut client = house.registered(json!({})).await;
    *house.queue.mode.lock().unwrap() = Mode::Full;
    for number in 0..3 {
        client.send(json!({"action": "legacy", "n": number})).await;
    }
    *house.queue.mode.lock().unwrap() = Mode::Answer(Stored::Yes);
    for number in 0..3 {
        assert_eq!(house.item().await.1["data"]["n"], number);
    }
}

#[tokio::test]
async fn who_waits_for_its_message_to_be_pushed_stays_for_that() {
    let mut house = House::open(with_list).await;
    *house.queue.mode.lock().unwrap() = Mode::Hold;
    let mut client = house.registered(json!({})).await;
    client.send(json!({"action": "legacy", "id": 1})).await;
    client.send(json!({"action": "legacy", "receipt": true})).await;
    house.item().await;
    house.item().await;
    house.stop.cancel();
    assert_eq!(client.next().await["action"], "draining");
    let held = std::mem::take(&mut *house.queue.held.lock().unwrap());
    for on_stored in held {
        on_stored(Stored::Yes);
    }
    assert_eq!(client.next().await, json!({"action": "legacy", "id": 1, "data": null}));
    assert_eq!(client.next().await, json!({"action": "accepted"}));
    assert_eq!(client.close_code().await, 4104);
    house.disconnected("draining").await;
    assert_eq!(house.drained().await.cut, 0);
}

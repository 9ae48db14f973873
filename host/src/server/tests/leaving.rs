//! A server that drains: clients are told when to come back, and stay until they have their answers.

use std::time::Duration;

use serde_json::json;

use super::harness::{Client, House};
use super::queue::Mode;
use crate::queue::Stored;
use crate::wire::delivery::{Address, Delivery};
use crate::wire::json::Json;

/// Begins the drain and answers what the client was told about coming back.
async fn dismissed(house: &House, client: &mut Client) -> u64 {
    house.stop.cancel();
    let frame = client.next().await;
    assert_eq!(frame["action"], "draining", "{frame}");
    frame["data"]["reconnect_after_ms"].as_u64().unwrap()
}

#[tokio::test]
async fn who_is_owed_nothing_goes_at_once() {
    let mut house = House::open(|settings| settings.server.drain_window = Duration::from_secs(2)).await;
    let mut registered = house.registered(json!({})).await;
    let mut unregistered = house.client().await;
    for client in [&mut registered, &mut unregistered] {
        assert!(dismissed(&house, client).await < 2000);
        assert_eq!(client.close_code().await, 4104);
    }
    house.disconnected("draining").await;
    house.drained().await;
}

#[tokio::test]
async fn who_waits_for_an_answer_stays_for_it_and_may_begin_nothing_new() {
    let mut house = House::open(|_| {}).await;
    let mut client = house.registered(json!({})).await;
    client.send(json!({"action": "a", "data": "hold", "id": 1})).await;
    house.call().await;
    let reconnect_after_ms = dismissed(&house, &mut client).await;
    for request in [json!({"action": "b", "id": 2}), json!({"action": "known", "id": 2}), json!({"action": "register", "id": 2})] {
        let answer = client.ask(request).await;
        assert_eq!((&answer["id"], &answer["data"]["code"]), (&json!(2), &json!("busy")), "{answer}");
        assert_eq!(answer["data"]["retry_after_ms"], reconnect_after_ms);
    }
    assert_eq!(client.ask(json!({"action": "ping", "id": 3})).await["action"], "pong");
    house.deliveries.send(Delivery::message(Address::All, "news", Json::NULL)).unwrap();
    assert_eq!(client.next().await["action"], "news", "what others send still arrives");
    house.script.gate.add_permits(1);
    assert_eq!(client.next().await, json!({"action": "a", "id": 1, "data": "hold"}));
    assert_eq!(client.close_code().await, 4104);
    house.disconnected("draining").await;
    assert_eq!(house.drained().await.cut, 0);
    house.no_more_calls();
}

#[tokio::test]
async fn a_registration_under_way_is_waited_for() {
    let mut house = House::open(|_| {}).await;
    let mut client = house.client().await;
    client.send(json!({"action": "register", "data": {"fields": {"x": "hold"}}})).await;
    house.call().await;
    dismissed(&house, &mut client).await;
    house.script.gate.add_permits(2); // for `disconnect` too, which is given the same field
    assert_eq!(client.next().await["action"], "registered");
    assert_eq!(client.close_code().await, 4104);
    house.disconnected("draining").await;
    assert_eq!(house.drained().await.cut, 0);
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_waited_for_while_there_is_time_for_disconnects() {
    let mut house = House::open(|settings| settings.server.drain_timeout = Duration::from_secs(2)).await;
    let mut client = house.registered(json!({})).await;
    client.send(json!({"action": "known", "id": 1})).await;
    house.job().await;
    let begin = std::time::Instant::now();
    dismissed(&house, &mut client).await;
    assert_eq!(client.close_code().await, 4104);
    assert!(begin.elapsed() >= Duration::from_secs(1), "{:?}", begin.elapsed());
    house.disconnected("draining").await;
    assert_eq!(house.drained().await.cut, 0, "it was closed in time");
}

#[tokio::test]
async fn the_moments_to_come_back_are_spread() {
    let mut house = House::open(|_| {}).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(house.registered(json!({})).await);
    }
    let mut moments = Vec::new();
    for client in &mut clients {
        moments.push(dismissed(&house, client).await);
    }
    moments.sort_unstable();
    assert!(moments[19] - moments[0] > 3_000 && moments[19] < 10_000, "{moments:?}");
    house.drained().await;
}

#[tokio::test]
async fn a_message_without_an_id_is_waited_for_until_it_is_stored() {
    let mut house = House::open(|_| {}).await;
    let mut client = house.registered(json!({})).await;
    *house.queue.mode.lock().unwrap() = Mode::Hold;
    client.send(json!({"action": "known", "receipt": true})).await;
    house.job().await;
    dismissed(&house, &mut client).await;
    assert_eq!(client.ask(json!({"action": "ping"})).await["action"], "pong", "it is still here");
    let on_stored = house.queue.held.lock().unwrap().pop().unwrap();
    on_stored(Stored::Yes);
    assert_eq!(client.next().await, json!({"action": "accepted"}));
    assert_eq!(client.close_code().await, 4104);
    house.disconnected("draining").await;
    house.drained().await;
}

//! From `register` to an identity, and from one identity to the next.

use std::time::Duration;

use plugsocket_plugin::call::Operation;
use serde_json::json;

use super::harness::{House, until};
use crate::wire::delivery::{Address, Body, Delivery};
use crate::wire::ids::{NodeId, SessionId};
use crate::wire::json::Json;

#[tokio::test]
async fn a_client_registers_and_may_pipeline() {
    let mut house = House::open(|_| {}).await;
    let mut client = house.client().await;
    client.send(json!({"action": "register", "id": 1, "data": {"user_id": 7, "fields": {"name": "Al"}, "groups": ["red"]}})).await;
    client.send(json!({"action": "echo", "id": 2, "data": {"a": 1}})).await;
    client.send(json!({"action": "known", "id": "3", "data": [1], "receipt": true})).await;
    let registered = client.next().await;
    assert_eq!((&registered["action"], &registered["id"]), (&json!("registered"), &json!(1)));
    assert_eq!((&registered["data"]["user_id"], &registered["data"]["name"]), (&json!(7), &json!("Al")));
    let (_, connect) = house.call().await;
    assert_eq!((&connect["path"], &connect["query"], &connect["ip"]), (&json!("/ws"), &json!("room=1"), &json!("127.0.0.1")));
    assert_eq!(connect["connection_id"], registered["data"]["connection_id"]);
    let answers = [client.next().await, client.next().await];
    assert!(answers.contains(&json!({"action": "echo", "id": 2, "data": {"a": 1}})), "{answers:?}");
    assert!(answers.contains(&json!({"action": "accepted", "id": "3"})), "{answers:?}");
    let job = house.job().await;
    assert_eq!((job.action.as_str(), job.sequence, job.user_id.as_deref()), ("known", 2, Some("7")));
    assert_eq!((job.data, job.ip.as_str()), (Json::encode(&[1]).unwrap(), "127.0.0.1"));
    assert_eq!(house.sessions.registered(), 1);
    assert!(house.sessions.is_ready());
}

#[tokio::test]
async fn a_refusal_says_why_and_closes_unless_asked_not_to() {
    let house = House::open(|_| {}).await;
    let mut client = house.client().await;
    let refused = client.ask(json!({"action": "register", "id": 1, "data": {"do": "refuse_softly"}})).await;
    assert_eq!(refused, json!({"action": "error", "id": 1, "data": {"code": "refused", "message": "not yet"}}));
    client.send(json!({"action": "register", "data": {"do": "refuse"}})).await;
    assert_eq!(client.error().await, "refused");
    assert_eq!(client.close_code().await, 4003);
}

#[tokio::test]
async fn without_a_working_handler_the_client_is_told_to_try_again() {
    let house = House::open(|settings| settings.server.handler_timeout = Duration::from_millis(100)).await;
    let mut client = house.client().await;
    let busy = client.ask(json!({"action": "register", "data": {"do": "panic"}})).await;
    assert_eq!((&busy["data"]["code"], &busy["data"]["retry_after_ms"]), (&json!("busy"), &json!(1000)));
    client.send(json!({"action": "register", "data": "hold"})).await;
    assert_eq!(client.error().await, "busy");
    let live = house.plugins.0.lock().unwrap().take();
    client.send(json!({"action": "register"})).await;
    assert_eq!(client.error().await, "busy");
    assert!(!house.sessions.is_ready());
    *house.plugins.0.lock().unwrap() = live;
    assert_eq!(client.ask(json!({"action": "register"})).await["action"], "registered");
}

#[tokio::test]
async fn an_unusable_identity_ends_at_once() {
    let mut house = House::open(|_| {}).await;
    let mut client = house.client().await;
    for data in
        [json!({"connection_id": "~mine"}), json!({"connection_id": "x".repeat(201)}), json!({"groups": ["a\nb"]}), json!({"user_id": ""})]
    {
        client.send(json!({"action": "register", "data": data})).await;
        assert_eq!(client.error().await, "failed", "{data}");
        assert_eq!(house.call().await.0, Operation::Connect);
        house.disconnected("policy").await;
    }
    assert_eq!(client.ask(json!({"action": "x"})).await["data"]["code"], "not_registered");
}

#[tokio::test]
async fn a_second_register_with_the_same_id_replaces_the_identity() {
    let mut house = House::open(|_| {}).await;
    let mut client = house.registered(json!({"connection_id": "alice", "user_id": "1", "fields": {"n": 1}})).await;
    client.ask(json!({"action": "register", "data": {"connection_id": "alice", "user_id": "2", "fields": {"n": 2}}})).await;
    assert_eq!(house.call().await.0, Operation::Connect);
    drop(client);
    let identity = house.disconnected("client").await;
    assert_eq!((&identity["user_id"], &identity["fields"]["n"]), (&json!("2"), &json!(2)));
    house.drained().await;
    house.no_more_calls();
}

#[tokio::test]
async fn a_second_register_with_another_id_ends_the_first() {
    let mut house = House::open(|_| {}).await;
    let mut client = house.registered(json!({"connection_id": "alice"})).await;
    client.ask(json!({"action": "register", "data": {"connection_id": "bob"}})).await;
    assert_eq!(house.call().await.0, Operation::Connect);
    assert_eq!(house.disconnected("reregistered").await["connection_id"], "alice");
    let entries: Vec<_> = house.queue.entries.lock().unwrap().values().map(|entry| entry.connection_id.clone()).collect();
    assert_eq!(entries, ["bob"]);
    drop(client);
    assert_eq!(house.disconnected("client").await["connection_id"], "bob");
    until("the queue forgets it", || house.queue.entries.lock().unwrap().is_empty()).await;
    house.drained().await;
    house.no_more_calls();
}

#[tokio::test]
async fn a_refused_second_register_leaves_the_first_in_force() {
    let mut house = House::open(|_| {}).await;
    let mut client = house.registered(json!({"connection_id": "alice"})).await;
    client.send(json!({"action": "register", "data": {"do": "refuse_softly"}})).await;
    assert_eq!(client.error().await, "refused");
    assert_eq!(client.ask(json!({"action": "echo", "data": 1})).await["data"], 1);
}

#[tokio::test]
async fn a_newer_connection_with_the_same_id_replaces_the_older() {
    let mut house = House::open(|_| {}).await;
    let mut older = house.registered(json!({"connection_id": "alice"})).await;
    let mut newer = house.registered(json!({"connection_id": "alice"})).await;
    assert_eq!(older.close_code().await, 4009);
    house.disconnected("replaced").await;
    let to = Address::Connection("alice".to_owned());
    house.deliveries.send(Delivery::message(to, "hi", Json::NULL)).unwrap();
    assert_eq!(newer.next().await["action"], "hi");
}

#[tokio::test]
async fn an_older_connection_on_another_node_is_asked_to_go() {
    let mut house = House::open(|_| {}).await;
    let older = SessionId::random(&NodeId::random().unwrap()).unwrap();
    *house.queue.elsewhere.lock().unwrap() = Some(older.clone());
    let mut client = house.registered(json!({"connection_id": "alice"})).await;
    let mut request = house.sent.recv().await.unwrap();
    assert_eq!(request.to, [Address::Session(older)]);
    assert!(matches!(request.body, Body::Close(_)));
    request.to = vec![Address::Connection("alice".to_owned())];
    house.deliveries.send(request).unwrap();
    assert_eq!(client.close_code().await, 4009, "on the node that gets it, it means 4009");
}

#[tokio::test]
async fn a_registration_that_can_not_be_announced_does_not_hold() {
    let mut house = House::open(|_| {}).await;
    *house.queue.is_announcing.lock().unwrap() = false;
    let mut client = house.client().await;
    client.send(json!({"action": "register"})).await;
    assert_eq!(client.error().await, "busy");
    assert_eq!(house.call().await.0, Operation::Connect);
    house.disconnected("lost").await;
    *house.queue.is_announcing.lock().unwrap() = true;
    assert_eq!(client.ask(json!({"action": "register"})).await["action"], "registered");
}

#[tokio::test]
async fn a_socket_that_closes_while_connect_is_pending_gets_its_disconnect() {
    let mut house = House::open(|_| {}).await;
    let mut client = house.client().await;
    client.send(json!({"action": "register", "data": {"connection_id": "alice", "x": "hold"}})).await;
    assert_eq!(house.call().await.0, Operation::Connect);
    drop(client);
    house.script.gate.add_permits(1);
    assert_eq!(house.disconnected("client").await["connection_id"], "alice");
    until("the session is gone", || house.sessions.open() == 0).await;
    house.drained().await;
    house.no_more_calls();
}

#[tokio::test]
async fn a_registration_waits_for_a_busy_handler_no_longer_than_a_call_may_take() {
    let mut house = House::open(|settings| {
        settings.server.handler_calls_max = 1;
        settings.server.handler_attempts = 50;
        settings.server.handler_timeout = Duration::from_millis(100);
    })
    .await;
    let mut client = house.registered(json!({})).await;
    client.send(json!({"action": "a", "data": "hold"})).await;
    assert_eq!(house.call().await.0, Operation::Fallback);
    let mut second = house.client().await;
    assert_eq!(second.ask(json!({"action": "register", "id": 1})).await["data"]["code"], "busy");
    house.script.gate.add_permits(1);
    until("the handler is free", || house.sessions.handler_calls() == 0).await;
    assert_eq!(second.ask(json!({"action": "register", "id": 2})).await["action"], "registered");
    let registrations = std::iter::from_fn(|| house.try_call()).filter(|call| call.0 == Operation::Connect).count();
    assert_eq!(registrations, 1, "what was given up is not asked");
}

#[tokio::test]
async fn who_does_not_register_is_closed() {
    let house = House::open(|settings| settings.limits.registration_timeout = Duration::from_millis(50)).await;
    assert_eq!(house.client().await.close_code().await, 4101);
}

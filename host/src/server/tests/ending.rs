//! Every way a session ends, and the one `disconnect` that follows.

use std::time::Duration;

use futures_util::StreamExt;
use plugsocket_plugin::call::Operation;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::harness::{House, PATIENCE, until};
use crate::config::SlowConsumer;
use crate::wire::delivery::{Address, Body, Delivery};
use crate::wire::json::Json;

#[tokio::test]
async fn the_client_closes_or_its_connection_breaks() {
    let mut house = House::open(|_| {}).await;
    let mut polite = house.registered(json!({"connection_id": "a"})).await;
    polite.stream.close(None).await.unwrap();
    assert!(
        tokio::time::timeout(PATIENCE, polite.stream.next())
            .await
            .expect("the server closes too")
            .is_none_or(|last| last.unwrap().is_close())
    );
    assert_eq!(house.disconnected("client").await["connection_id"], "a");
    let broken = house.registered(json!({"connection_id": "b"})).await;
    broken.stream.get_ref().set_zero_linger().unwrap();
    drop(broken);
    assert_eq!(house.disconnected("client").await["connection_id"], "b");
    until("the queue forgets both", || house.queue.entries.lock().unwrap().is_empty()).await;
    until("the server forgets both", || house.sessions.open() == 0).await;
    house.drained().await;
    house.no_more_calls();
}

#[tokio::test]
async fn the_application_closes() {
    let mut house = House::open(|_| {}).await;
    let mut client = house.registered(json!({"user_id": "7"})).await;
    let (to, body) = (vec![Address::User("7".to_owned())], Body::Close("bye".to_owned()));
    house.deliveries.send(Delivery::message(Address::All, "last", Json::NULL)).unwrap();
    house.deliveries.send(Delivery { to, except: None, body, origin: None }).unwrap();
    assert_eq!(client.next().await["action"], "last", "what was sent before arrives");
    let Some(Ok(Message::Close(Some(frame)))) = client.stream.next().await else { panic!("no close frame") };
    assert_eq!((u16::from(frame.code), frame.reason.as_str()), (4000, "bye"));
    house.disconnected("application").await;
}

#[tokio::test]
async fn who_is_silent_is_pinged_then_closed() {
    let mut house = House::open(|settings| {
        settings.limits.ping_interval = Duration::from_millis(500);
        settings.limits.idle_timeout = Duration::from_millis(2500);
    })
    .await;
    // A client that is not read from answers no pings.
    let mut silent = house.registered(json!({})).await;
    house.disconnected("idle").await;
    let Some(Ok(Message::Ping(_))) = silent.stream.next().await else { panic!("no ping") };
    assert_eq!(silent.close_code().await, 4102);
}

#[tokio::test]
async fn a_slow_consumer_is_closed() {
    let mut house = House::open(|settings| settings.limits.slow_consumer = SlowConsumer::Close).await;
    let client = house.registered(json!({})).await;
    let data = Json::encode(&"x".repeat(500_000)).unwrap();
    // Far more than the kernel's own buffers take.
    for _ in 0..40 {
        house.deliveries.send(Delivery::message(Address::All, "news", data.clone())).unwrap();
    }
    house.disconnected("slow_consumer").await;
    drop(client);
}

#[tokio::test]
async fn disconnect_follows_the_messages_before_it() {
    let mut house = House::open(|_| {}).await;
    let mut client = house.registered(json!({})).await;
    client.send(json!({"action": "a", "data": "hold"})).await;
    client.send(json!({"action": "b"})).await;
    assert_eq!(house.call().await.1["action"], "a");
    client.stream.close(None).await.unwrap();
    drop(client);
    house.script.gate.add_permits(1);
    assert_eq!(house.call().await.1["action"], "b");
    house.disconnected("client").await;
}

#[tokio::test]
async fn a_failing_disconnect_is_tried_again() {
    let mut house = House::open(|_| {}).await;
    let client = house.registered(json!({})).await;
    *house.script.failures.lock().unwrap() = 2;
    drop(client);
    for _ in 0..3 {
        house.disconnected("client").await;
    }
    house.drained().await;
    house.no_more_calls();
}

#[tokio::test]
async fn draining_closes_all_and_waits_for_their_disconnects() {
    let mut house = House::open(|_| {}).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(house.registered(json!({})).await);
    }
    let unregistered = house.client().await;
    let drained = {
        let reading = async {
            let mut codes = Vec::new();
            for client in &mut clients {
                codes.push(client.close_code().await);
            }
            codes
        };
        let (drained, codes) = tokio::join!(house.drained(), reading);
        assert!(codes.iter().all(|code| *code == 4104), "{codes:?}");
        drained
    };
    assert_eq!((drained.cut, drained.calls_cut), (0, 0));
    for _ in 0..20 {
        house.disconnected("draining").await;
    }
    house.no_more_calls();
    assert!(house.queue.entries.lock().unwrap().is_empty());
    assert!(tokio::net::TcpStream::connect(house.address).await.is_err(), "nobody is accepted any more");
    drop(unregistered);
}

#[tokio::test]
async fn a_slow_disconnect_is_not_made_twice() {
    let mut house = House::open(|settings| settings.server.handler_timeout = Duration::from_millis(50)).await;
    house.script.gate.add_permits(1); // for `connect`
    let client = house.registered(json!({"fields": {"x": "hold"}, "connection_id": "a"})).await;
    drop(client);
    house.disconnected("client").await;
    until("it is given up", || house.sessions.handler_calls() == 0).await;
    house.drained().await;
    house.no_more_calls();
}

#[tokio::test]
async fn a_queue_that_is_away_delays_no_disconnect() {
    let mut house = House::open(|settings| {
        settings.server.handler_calls_max = 2;
        settings.server.drain_timeout = Duration::from_millis(500);
    })
    .await;
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(house.registered(json!({})).await);
    }
    *house.queue.is_announcing.lock().unwrap() = false;
    drop(clients);
    for _ in 0..10 {
        house.disconnected("client").await;
    }
    *house.queue.is_announcing.lock().unwrap() = true;
    until("the queue forgets all", || house.queue.entries.lock().unwrap().is_empty()).await;
}

#[tokio::test]
async fn draining_does_not_wait_for_ever() {
    let mut house = House::open(|settings| settings.server.drain_timeout = Duration::from_millis(200)).await;
    let mut client = house.registered(json!({})).await;
    client.send(json!({"action": "a", "data": "hold"})).await;
    assert_eq!(house.call().await.0, Operation::Fallback);
    let (drained, code) = tokio::join!(house.drained(), client.close_code());
    assert_eq!((drained.cut, drained.calls_cut, code), (0, 2, 4104), "the held message, and the disconnect behind it");
}

//! Clients that take little or nothing, users that send too much, and what a broadcast costs.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use super::harness::{House, TestPlugins, until};
use super::queue;
use crate::config::Settings;
use crate::queue::Entry;
use crate::server::delivery::pass_on;
use crate::server::node::Node;
use crate::server::outlet::Outgoing;
use crate::server::session::Session;
use crate::wire::delivery::{Address, Body, Delivery};
use crate::wire::ids::{NodeId, SessionId};
use crate::wire::json::Json;

#[tokio::test]
async fn who_takes_nothing_is_cut_after_its_time_and_others_are_not() {
    let mut house = House::open(|settings| {
        settings.limits.write_timeout = Duration::from_secs(1);
        settings.limits.outgoing_max = bytesize::ByteSize::mib(64);
    })
    .await;
    let mut other = house.registered(json!({"connection_id": "other"})).await;
    let stuck = house.registered(json!({"connection_id": "stuck"})).await;
    let data = Json::encode(&"x".repeat(500_000)).unwrap();
    // Far more than the kernel's own buffers take.
    for _ in 0..40 {
        house.deliveries.send(Delivery::message(Address::Connection("stuck".to_owned()), "news", data.clone())).unwrap();
    }
    assert_eq!(house.disconnected("slow_consumer").await["connection_id"], "stuck");
    until("nothing waits any more", || house.sessions.open() == 1).await;
    assert_eq!(other.ask(json!({"action": "echo", "data": 1})).await["data"], 1);
    // Not even the close frame could be told: the connection is reset.
    let mut bytes = vec![0; 1 << 20];
    let end = loop {
        stuck.stream.get_ref().readable().await.unwrap();
        match stuck.stream.get_ref().try_read(&mut bytes) {
            Ok(0) => panic!("an orderly end"),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => break error.kind(),
        }
    };
    assert_eq!(end, std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_user_has_one_rate_for_all_its_connections() {
    let mut house = House::open(|settings| {
        settings.limits.user_messages_per_second = 1;
        settings.limits.user_messages_burst = 3;
    })
    .await;
    let mut first = house.registered(json!({"user_id": "ann"})).await;
    let mut second = house.registered(json!({"user_id": "ann"})).await;
    let mut ben = house.registered(json!({"user_id": "ben"})).await;
    for _ in 0..2 {
        assert_eq!(first.ask(json!({"action": "echo", "data": 1})).await["action"], "echo");
    }
    assert_eq!(second.ask(json!({"action": "echo", "data": 1})).await["action"], "echo");
    let error = second.ask(json!({"action": "echo", "id": 9})).await;
    assert_eq!((&error["id"], &error["data"]["code"]), (&json!(9), &json!("rate_limited")), "{error}");
    assert!(error["data"]["message"].as_str().unwrap().contains("user"), "{error}");
    assert!((1..=1001).contains(&error["data"]["retry_after_ms"].as_u64().unwrap()), "{error}");
    assert_eq!(ben.ask(json!({"action": "echo", "data": 2})).await["data"], 2);
    assert_eq!(second.ask(json!({"action": "ping"})).await["action"], "pong", "what is no message has no place in it");
}

#[tokio::test]
async fn a_broadcast_is_made_once_and_its_bytes_are_shared() {
    let settings = Arc::new(arc_swap::ArcSwap::from_pointee(Settings::default()));
    let plugins = Arc::new(TestPlugins(Mutex::new(None)));
    let node = Arc::new(Node::new(NodeId::random().unwrap(), queue::open().queue, plugins, Arc::clone(&settings)));
    let sessions: Vec<_> = (0..100)
        .map(|_| {
            let id = SessionId::random(&node.id).unwrap();
            let ip = IpAddr::from([127, 0, 0, 1]);
            let session = Arc::new(Session::new((id.clone(), ip), Arc::clone(&settings), (Arc::clone(&node.backlog), <_>::default()), 0));
            node.roster.admit(Arc::clone(&session));
            let (connection_id, identity) = (id.to_string(), Bytes::new());
            node.roster.enter(&Entry { session: id, connection_id, user_id: None, groups: Vec::new(), identity }, || {});
            session
        })
        .collect();
    pass_on(&node, Delivery::message(Address::All, "news", Json::encode(&"x".repeat(1000)).unwrap()));
    assert_eq!(node.backlog.waiting().holders, 100);
    let places: Vec<_> = sessions
        .iter()
        .map(|session| {
            let Some(Outgoing::Frame(frame)) = session.outlet.take() else { panic!("no frame") };
            frame.as_ptr()
        })
        .collect();
    assert!(places.iter().all(|place| *place == places[0]));
    drop(sessions);
}

#[tokio::test]
async fn what_was_sent_before_a_close_arrives_although_it_is_more_than_the_network_takes_at_once() {
    const FRAMES: usize = 40;
    let mut house = House::open(|settings| {
        settings.limits.outgoing_max = bytesize::ByteSize::mib(64);
        settings.limits.write_timeout = Duration::from_millis(500);
    })
    .await;
    house.script.gate.add_permits(1);
    let mut slow = house.registered(json!({"connection_id": "slow", "fields": {"x": "hold"}})).await;
    let to = || Address::Connection("slow".to_owned());
    let data = Json::encode(&"x".repeat(500_000)).unwrap();
    for _ in 0..FRAMES {
        house.deliveries.send(Delivery::message(to(), "news", data.clone())).unwrap();
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    house.deliveries.send(Delivery { to: vec![to()], except: None, body: Body::Close("bye".to_owned()), origin: None }).unwrap();
    // The call takes its time; the end of the connection has a time limit of its own meanwhile.
    house.disconnected("application").await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    for _ in 0..FRAMES {
        assert_eq!(slow.next().await["action"], "news");
    }
    assert_eq!(slow.close_code().await, 4000);
    house.script.gate.add_permits(1);
    until("nothing is left", || house.sessions.open() == 0).await;
}

#[tokio::test]
async fn who_is_in_the_middle_of_a_long_message_is_not_silent() {
    use tokio::io::AsyncWriteExt;
    let mut house = House::open(|settings| {
        settings.limits.idle_timeout = Duration::from_secs(2);
        settings.limits.ping_interval = Duration::from_secs(1);
    })
    .await;
    let mut client = house.registered(json!({})).await;
    let message = json!({"action": "echo", "data": "x".repeat(200)}).to_string();
    let mut frame = vec![0x81, 0xfe, 0, u8::try_from(message.len()).unwrap(), 0, 0, 0, 0];
    frame.extend(message.as_bytes());
    for piece in frame.chunks(frame.len() / 8) {
        client.stream.get_mut().write_all(piece).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(client.next().await["action"], "echo");
}

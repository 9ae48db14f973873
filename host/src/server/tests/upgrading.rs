//! `connect_on = "upgrade"`: the handler decides before a socket is a WebSocket.

use std::time::Duration;

use plugsocket_plugin::call::Operation;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use super::harness::{House, PATIENCE, until};
use super::http::{self, HEAD};
use crate::config::{ConnectOn, Settings};
use crate::wire::delivery::{Address, Body, Delivery};
use crate::wire::json::Json;

async fn house(change: impl FnOnce(&mut Settings)) -> House {
    House::open(|settings| {
        settings.server.connect_on = ConnectOn::Upgrade;
        change(settings);
    })
    .await
}

fn request(data: &Value) -> String {
    format!("{HEAD}X-Data: {data}\r\n\r\n")
}

#[tokio::test]
async fn registered_is_the_first_frame_and_the_client_need_not_register() {
    let mut house = house(|settings| {
        settings.limits.registration_timeout = Duration::from_millis(10);
        settings.limits.ping_interval = Duration::from_millis(10);
    })
    .await;
    let data = json!({"user_id": 7, "groups": ["red"], "fields": {"name": "Al"}}).to_string();
    let (mut client, _) = house.client_with("/ws?room=1", &[("x-data", &data)]).await;
    let Message::Text(first) = client.message().await else { panic!("no text frame") };
    let first: Value = serde_json::from_str(&first).unwrap();
    assert_eq!((&first["action"], &first["data"]["user_id"], &first["data"]["name"]), (&json!("registered"), &json!(7), &json!("Al")));
    let (operation, call) = house.call().await;
    assert_eq!(
        (operation, &call["path"], &call["query"], &call["ip"]),
        (Operation::Connect, &json!("/ws"), &json!("room=1"), &json!("127.0.0.1"))
    );
    assert_eq!((&call["connection_id"], &call["data"]), (&first["data"]["connection_id"], &Value::Null));
    let send = Body::Message { action: "hi".to_owned(), data: Json::encode(&1).unwrap() };
    house.deliveries.send(Delivery { to: vec![Address::Group("red".to_owned())], except: None, body: send, origin: None }).unwrap();
    assert_eq!(client.next().await, json!({"action": "hi", "data": 1}));
    // The sweep that pings has looked for who is not registered before.
    while !matches!(client.message().await, Message::Ping(_)) {}
    assert_eq!(client.ask(json!({"action": "register", "data": {"user_id": 8}})).await["data"]["user_id"], 8);
    assert_eq!(house.call().await.0, Operation::Connect);
    drop(client);
    assert_eq!(house.disconnected("client").await["user_id"], 8);
    house.drained().await;
    house.no_more_calls();
}

#[tokio::test]
async fn a_refusal_is_an_http_status() {
    let mut house = house(|settings| settings.server.handler_timeout = Duration::from_millis(200)).await;
    for (data, status, named) in [
        (json!({"do": "refuse"}), "403", "no entry"),
        (json!({"do": "refuse_softly"}), "403", "not yet"),
        (json!({"do": "refuse", "status": 401}), "401", "WWW-Authenticate: Bearer\r\n"),
        (json!({"do": "refuse", "status": 429}), "429", "no entry"),
        (json!({"do": "panic"}), "503", "Retry-After: 1\r\n"),
        (json!("hold"), "503", "did not answer in time"),
    ] {
        let answer = http::answer(&house, &request(&data)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(named), "{data}: {answer}");
        assert_eq!(house.call().await.0, Operation::Connect);
    }
    let answer = http::answer(&house, &request(&json!({"connection_id": "~mine"}))).await;
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    assert_eq!(house.call().await.0, Operation::Connect);
    house.disconnected("policy").await;
    let live = house.plugins.0.lock().unwrap().take();
    assert!(http::answer(&house, &request(&json!({}))).await.starts_with("HTTP/1.1 503 "));
    *house.plugins.0.lock().unwrap() = live;
    until("nobody is left", || house.sessions.open() == 0).await;
    let (mut client, _) = house.client_with("/", &[]).await;
    assert_eq!(client.next().await["action"], "registered");
}

#[tokio::test]
async fn who_leaves_while_the_handler_decides_is_told_of_all_the_same() {
    let mut house = house(|_| {}).await;
    let mut socket = TcpStream::connect(house.address).await.unwrap();
    socket.write_all(request(&json!({"user_id": "hold"})).as_bytes()).await.unwrap();
    assert_eq!(house.call().await.0, Operation::Connect);
    drop(socket);
    house.script.gate.add_permits(2);
    assert_eq!(house.disconnected("client").await["user_id"], "hold");
    until("nobody is left", || house.sessions.open() == 0 && house.queue.entries.lock().unwrap().is_empty()).await;
    house.drained().await;
    house.no_more_calls();
}

#[tokio::test]
async fn a_server_that_drains_meanwhile_says_so_and_takes_the_grant_back() {
    let mut house = house(|_| {}).await;
    let mut socket = TcpStream::connect(house.address).await.unwrap();
    socket.write_all(request(&json!({"user_id": "hold"})).as_bytes()).await.unwrap();
    assert_eq!(house.call().await.0, Operation::Connect);
    house.stop.cancel();
    until("it drains", || house.sessions.is_draining()).await;
    house.script.gate.add_permits(2);
    house.disconnected("draining").await;
    let mut answer = String::new();
    timeout(PATIENCE, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("Retry-After"), "{answer}");
    drop(socket);
    let drained = house.drained().await;
    assert_eq!((drained.cut, drained.calls_cut), (0, 0));
    house.no_more_calls();
}

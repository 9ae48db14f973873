//! `protocol = "flat"`: one socket that registers again, and several with one connection id.

use std::time::Duration;

use plugsocket_plugin::call::Operation;
use serde_json::json;

use super::flat::{house, nothing_came, registered};
use super::harness::{Client, House, until};
use super::issuer::{Issuer, in_seconds};
use crate::config::{TokenAlgorithm, TokenKey};
use crate::server::replace::REPLACED;
use crate::wire::delivery::{Address, Body, Delivery};
use crate::wire::ids::{NodeId, SessionId};
use crate::wire::json::Json;

fn send(house: &House, to: Address, action: &str) {
    house.deliveries.send(Delivery::message(to, action, Json::encode(&json!({})).unwrap())).unwrap();
}

fn alice() -> Address {
    Address::Connection("alice".to_owned())
}

async fn gets(client: &mut Client, action: &str) {
    assert_eq!(client.next().await, json!({ "action": action }));
}

#[tokio::test]
async fn a_second_register_replaces_the_identity_and_another_id_ends_the_old_one_first() {
    let mut house = house(|_| {}).await;
    let mut client = registered(&mut house, json!({"connection_id": "alice", "user_id": 1, "groups": ["red"]})).await;
    let again = client.ask(json!({"action": "register", "connection_id": "alice", "user_id": 2})).await;
    assert_eq!((&again["action"], &again["user_id"]), (&json!("registred"), &json!(2)));
    assert_eq!(house.call().await.0, Operation::Connect, "and no disconnect");
    for (to, action) in [(Address::User("1".into()), "1"), (Address::Group("red".into()), "2"), (Address::User("2".into()), "3")] {
        send(&house, to, action);
    }
    gets(&mut client, "3").await;
    client.send(json!({"action": "register", "connection_id": "bob"})).await;
    assert_eq!(house.call().await.0, Operation::Connect);
    assert_eq!(house.disconnected("reregistered").await["connection_id"], "alice");
    assert_eq!(client.next().await["connection_id"], "bob");
    client.send(json!({"action": "register", "do": "refuse"})).await;
    assert_eq!(house.call().await.0, Operation::Connect);
    send(&house, Address::Connection("bob".into()), "still");
    gets(&mut client, "still").await;
    drop(client);
    assert_eq!(house.disconnected("client").await["connection_id"], "bob");
    house.drained().await;
    house.no_more_calls();
}

#[tokio::test]
async fn of_two_with_one_id_the_newer_gets_what_is_for_it_and_the_older_stays() {
    let mut house = house(|_| {}).await;
    let frame = |user: u32| json!({"connection_id": "alice", "user_id": user, "groups": ["red"]});
    let mut older = registered(&mut house, frame(1)).await;
    let mut newer = registered(&mut house, frame(2)).await;
    let mut other = registered(&mut house, json!({"connection_id": "bob", "groups": ["red"]})).await;
    for (to, action) in [(alice(), "directed"), (Address::User("1".into()), "user 1"), (Address::Group("red".into()), "red")] {
        send(&house, to, action);
    }
    let to_red = Delivery::message(Address::Group("red".into()), "but alice", Json::NULL);
    house.deliveries.send(Delivery { except: Some("alice".to_owned()), ..to_red }).unwrap();
    send(&house, Address::All, "all");
    for (client, actions) in [(&mut older, &["user 1", "red", "all"][..]), (&mut newer, &["directed", "red", "all"])] {
        for action in actions {
            gets(client, action).await;
        }
    }
    gets(&mut other, "red").await;
    assert_eq!(other.next().await["action"], "but alice", "`except` means all who have the id");
    nothing_came(&mut house, &mut older).await;
    drop(older);
    assert_eq!(house.disconnected("client").await["user_id"], 1);
    until("it has left", || house.sessions.open() == 2).await;
    for (to, action) in [(alice(), "directed"), (Address::User("2".into()), "user 2"), (Address::Group("red".into()), "red")] {
        send(&house, to, action);
        gets(&mut newer, action).await;
    }
    drop(newer);
    assert_eq!(house.disconnected("client").await["user_id"], 2);
    assert_eq!(house.queue.entries.lock().unwrap().len(), 1);
    house.drained().await;
    house.disconnected("draining").await;
    house.no_more_calls();
}

#[tokio::test]
async fn when_the_newer_leaves_first_the_older_is_who_is_meant_again() {
    let mut house = house(|_| {}).await;
    let frame = |user: u32| json!({"connection_id": "alice", "user_id": user});
    let mut clients = [registered(&mut house, frame(1)).await, registered(&mut house, frame(2)).await];
    let third = registered(&mut house, frame(3)).await;
    drop(third);
    house.disconnected("client").await;
    until("it has left", || house.sessions.open() == 2).await;
    send(&house, alice(), "2");
    gets(&mut clients[1], "2").await;
    // Whoever registers anew is the newest.
    assert_eq!(clients[0].ask(json!({"action": "register", "connection_id": "alice", "user_id": 4})).await["user_id"], 4);
    assert_eq!(house.call().await.0, Operation::Connect);
    send(&house, alice(), "4");
    gets(&mut clients[0], "4").await;
    let [first, mut second] = clients;
    drop(first);
    house.disconnected("client").await;
    until("it has left", || house.sessions.open() == 1).await;
    send(&house, alice(), "once more");
    gets(&mut second, "once more").await;
    nothing_came(&mut house, &mut second).await;
}

#[tokio::test]
async fn a_newer_one_on_another_node_does_not_close_it() {
    let mut house = house(|_| {}).await;
    let elsewhere = SessionId::random(&NodeId::random().unwrap()).unwrap();
    *house.queue.elsewhere.lock().unwrap() = Some(elsewhere.clone());
    let mut client = registered(&mut house, json!({"connection_id": "alice"})).await;
    // The other server decides by the protocol of its own clients.
    let told = house.sent.recv().await.unwrap();
    assert_eq!((told.to, told.body), (vec![Address::Session(elsewhere)], Body::Close(REPLACED.to_owned())));
    for reason in [REPLACED, "out"] {
        let body = Body::Close(reason.to_owned());
        house.deliveries.send(Delivery { to: vec![alice()], except: None, body, origin: None }).unwrap();
        if reason == REPLACED {
            send(&house, Address::All, "all");
            gets(&mut client, "all").await;
        }
    }
    assert_eq!(client.close_code().await, 4000);
    house.disconnected("application").await;
}

#[tokio::test]
async fn tokens_are_asked_for_and_end_as_ever() {
    let (issuer, dir) = (Issuer::eddsa(), tempfile::tempdir().unwrap());
    let file = dir.path().join("key.pem");
    std::fs::write(&file, &issuer.key_file).unwrap();
    let mut house = house(|settings| {
        settings.server.token.keys = vec![TokenKey { algorithm: TokenAlgorithm::EdDsa, file, id: None }];
        settings.server.token.from = vec!["register:token".to_owned()];
        settings.server.token.leeway = Duration::ZERO;
    })
    .await;
    let mut stranger = house.client().await;
    assert_eq!(stranger.ask(json!({"action": "hello"})).await, json!({"action": "hello"}), "the fallback is for everybody");
    assert_eq!(house.call().await.0, Operation::Fallback);
    stranger.send(json!({"action": "register", "token": "no"})).await;
    assert_eq!(stranger.close_code().await, 4003);
    let token = issuer.token(&json!({"sub": "7", "exp": in_seconds(2)}));
    let mut client = house.client().await;
    let confirmed = client.ask(json!({"action": "register", "token": token, "user_id": 7, "groups": ["red"]})).await;
    assert_eq!(confirmed["user_id"], 7);
    let (_, call) = house.call().await;
    assert_eq!((&call["claims"]["sub"], &call["data"]), (&json!("7"), &json!({"action": "register", "user_id": 7, "groups": ["red"]})));
    client.send(json!({"action": "register", "token": "no"})).await;
    assert!(client.message().await.is_close(), "no warning, no error, only the end");
    house.disconnected("expired").await;
}

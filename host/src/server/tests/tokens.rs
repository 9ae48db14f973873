//! Who has no good token does not come in, and who has one stays as long as it is good.

use std::time::Duration;

use plugsocket_plugin::call::Operation;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::harness::House;
use super::http::{self, HEAD};
use super::issuer::{Issuer, in_seconds};
use crate::config::{ConnectOn, Settings, TokenAlgorithm, TokenKey};

struct Door {
    house: House,
    issuer: Issuer,
    _dir: TempDir,
}

impl Door {
    async fn open(from: &[&str], change: impl FnOnce(&mut Settings)) -> Self {
        let (issuer, dir) = (Issuer::eddsa(), tempfile::tempdir().unwrap());
        let file = dir.path().join("key.pem");
        std::fs::write(&file, &issuer.key_file).unwrap();
        let house = House::open(|settings| {
            settings.server.token.keys = vec![TokenKey { algorithm: TokenAlgorithm::EdDsa, file, id: None }];
            settings.server.token.from = from.iter().map(|place| (*place).to_owned()).collect();
            settings.server.token.leeway = Duration::ZERO;
            change(settings);
        })
        .await;
        Self { house, issuer, _dir: dir }
    }

    fn token(&self, sub: &str, seconds: i64) -> String {
        self.issuer.token(&json!({"sub": sub, "exp": in_seconds(seconds)}))
    }

    /// The next call is a `connect` with these claims, and the token is nowhere in it.
    async fn connected(&mut self, sub: &str) -> Value {
        let (operation, call) = self.house.call().await;
        assert_eq!((operation, call["claims"]["sub"].as_str()), (Operation::Connect, Some(sub)), "{call}");
        assert!(!call.to_string().contains("eyJ"), "{call}");
        call
    }
}

const EVERYWHERE: [&str; 4] = ["header:Authorization", "query:token", "subprotocol:bearer", "register:token"];

#[tokio::test]
async fn a_token_counts_in_each_place() {
    let mut door = Door::open(&EVERYWHERE, |_| {}).await;
    let token = door.token("7", 600);
    let (bearer, query, offers) = (format!("Bearer {token}"), format!("/ws?token={token}&room=1"), format!("bearer, {token}"));
    for (target, headers, protocol) in [
        ("/", &[("authorization", bearer.as_str())][..], None),
        (query.as_str(), &[], None),
        ("/", &[("sec-websocket-protocol", offers.as_str())], Some("bearer".to_owned())),
    ] {
        let (mut client, answered) = door.house.client_with(target, headers).await;
        assert_eq!(answered, protocol);
        assert_eq!(client.ask(json!({"action": "register"})).await["action"], "registered");
        let call = door.connected("7").await;
        assert!(call["query"] == "" || call["query"] == "room=1", "{call}");
        drop(client);
        door.house.disconnected("client").await;
    }
    let mut client = door.house.client().await;
    let data = json!({"user_id": 9, "token": token});
    assert_eq!(client.ask(json!({"action": "register", "data": data})).await["data"]["user_id"], 9);
    assert_eq!(door.connected("7").await["data"], json!({"user_id": 9}));
    assert_eq!(client.ask(json!({"action": "register", "data": {"user_id": 10}})).await["data"]["user_id"], 10, "known from before");
    door.connected("7").await;
}

#[tokio::test]
async fn without_a_good_token_nobody_comes_in() {
    let door = Door::open(&EVERYWHERE, |_| {}).await;
    let foreign = Issuer::eddsa().token(&json!({"exp": in_seconds(600)}));
    let two = format!("{0}\r\nAuthorization: Bearer {0}", door.token("7", 600));
    for (token, named) in
        [(door.token("7", -1), "has expired"), (foreign.clone(), "not signed"), ("x".into(), "malformed"), (two, "malformed")]
    {
        let answer = http::answer(&door.house, &format!("{HEAD}Authorization: Bearer {token}\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains(named), "{answer}");
        assert!(answer.contains("WWW-Authenticate: Bearer error=\"invalid_token\"\r\n") && !answer.contains("eyJ"), "{answer}");
    }
    for data in [json!(null), json!({}), json!({"token": foreign}), json!({"token": 7}), json!({"token": door.token("7", -1)})] {
        let mut client = door.house.client().await;
        let refused = client.ask(json!({"action": "register", "id": 1, "data": data})).await;
        assert_eq!((&refused["id"], &refused["data"]["code"]), (&json!(1), &json!("refused")), "{data}: {refused}");
        assert_eq!(client.close_code().await, 4003, "{data}");
    }
    let mut house = door.house;
    house.drained().await;
    house.no_more_calls();
}

#[tokio::test]
async fn a_token_that_can_not_come_later_is_asked_for_at_once() {
    for (from, connect_on) in [(&EVERYWHERE[..3], ConnectOn::Register), (&EVERYWHERE[..], ConnectOn::Upgrade)] {
        let mut door = Door::open(from, |settings| settings.server.connect_on = connect_on).await;
        let answer = http::answer(&door.house, &format!("{HEAD}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 401 ") && answer.contains("WWW-Authenticate: Bearer\r\n"), "{answer}");
        let bearer = format!("Bearer {}", door.token("7", 600));
        let (mut client, _) = door.house.client_with("/", &[("authorization", &bearer)]).await;
        if connect_on == ConnectOn::Register {
            // Its own `token`: there is nothing to renew yet.
            client.send(json!({"action": "register", "data": {"token": 1}})).await;
        }
        assert_eq!(client.next().await["action"], "registered");
        let call = door.connected("7").await;
        assert_eq!(call["data"], if connect_on == ConnectOn::Register { json!({"token": 1}) } else { Value::Null });
    }
}

#[tokio::test]
async fn the_end_of_a_token_is_told_and_a_fresh_one_goes_on() {
    for connect_on in [ConnectOn::Register, ConnectOn::Upgrade] {
        let mut door = Door::open(&EVERYWHERE[..1], |settings| {
            settings.server.connect_on = connect_on;
            settings.server.token.expiry_warning = Duration::from_secs(3600);
        })
        .await;
        let bearer = format!("Bearer {}", door.token("7", 30));
        let (mut client, _) = door.house.client_with("/", &[("authorization", &bearer)]).await;
        if connect_on == ConnectOn::Register {
            client.send(json!({"action": "register"})).await;
        }
        assert_eq!(client.next().await["action"], "registered");
        door.connected("7").await;
        let warned = client.next().await;
        assert_eq!(warned["action"], "expiring");
        assert!((1..=30_000).contains(&warned["data"]["expires_in_ms"].as_u64().unwrap()), "{warned}");
        // A bad one changes nothing.
        client.send(json!({"action": "register", "data": {"token": door.token("7", -1)}})).await;
        assert_eq!(client.error().await, "refused");
        // The next sweep warns of a fresh one, too, and says how long that one is.
        let data = json!({"connection_id": "mine", "token": door.token("8", 100)});
        assert_eq!(client.ask(json!({"action": "register", "data": data})).await["data"]["connection_id"], "mine");
        assert_eq!(door.connected("8").await["data"], json!({"connection_id": "mine"}));
        door.house.disconnected("reregistered").await;
        let warned = client.next().await;
        assert!(warned["data"]["expires_in_ms"].as_u64().unwrap() > 30_000, "{warned}");
        client.send(json!({"action": "register", "data": {"connection_id": "mine", "token": door.token("8", 2)}})).await;
        assert_eq!(client.next().await["action"], "registered");
        door.connected("8").await;
        assert_eq!(client.close_code().await, 4010);
        assert_eq!(door.house.disconnected("expired").await["connection_id"], "mine");
    }
}

#[tokio::test]
async fn a_fresh_token_that_is_still_being_decided_outlives_the_old_one() {
    for grants in [true, false] {
        let mut door = Door::open(&EVERYWHERE, |settings| settings.server.token.expiry_warning = Duration::ZERO).await;
        let mut client = door.house.client().await;
        let old = json!({"user_id": 1, "token": door.token("7", 3)});
        assert_eq!(client.ask(json!({"action": "register", "data": old})).await["action"], "registered");
        door.connected("7").await;
        let what = if grants { Value::Null } else { json!("refuse_softly") };
        let fresh = json!({"user_id": 2, "do": what, "x": "hold", "token": door.token("7", 600)});
        client.send(json!({"action": "register", "data": fresh})).await;
        door.connected("7").await;
        tokio::time::sleep(Duration::from_millis(4_500)).await;
        door.house.script.gate.add_permits(1);
        let warned = client.next().await;
        assert_eq!(warned["data"]["expires_in_ms"], 0, "{warned}");
        if grants {
            assert_eq!(client.next().await["data"]["user_id"], 2, "the old one's end is nobody's any more");
            assert_eq!(client.ask(json!({"action": "ping"})).await["action"], "pong");
        } else {
            assert_eq!(client.error().await, "refused");
            assert_eq!(client.close_code().await, 4010, "the old one counts again, and it has ended");
        }
    }
}

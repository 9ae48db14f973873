//! Subscribing and leaving, against the mock host.

use plugsocket_plugin::call::Target;
use plugsocket_plugin::prelude::*;
use plugsocket_plugin::testing::{self, MockContext};
use ring::hmac;

use crate::door::Door;
use crate::subscribe::{Subscribe, Unsubscribe};

const SECRET: &str = "a secret that both know";

fn config() -> Config {
    Config::from(json!({ "secret": SECRET }))
}

/// What the application would answer for this connection; the golden vectors are in `auth`.
fn sign(signed: &str) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), signed.as_bytes());
    tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn subscribe(context: &MockContext, connection: &str, data: Value) -> Outcome {
    Subscribe::new(&config()).unwrap().handle(&testing::message("subscribe").connection(connection).data(data).build(), context)
}

fn enter(context: &MockContext, connection: &str, user: &Value) -> Value {
    let channel_data = json!({ "user_id": user, "user_info": { "name": format!("user {user}") } }).to_string();
    let hex = sign(&format!("{connection}:presence-room:1700000300:{channel_data}"));
    let data =
        json!({ "action": "subscribe", "channel": "presence-room", "auth": format!("1700000300:{hex}"), "channel_data": channel_data });
    subscribe(context, connection, data).unwrap().to_json().unwrap()
}

fn unsubscribe(context: &MockContext, connection: &str, channel: &str) -> Outcome {
    let data = json!({ "action": "unsubscribe", "channel": channel });
    Unsubscribe.handle(&testing::message("unsubscribe").connection(connection).data(data).build(), context)
}

fn code(outcome: Outcome) -> String {
    match outcome {
        Err(Failure::Reject { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

fn world() -> MockContext {
    MockContext::new().with_connection("c1", None, &[]).with_connection("c2", None, &[]).with_connection("c3", None, &[])
}

fn news(user: u32) -> Value {
    json!({ "channel": "presence-room", "user_id": user, "user_info": { "name": format!("user {user}") } })
}

#[test]
fn public_channels_are_open_and_private_ones_need_auth() {
    let context = world();
    assert_eq!(subscribe(&context, "c1", json!({ "channel": "news" })), Ok(Reply::json(json!({ "channel": "news" }))));
    assert_eq!(context.joined(), [("channel:news".to_owned(), "c1".to_owned())]);
    for channel in ["private-orders.1", "presence-room"] {
        assert_eq!(code(subscribe(&context, "c1", json!({ "channel": channel }))), "bad_auth");
    }
    let auth = format!("1700000300:{}", sign("c1:private-orders.1:1700000300"));
    let private = |auth: &str| subscribe(&context, "c1", json!({ "channel": "private-orders.1", "auth": auth, "channel_data": "ignored" }));
    assert!(private(&auth).is_ok());
    let ended = format!("1699999999:{}", sign("c1:private-orders.1:1699999999"));
    assert_eq!(code(private(&ended)), "expired", "the mock's message came at 1700000000");
    assert_eq!(context.joined().len(), 2);
    for _ in 0..2 {
        assert!(unsubscribe(&context, "c1", "news").is_ok());
    }
    assert_eq!(context.left(), [("channel:news".to_owned(), "c1".to_owned())]);
    assert!(context.sent().is_empty());
}

#[test]
fn names_and_numbers_have_limits() {
    for bad in ["", "a b", "a:b", "a\n", &"x".repeat(165)] {
        assert_eq!(code(subscribe(&world(), "c1", json!({ "channel": bad }))), "bad_channel");
        assert_eq!(code(unsubscribe(&world(), "c1", bad)), "bad_channel");
    }
    let context = world();
    for number in 0..100 {
        subscribe(&context, "c1", json!({ "channel": format!("n{number}") })).unwrap();
    }
    assert_eq!(code(subscribe(&context, "c1", json!({ "channel": "one-more" }))), "too_many_channels");
    assert!(subscribe(&context, "c1", json!({ "channel": "n1" })).is_ok(), "being in already costs nothing");
    for data in ["{}", r#"{"user_id":""}"#, r#"{"user_id":1.5}"#, "no json", &format!(r#"{{"user_id":1,"x":"{}"}}"#, "x".repeat(4096))] {
        let auth = format!("1700000300:{}", sign(&format!("c1:presence-room:1700000300:{data}")));
        let outcome = subscribe(&world(), "c1", json!({ "channel": "presence-room", "auth": auth, "channel_data": data }));
        assert_eq!(code(outcome), "bad_data", "{data}");
    }
}

#[test]
fn presence_tells_each_user_once() {
    let context = world();
    let member = |user: u32| json!({ "user_id": user, "user_info": { "name": format!("user {user}") } });
    assert_eq!(enter(&context, "c1", &json!(7))["members"], json!([member(7)]));
    assert_eq!(enter(&context, "c2", &json!(7))["members"], json!([member(7)]), "another tab of the same user");
    assert_eq!(enter(&context, "c3", &json!(8))["members"], json!([member(8), member(7)]));
    enter(&context, "c3", &json!(8)); // The same again.
    assert_eq!(context.sent_as("joining"), [news(7), news(8)]);
    let sent = &context.sent()[0];
    assert_eq!((&sent.to, sent.except.as_deref()), (&Target::Group("channel:presence-room".to_owned()), Some("c1")));

    unsubscribe(&context, "c1", "presence-room").unwrap();
    assert!(context.sent_as("leaving").is_empty(), "its other tab is still there");
    unsubscribe(&context, "c2", "presence-room").unwrap();
    unsubscribe(&context, "c2", "presence-room").unwrap();
    assert_eq!(context.sent_as("leaving"), [news(7)]);
    assert_eq!(enter(&context, "c1", &json!(7))["members"], json!([member(7), member(8)]));
    assert_eq!(context.sent_as("joining").len(), 3);
}

#[test]
fn who_comes_again_as_another_user_leaves_as_the_first() {
    let context = world();
    enter(&context, "c1", &json!(7));
    enter(&context, "c1", &json!(8));
    assert_eq!((context.sent_as("joining"), context.sent_as("leaving")), (vec![news(7), news(8)], vec![news(7)]));
}

#[test]
fn a_connection_that_ends_leaves_its_channels_and_counts_no_more() {
    let context = world();
    for connection in ["c1", "c2"] {
        enter(&context, connection, &json!(7));
    }
    context.disconnect("c2", "gone, and its handler told nobody").unwrap();
    let door = Door::new(&config()).unwrap();
    let goodbye = || door.disconnect(&Identity::new().with_connection_id("c1"), "client", &context);
    goodbye();
    assert_eq!(context.sent_as("leaving"), [news(7)]);
    goodbye();
    assert_eq!(context.sent_as("leaving").len(), 1);
    assert_eq!(context.store().get("channels:c1").unwrap(), None);
}

#[test]
fn tabs_that_close_together_are_told_at_least_once() {
    let context = world();
    for connection in ["c1", "c2"] {
        enter(&context, connection, &json!(7));
    }
    for connection in ["c1", "c2"] {
        context.disconnect(connection, "the window was closed").unwrap();
    }
    for connection in ["c1", "c2"] {
        Door.disconnect(&Identity::new().with_connection_id(connection), "client", &context);
    }
    assert_eq!(context.sent_as("leaving"), [news(7), news(7)], "as the README says");
}

#[test]
fn who_went_before_its_subscription_was_run_leaves_at_once() {
    let context = world();
    context.disconnect("c1", "its goodbye was before").unwrap();
    let channel_data = r#"{"user_id":7,"user_info":{"name":"user 7"}}"#;
    let auth = format!("1700000300:{}", sign(&format!("c1:presence-room:1700000300:{channel_data}")));
    let outcome = subscribe(&context, "c1", json!({ "channel": "presence-room", "auth": auth, "channel_data": channel_data }));
    assert_eq!(outcome, Ok(Reply::none()));
    assert_eq!((context.sent_as("joining"), context.sent_as("leaving")), (vec![news(7)], vec![news(7)]));
    for key in ["channels:c1", "member:presence-room:c1"] {
        assert_eq!(context.store().get(key).unwrap(), None, "{key}");
    }
}

#[test]
fn a_token_says_who_one_is() {
    let connect = |claims: Value| Door.connect(&testing::connect_request("c1").claims(claims).build(), &MockContext::new());
    assert_eq!(connect(json!({ "sub": 7 })).unwrap().user_id(), Some(&Id::from(7_i64)));
    for claims in [json!({}), json!({ "sub": "" }), json!({ "sub": [7] })] {
        assert!(matches!(connect(claims), Err(Refusal::Refused { reason, status: Some(401), .. }) if reason.contains("`sub`")));
    }
    assert_eq!(connect(Value::Null), Ok(Identity::new()), "no token is checked");
}

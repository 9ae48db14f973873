//! Promise: whatever PHP pushes reaches exactly whom it names, once, with its data as it was; what can't be sent is set aside with the reason.

use serde_json::{Value, json};

use crate::harness::app::{App, metric};
use crate::harness::client::Client;
use crate::harness::{PATIENCE, eventually, php};

const LIST: &str = "queues:plugsocket_out";
const DEAD: &str = "ps:{plugsocket}:php:dead";

/// What user 7 gets on its first connection, with the data.
fn for_seven() -> Vec<(&'static str, Value)> {
    vec![
        ("slashes", json!({"url": "https://example.org/"})),
        ("escapes", json!({"text": "é😀\0\u{2028}"})),
        ("plain", json!({"text": "é😀/"})),
        ("pretty", json!({"text": "<&'\">"})),
        ("empty_list", json!([])),
        ("empty_object", json!({})),
        ("nothing", Value::Null),
        ("numbers", json!([1.0, 0.1, i64::MAX, -0.0])),
        ("numeric", json!([7, 1000])),
        ("substituted", json!("a\u{fffd}")),
        ("partial", json!([null, 1])),
        ("long", json!("ä".repeat(100_000))),
        ("text_id", Value::Null),
        ("float_id", Value::Null),
        ("calculated_id", Value::Null),
        ("several", Value::Null),
        ("not_to_all", Value::Null),
        ("to_all", Value::Null),
        ("except_nobody", Value::Null),
        ("unknown_keys", Value::Null),
    ]
}

/// Why each item that can't be sent is set aside, in their order.
const REASONS: [&str; 15] = [
    "item is empty: json_encode has failed in PHP",
    "item is empty: json_encode has failed in PHP",
    "over the limit of 1048576 bytes",
    "`user_id` is no id",
    "`user_id` is no id",
    "`connection_id` is no id",
    "`except` is no id",
    "addressed to nobody",
    "addressed to nobody",
    "addressed to nobody",
    "addressed to nobody",
    "item has no action",
    "item has no action",
    "item is no JSON",
    "item has no action",
];

/// Action and data of what came before the end.
async fn received(client: &mut Client) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    loop {
        let mut frame = client.next_where("a frame of PHP", |frame| frame["action"] != "heartbeat").await;
        let action = frame["action"].as_str().unwrap().to_owned();
        if action == "end" {
            return found;
        }
        found.push((action, frame["data"].take()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_php_writes_reaches_whom_it_names() {
    let app = App::start(2, 0);
    let urls = app.urls();
    let mut clients = Vec::new();
    let mut connection = Value::Null;
    // Ids of the same number in both JSON types, on two servers; and two that look alike as floats.
    for (server, user) in
        [(0, json!(7)), (1, json!("7")), (1, json!(-5)), (0, json!(9_007_199_254_740_993_i64)), (1, json!("9007199254740992"))]
    {
        let mut client = Client::connect(&urls[server]).await;
        let data = client.register(json!({"nickname": "Ada", "user_id": user})).await;
        if clients.is_empty() {
            connection = data["connection_id"].clone();
        }
        clients.push(client);
    }
    let mut php = php::start("php_input/push.php", &app.redis, &[LIST, connection.as_str().unwrap()]);
    assert!(php.wait_exit(PATIENCE).success(), "{:?}", php.lines());
    assert_eq!(php.lines(), ["pushed"]);

    let first = received(&mut clients[0]).await;
    let expected: Vec<_> = for_seven().into_iter().map(|(action, data)| (action.to_owned(), data)).collect();
    for (got, expected) in first.iter().zip(&expected) {
        assert!(got == expected, "{} instead of {}", got.0, expected.0);
    }
    assert_eq!(first.len(), expected.len());
    let mut of_second: Vec<&str> = expected.iter().map(|(action, _)| action.as_str()).collect();
    of_second.splice(18..18, ["except", "except_one_of_two"]);
    let actions = |frames: Vec<(String, Value)>| frames.into_iter().map(|(action, _)| action).collect::<Vec<_>>();
    assert_eq!(actions(received(&mut clients[1]).await), of_second);
    assert_eq!(actions(received(&mut clients[2]).await), ["negative_id", "to_all", "except"]);
    assert_eq!(actions(received(&mut clients[3]).await), ["large_id", "large_id_behind", "to_all", "except"]);
    assert_eq!(actions(received(&mut clients[4]).await), ["to_all", "except"]);

    let dead = async || app.redis.cli(&["LLEN", DEAD]) == REASONS.len().to_string();
    eventually("the dead items", PATIENCE, dead).await;
    for (index, reason) in REASONS.into_iter().enumerate() {
        let item: Value = serde_json::from_str(&app.redis.cli(&["LINDEX", DEAD, &index.to_string()])).unwrap();
        assert!(item["reason"].as_str().unwrap().contains(reason), "{index}: {} instead of {reason}", item["reason"]);
    }
    let counts = |name: &str| app.servers.iter().map(|server| metric(server, name).parse::<usize>().unwrap_or(0)).sum::<usize>();
    assert_eq!(counts("plugsocket_php_items_dead_total"), REASONS.len());
    assert_eq!(counts("plugsocket_php_items_total"), for_seven().len() + 5 + REASONS.len() + 1);
    assert_eq!(counts("plugsocket_deliveries_unreadable_total"), 0, "what is routed can be read");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_out_list_of_the_wrong_type_is_said_and_served_when_it_is_mended() {
    let app = App::start(2, 0);
    let mut client = Client::connect(&app.urls()[1]).await;
    let id = client.register(json!({"nickname": "Ada", "user_id": 7})).await["connection_id"].as_str().unwrap().to_owned();
    app.redis.cli(&["SET", LIST, "x"]);
    for server in &app.servers {
        server.wait_line(&format!("DEL '{LIST}'"), PATIENCE);
    }
    app.redis.cli(&["DEL", LIST]);
    let mut php = php::start("php_input/push.php", &app.redis, &[LIST, &id]);
    assert!(php.wait_exit(PATIENCE).success(), "{:?}", php.lines());
    assert_eq!(received(&mut client).await.len(), for_seven().len());
}

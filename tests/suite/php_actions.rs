//! Promise: an action that PHP serves from a list works beside those of plugins, for the same clients.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::app::{App, metric};
use crate::harness::client::Client;
use crate::harness::config::Config;
use crate::harness::process::Process;
use crate::harness::{PATIENCE, START_PATIENCE, eventually, php, plugin, tool};

const IN: &str = "queues:plugsocket_in";
const OUT: &str = "queues:plugsocket_out";

/// An action that a class of `php_actions/worker.php` handles.
fn served_by(class: &str) -> toml::Table {
    let members = [("list", IN.to_owned()), ("handle", format!("\\Chat\\Actions\\{class}"))];
    members.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
}

fn with_php(config: Config) -> Config {
    config.with("actions.legacy", served_by("Legacy")).with("actions.crash", served_by("Crash"))
}

/// PHP's worker, taking.
fn worker(app: &App) -> Process {
    let php = php::start("php_actions/worker.php", &app.redis, &[IN, OUT]);
    php.wait_line("taking from", START_PATIENCE);
    php
}

#[tokio::test(flavor = "multi_thread")]
async fn php_and_a_plugin_serve_the_same_client_side_by_side() {
    let app = App::start_with(1, 1, with_php);
    let php = worker(&app);
    // PHP's own worker passes over what is not of its shape.
    app.redis.cli(&["RPUSH", IN, "no json", "[]", r#"{"connection_id":"a","handle":"\\No\\Such"}"#]);
    for (user, kind) in [(json!(7), "integer"), (json!("7"), "string"), (json!(-9_007_199_254_740_993_i64), "integer")] {
        let mut client = Client::connect(&app.urls()[0]).await;
        client.register(json!({"nickname": "Ada", "user_id": user})).await;
        assert_eq!(client.request("legacy", json!({"text": "hi"})).await, Value::Null, "pushed is all that is known of it");
        let answer = client.next_action("legacy").await;
        assert_eq!(answer["types"], json!(["string", kind, "array", "integer"]));
        assert_eq!((&answer["user"], &answer["got"]["action"], &answer["got"]["data"]), (&user, &json!("legacy"), &json!({"text": "hi"})));
        assert!(answer["age"].as_i64().is_some_and(|age| (0..60).contains(&age)), "seconds: {answer}");
        assert_eq!(client.request("echo", json!([1])).await["echo"], json!([1]));
        for n in 0..20 {
            client.send("legacy", json!(n), None).await;
            client.send("echo", json!(n), None).await;
        }
        for n in 0..20 {
            assert_eq!(client.next_action("legacy").await["got"]["data"], n, "in order");
            assert_eq!(client.next_action("echo").await["echo"], n);
        }
    }
    assert_eq!(php.lines().iter().filter(|line| line.starts_with("ignored: ")).count(), 3, "{:?}", php.lines());
    assert_eq!(metric(&app.servers[0], "plugsocket_php_pushed_total"), "63");
}

#[tokio::test(flavor = "multi_thread")]
async fn php_reads_whatever_a_client_sent() {
    let app =
        App::start_with(1, 0, |config| with_php(config).with("limits.json_depth_max", 2000).with("actions.length", served_by("Length")));
    let php = worker(&app);
    let mut client = Client::enter(&app.urls()[0], "Ada").await;
    let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    for data in [
        r#""a\/b \u00e9\ud83d\ude00 \\ud800 é😀 \u0000""#,
        "[]",
        "{}",
        "-0.5e-3",
        "12345678901234567890",
        "\" \u{2028}\u{7f}\"",
        r#"{"":1,"\u0000a":2}"#,
    ] {
        client.send_raw(Message::text(format!("\n {{\"action\" : \"legacy\", \"data\":{data}, \"more\":[true]}}\t"))).await;
        let answer = client.next_action("legacy").await;
        assert_eq!(answer["got"]["more"], json!([true]));
        if !data.starts_with("{\"") && !data.starts_with("12345") && !data.starts_with("{}") {
            assert_eq!(answer["got"]["data"], serde_json::from_str::<Value>(data).unwrap(), "{data}");
        }
    }
    // The client's object is one level and the item around it another; PHP counts the innermost value, too.
    client.send_raw(Message::text(format!("{{\"action\":\"length\",\"data\":{}}}", nested(509)))).await;
    assert_eq!(client.next_action("length").await, 2 * 509 + 1);
    for unreadable in [r#""\ud83d""#, r#""\ude00\ud83d""#, &nested(510)] {
        client.send_raw(Message::text(format!("{{\"action\":\"legacy\",\"data\":{unreadable},\"id\":1}}"))).await;
        let error = client.answer(&json!(1)).await.unwrap_err();
        assert_eq!(error["code"], "bad_frame", "{error}");
        assert!(error["message"].as_str().unwrap().contains("PHP can't read"), "{error}");
    }
    client.request("legacy", json!("end")).await;
    assert_eq!(client.next_action("legacy").await["got"]["data"], "end");
    assert_eq!(php.lines().len(), 1, "nothing was ignored: {:?}", php.lines());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_php_has_taken_is_lost_when_it_dies() {
    let app = App::start_with(1, 0, with_php);
    let mut php = worker(&app);
    let mut client = Client::enter(&app.urls()[0], "Ada").await;
    assert_eq!(client.request("crash", json!(1)).await, Value::Null, "it was stored");
    assert!(!php.wait_exit(PATIENCE).success());
    assert_eq!(app.redis.cli(&["LLEN", IN]), "0", "the package's worker keeps no copy of what it takes");
    assert_eq!(client.request("legacy", json!(2)).await, Value::Null, "what comes after waits");
    let _php = worker(&app);
    assert_eq!(client.next_action("legacy").await["got"]["data"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_php_is_away_messages_wait_up_to_the_limit() {
    let app = App::start_with(1, 0, |config| with_php(config).with("php.waiting_max", 2));
    let mut client = Client::enter(&app.urls()[0], "Ada").await;
    for n in 0..2 {
        client.request("legacy", json!(n)).await;
    }
    for _ in 0..2 {
        let error = client.try_request("legacy", json!("too many")).await.unwrap_err();
        assert_eq!(error["code"], "busy", "{error}");
    }
    app.servers[0].wait_line("php.waiting_max", PATIENCE);
    assert_eq!(app.servers[0].lines().iter().filter(|line| line.contains("php.waiting_max")).count(), 1, "once a minute");
    let status = tool::run(&app.config, "queue status --json").ok().json().remove(0);
    assert_eq!(status["php"], json!({"waiting": 0, "dead": 0, "in_lists": [{"list": IN, "waiting": 2}]}));
    tool::run(&app.config, "queue status").ok().says(&format!("for PHP in {IN}: 2 waiting"));
    let waiting = format!("plugsocket_php_list_waiting{{list=\"{IN}\"}}");
    eventually("the metric of what waits", PATIENCE, async || metric(&app.servers[0], &waiting) == "2").await;
    assert_eq!(metric(&app.servers[0], "plugsocket_php_pushes_refused_total{reason=\"list_full\"}"), "2");
    let _php = worker(&app);
    for n in 0..2 {
        assert_eq!(client.next_action("legacy").await["got"]["data"], n);
    }
    client.request("legacy", json!("again")).await;
    assert_eq!(client.next_action("legacy").await["got"]["data"], "again");
    eventually("a metric that goes down again", PATIENCE, async || metric(&app.servers[0], &waiting) == "0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_no_list_is_said_with_the_remedy() {
    let app = App::start_with(1, 0, |config| with_php(config).with("php.prefix", "laravel_"));
    let key = format!("laravel_{IN}");
    app.redis.cli(&["SET", &key, "x"]);
    let mut client = Client::enter(&app.urls()[0], "Ada").await;
    for _ in 0..2 {
        assert_eq!(client.try_request("legacy", json!(1)).await.unwrap_err()["code"], "busy");
    }
    let remedy = format!("DEL '{key}'");
    app.servers[0].wait_line(&remedy, PATIENCE);
    assert_eq!(app.servers[0].lines().iter().filter(|line| line.contains(&remedy)).count(), 1, "once a minute");
    tool::run(&app.config, "queue status").ok().says(&format!("for PHP in {key}: 0 waiting; ")).says("WRONGTYPE");
    app.redis.cli(&["DEL", &key]);
    client.request("legacy", json!(2)).await;
    let php = php::start("php_actions/worker.php", &app.redis, &[IN, OUT, "laravel_"]);
    php.wait_line("taking from", START_PATIENCE);
    assert_eq!(client.next_action("legacy").await["got"]["data"], 2, "by the prefix of PHP's client, both ways");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_moves_between_plugin_and_php_while_both_run() {
    let mut app = App::start_with(1, 1, |config| with_php(config).with("worker.slots", 1).with("worker.prefetch", 1));
    let _php = worker(&app);
    let mut client = Client::enter(&app.urls()[0], "Ada").await;
    // They hold the only slot, one after the other: the last are still queued when the action has moved.
    let mut asked = Vec::new();
    for _ in 0..3 {
        asked.push(client.send_request("report", json!({"seconds": 0.5, "steps": 1})).await);
    }
    for n in 0..20 {
        asked.push(client.send_request("echo", json!(n)).await);
    }
    let marks = [app.servers[0].lines().len(), app.workers[0].lines().len()];
    app.config.set("actions.echo", served_by("Legacy"));
    app.servers[0].wait_line_after(marks[0], "config applied", PATIENCE);
    app.workers[0].wait_line_after(marks[1], "config applied", PATIENCE);
    assert_eq!(client.request("echo", json!("to PHP")).await, Value::Null);
    assert_eq!(client.next_action("legacy").await["got"]["data"], "to PHP");
    for (index, id) in asked.iter().enumerate() {
        let answer = client.answer(id).await.unwrap();
        assert!(index < 3 || answer["echo"] == index - 3, "what was queued for the plugin still runs there: {answer}");
    }
    let marks = [app.servers[0].lines().len(), app.workers[0].lines().len()];
    app.config.set("actions.echo", "chat");
    app.servers[0].wait_line_after(marks[0], "config applied", PATIENCE);
    app.workers[0].wait_line_after(marks[1], "config applied", PATIENCE);
    assert_eq!(client.request("echo", json!("back")).await["echo"], "back");
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_without_redis_refuses_a_list_at_its_start_and_later() {
    let refusal = "a `list` needs Redis";
    // Whatever the file says of the queue, dev has its own in memory.
    let mut config = with_php(Config::chat("redis://127.0.0.1:1"));
    plugin::install(&plugin::chat(), &config.plugins_dir(), "chat");
    let mut refused = Process::dev(&config);
    assert_eq!(refused.wait_exit(START_PATIENCE).code(), Some(2));
    let lines = refused.lines();
    assert!(lines.iter().any(|line| line.contains("`actions.crash`") && line.contains(refusal) && line.contains("--queue")), "{lines:?}");
    tool::run(&config, "check").ok().says("legacy: ok: pushed to queues:plugsocket_in for PHP's \\Chat\\Actions\\Legacy");

    for action in ["actions.legacy", "actions.crash"] {
        config.unset(action);
    }
    let dev = Process::dev(&config);
    let mut client = Client::enter(&dev.ws_url(), "Ada").await;
    let mark = dev.lines().len();
    config.set("actions.echo", served_by("Legacy"));
    dev.wait_line_after(mark, refusal, PATIENCE);
    assert_eq!(client.request("echo", json!(1)).await["echo"], 1, "the running config stays");
}

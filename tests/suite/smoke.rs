//! The harness itself: each part is tried alone, so that a failing promise is not the harness's fault.

use std::io::{Read, Write};
use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::harness::browser::Browser;
use crate::harness::client::Client;
use crate::harness::config::Config;
use crate::harness::http;
use crate::harness::plugin::{self, BROKEN, Broken};
use crate::harness::process::Process;
use crate::harness::redis::Redis;
use crate::harness::{PATIENCE, START_PATIENCE};

fn shell(script: &str) -> Process {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    Process::spawn("sh", command)
}

#[test]
fn a_process_is_heard_and_ended() {
    let mut process =
        shell("echo first; echo 'ops on http://127.0.0.1:7/' >&2; trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.01; done");
    process.wait_line("ready", PATIENCE);
    assert_eq!(process.ops_url(), "http://127.0.0.1:7/");
    let never = process.try_wait_line(0, "never", Duration::from_millis(20));
    assert!(never.unwrap_err().contains("not within"));
    assert!(process.is_running());
    assert_eq!(process.terminate(PATIENCE).code(), Some(3));
    assert_eq!(process.lines().last().unwrap(), "bye");
}

#[test]
fn waiting_for_a_process_that_ended_does_not_take_the_whole_time() {
    let process = shell("echo only this");
    let start = Instant::now();
    let answer = process.try_wait_line(0, "never", START_PATIENCE);
    assert_eq!(answer.unwrap_err(), "the process has ended");
    assert!(start.elapsed() < START_PATIENCE / 2);
    assert!(process.try_wait_line(1, "only", PATIENCE).is_err(), "the first line is left out");
}

#[test]
fn a_dropped_process_is_gone() {
    let process = shell("exec sleep 600");
    let pid = process.pid().to_string();
    let alive = || Command::new("sh").args(["-c", "kill -0 \"$1\" 2>/dev/null", "sh", &pid]).status().unwrap().success();
    assert!(alive());
    drop(process);
    assert!(!alive());
}

#[test]
fn redis_starts_answers_and_comes_back_empty() {
    let mut redis = Redis::start();
    assert_eq!(redis.cli(&["PING"]), "PONG");
    assert_eq!(redis.cli(&["SET", "key", "two words"]), "OK");
    assert_eq!(redis.cli(&["GET", "key"]), "two words");
    let other = Redis::start_with(&["--maxmemory", "20mb"]);
    assert_eq!(other.cli(&["GET", "key"]), "", "each has its own data");
    assert_eq!(other.cli(&["CONFIG", "GET", "maxmemory"]), "maxmemory\n20971520");
    let url = redis.url();
    redis.restart();
    assert_eq!((redis.cli(&["GET", "key"]).as_str(), redis.url()), ("", url));
    redis.kill();
    redis.start_again();
    assert_eq!(redis.cli(&["PING"]), "PONG");
}

/// Answers `request` out of order, with another frame before, refuses `refuse`, closes at `close`.
async fn scripted_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        let mut held = Vec::new();
        while let Some(Ok(Message::Text(text))) = socket.next().await {
            let frame: Value = serde_json::from_str(&text).unwrap();
            let id = &frame["id"];
            match frame["action"].as_str().unwrap() {
                "hold" => held.push(json!({ "action": "hold", "id": id, "data": frame["data"] })),
                "release" => {
                    held.push(json!({ "action": "news", "data": 1 }));
                    held.push(json!({ "action": "news", "data": 2 }));
                    for frame in held.drain(..).rev() {
                        socket.send(Message::text(frame.to_string())).await.unwrap();
                    }
                    socket.send(Message::text(json!({ "action": "release", "id": id }).to_string())).await.unwrap();
                }
                "refuse" => {
                    let error = json!({ "action": "error", "id": id, "data": { "code": "no", "message": "not today" } });
                    socket.send(Message::text(error.to_string())).await.unwrap();
                }
                _ => {
                    let frame = CloseFrame { code: 4103.into(), reason: "slow_consumer".into() };
                    socket.close(Some(frame)).await.unwrap();
                }
            }
        }
    });
    url
}

#[tokio::test]
async fn a_client_finds_its_answers_and_keeps_the_rest() {
    let mut client = Client::connect(&scripted_server().await).await;
    let one = client.send_request("hold", json!("one")).await;
    let two = client.send_request("hold", json!("two")).await;
    assert_eq!(client.request("release", Value::Null).await, Value::Null);
    assert_eq!(client.answer(&one).await, Ok(json!("one")));
    assert_eq!(client.answer(&two).await, Ok(json!("two")));
    assert_eq!((client.next_action("news").await, client.next_action("news").await), (json!(2), json!(1)), "in the order they came");
    assert_eq!(client.try_request("refuse", Value::Null).await.unwrap_err()["code"], "no");
    assert_eq!(client.drain(Duration::from_millis(20)).await, Vec::<Value>::new());
    client.send("close", Value::Null, None).await;
    let closed = client.wait_closed().await;
    assert_eq!((closed.code, closed.reason.as_str()), (4103, "slow_consumer"));
}

#[tokio::test]
#[should_panic(expected = "nothing came within")]
async fn a_client_does_not_wait_for_ever() {
    let mut client = Client::connect(&scripted_server().await).await;
    client.set_patience(Duration::from_millis(50));
    client.request("hold", Value::Null).await;
}

#[tokio::test]
async fn a_refused_upgrade_is_told() {
    assert!(Client::try_connect("ws://127.0.0.1:1/", &[]).await.is_err());
}

#[test]
fn http_answers_are_read() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let mut heads = Vec::new();
        for answer in ["HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nup", "HTTP/1.1 401 Unauthorized\r\n\r\n"] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 1024];
            let size = stream.read(&mut head).unwrap();
            heads.push(String::from_utf8_lossy(&head[..size]).into_owned());
            stream.write_all(answer.as_bytes()).unwrap();
        }
        heads
    });
    let answer = http::get(&format!("{url}health"));
    assert_eq!((answer.status, answer.body.as_str(), answer.header("content-type")), (200, "up", Some("text/plain")));
    let refused = http::post_json(&format!("{url}send"), &json!({ "a": 1 }), &[("Authorization", "Bearer x")]);
    assert_eq!((refused.status, refused.body.as_str()), (401, ""));
    let heads = server.join().unwrap();
    assert!(heads[0].starts_with("GET /health HTTP/1.1\r\n"), "{}", heads[0]);
    for part in ["POST /send HTTP/1.1\r\n", "Content-Type: application/json\r\n", "Authorization: Bearer x\r\n", "\r\n\r\n{\"a\":1}"] {
        assert!(heads[1].contains(part), "{}", heads[1]);
    }
}

#[test]
fn config_files_are_what_the_host_reads() {
    let mut config = Config::chat("memory").with("limits.ping_interval", "1s").with("plugins.chat.config.history_limit", 5);
    let read = |config: &Config| toml::from_str::<plugsocket::config::Settings>(&std::fs::read_to_string(config.path()).unwrap()).unwrap();
    let settings = read(&config);
    assert_eq!((settings.queue.as_str(), settings.server.listen.port()), ("memory", 0));
    assert_eq!(settings.limits.ping_interval, Duration::from_secs(1));
    assert_eq!(settings.actions["chat_text"].plugin().map(|action| action.plugin.as_str()), Some("chat"));
    config.unset("actions.report");
    assert!(!read(&config).actions.contains_key("report"));
    assert!(config.plugins_dir().is_dir() && config.state_dir().is_dir());
}

#[test]
fn the_chat_plugin_is_built_and_can_be_installed_and_broken() {
    let config = Config::chat("memory");
    let installed = plugin::install(&plugin::chat(), &config.plugins_dir(), "chat");
    let sound = std::fs::read(&installed).unwrap();
    assert_eq!(installed.file_name().unwrap().to_str().unwrap(), plugin::library_name("chat"));
    assert_eq!(std::fs::read_dir(config.plugins_dir()).unwrap().count(), 1, "no draft is left");
    for way in BROKEN {
        let bytes = plugin::broken(way);
        assert_ne!(bytes, sound, "{way:?}");
        assert_eq!(bytes.is_empty(), way == Broken::Empty);
        let starts_as_library = bytes.starts_with(&sound[..4]);
        assert_eq!(starts_as_library, !matches!(way, Broken::Empty | Broken::Text), "{way:?}");
    }
}

#[tokio::test]
async fn the_browser_evaluates_in_separate_tabs() {
    let browser = Browser::start().await;
    let page = "data:text/html,<title>one</title><input id=a><button onclick=\"document.title=a.value\">go</button>";
    let one = browser.open(page).await;
    let two = browser.open("data:text/html,<title>two</title>").await;
    assert_eq!(one.evaluate("[1 + 1, document.title]").await, json!([2, "one"]));
    assert_eq!(one.evaluate("new Promise(done => setTimeout(() => done('later'), 10))").await, "later");
    assert!(one.try_evaluate("nothing.here").await.unwrap_err().contains("ReferenceError"));
    one.fill("#a", "it's \"quoted\"").await;
    one.click("button").await;
    one.wait_until("document.title.startsWith('it')", PATIENCE).await;
    assert_eq!(one.evaluate("document.title").await, "it's \"quoted\"");
    assert_eq!(two.evaluate("document.title").await, "two");
    two.evaluate("setTimeout(() => { throw new Error('planted') })").await;
    two.wait_until("true", PATIENCE).await;
    crate::harness::eventually("the planted error", PATIENCE, async || {
        two.evaluate("1").await;
        two.errors().iter().any(|error| error.contains("planted"))
    })
    .await;
    assert_eq!(one.errors(), Vec::<String>::new());
    let picture = tempfile::NamedTempFile::new().unwrap();
    one.screenshot(picture.path()).await;
    assert!(std::fs::read(picture.path()).unwrap().starts_with(b"\x89PNG"));
    browser.close().await;
}

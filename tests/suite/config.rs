//! Promise: a process that can't start says why; one whose Redis is away waits for it.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::client::Client;
use crate::harness::config::Config;
use crate::harness::process::Process;
use crate::harness::redis::Redis;
use crate::harness::{PATIENCE, START_PATIENCE, eventually, http, plugin};

fn says(process: &Process, words: &str) {
    assert!(process.lines().iter().any(|line| line.contains(words)), "no {words:?} in {:?}", process.lines());
}

#[test]
fn a_config_error_names_file_line_and_key_and_exits_with_2() {
    let config = Config::chat("redis://127.0.0.1:1").with("limits.frame_in_max", "big");
    for mut process in [Process::server(&config), Process::worker(&config), Process::dev(&config)] {
        assert_eq!(process.wait_exit(START_PATIENCE).code(), Some(2));
        says(&process, "`limits.frame_in_max`");
        says(&process, "plugsocket.toml:");
    }
    let mut missing = Process::tool(&["dev", "--config", "nowhere.toml"]);
    assert_eq!(missing.wait_exit(START_PATIENCE).code(), Some(2));
    says(&missing, "--config FILE");
}

#[test]
fn the_memory_queue_is_for_dev_only() {
    let config = Config::chat("memory");
    for mut process in [Process::server(&config), Process::worker(&config)] {
        assert_eq!(process.wait_exit(START_PATIENCE).code(), Some(1));
        says(&process, "plugsocket dev");
    }
}

#[test]
fn an_address_that_is_taken_is_said() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    for key in ["server.listen", "ops.listen"] {
        let config = Config::chat("memory").with(key, taken.local_addr().unwrap().to_string());
        let mut process = Process::dev(&config);
        assert_eq!(process.wait_exit(START_PATIENCE).code(), Some(1));
        says(&process, &format!("choose another address with --set {key}=127.0.0.1:"));
    }
}

#[test]
fn every_command_helps_with_examples() {
    let commands: [&[&str]; 7] = [&[], &["dev"], &["send"], &["check"], &["new"], &["config"], &["config", "import"]];
    let mut processes: Vec<_> = commands.iter().map(|command| Process::tool(&[command, &["--help"][..]].concat())).collect();
    processes.push(Process::program("server", &["--help"]));
    processes.push(Process::program("worker", &["--help"]));
    for mut process in processes {
        assert!(process.wait_exit(START_PATIENCE).success());
        says(&process, "Example");
    }
}

#[test]
fn no_error_shows_a_password() {
    let config = Config::chat("redis://user:topsecret@127.0.0.1:99999/").with("ops.token", "topsecret");
    let wrong = ["queue=reddis://user:topsecret@host", "ops.token=[\"topsecret\"]", "queue=[\"topsecret\"]"];
    let mut processes: Vec<_> = wrong.iter().map(|set| Process::program("server", &["--config", config.path(), "--set", set])).collect();
    processes.extend([Process::server(&config), Process::worker(&config)]);
    for mut process in processes {
        assert!(matches!(process.wait_exit(START_PATIENCE).code(), Some(1 | 2)));
        assert!(!process.lines().is_empty() && process.lines().iter().all(|line| !line.contains("topsecret")), "{:?}", process.lines());
    }
}

#[test]
fn a_variable_that_is_no_text_is_no_reason_to_panic() {
    use std::os::unix::ffi::OsStrExt as _;
    let config = Config::chat("memory");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_plugsocket"));
    command.args(["check", "--config", config.path()]).env("LESS", std::ffi::OsStr::from_bytes(&[0xFF]));
    let mut process = Process::spawn("plugsocket", command);
    process.wait_exit(START_PATIENCE);
    says(&process, "plugsocket.toml: ok");
}

#[test]
fn check_tells_what_would_be_refused() {
    let config = Config::chat("memory");
    plugin::install(&plugin::chat(), &config.plugins_dir(), "chat");
    let mut good = Process::tool(&["check", "--config", config.path()]);
    assert!(good.wait_exit(START_PATIENCE).success(), "{:?}", good.lines());
    says(&good, "ok: chat 0.1.0, handler, actions: chat_text");
    let mut wanting = Process::tool(&["check", "--config", config.path(), "--set", "actions.dance=chat"]);
    assert_eq!(wanting.wait_exit(START_PATIENCE).code(), Some(1));
    says(&wanting, "[actions] wants dance of it");
    plugin::install_bytes(&plugin::broken(plugin::Broken::Text), &config.plugins_dir(), "chat");
    let mut bad = Process::tool(&["check", "--config", config.path()]);
    assert_eq!(bad.wait_exit(START_PATIENCE).code(), Some(1));
    says(&bad, "text");
    let lost = ["--set", "server.tls.cert_file=nope.pem", "--set", "server.tls.key_file=nope.key"];
    let mut lost = Process::tool(&[&["check", "--config", config.path()], &lost[..]].concat());
    assert_eq!(lost.wait_exit(START_PATIENCE).code(), Some(1));
    says(&lost, "`server.tls.cert_file`: ");
}

#[test]
fn a_new_plugin_builds_and_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let sdk = plugin::workspace().join("plugin-api");
    let folder = dir.path().to_str().unwrap();
    let mut made = Process::tool(&["new", "hello", "--dir", folder, "--sdk", sdk.to_str().unwrap()]);
    assert!(made.wait_exit(PATIENCE).success(), "{:?}", made.lines());
    let mut again = Process::tool(&["new", "hello", "--dir", folder, "--sdk", sdk.to_str().unwrap()]);
    assert_eq!(again.wait_exit(PATIENCE).code(), Some(1));
    says(&again, "exists already");
    let library = plugin::build(&dir.path().join("hello"), "hello");
    let config = Config::chat("memory");
    let mut check = Process::tool(&["check", "--config", config.path(), library.to_str().unwrap()]);
    assert!(check.wait_exit(START_PATIENCE).success(), "{:?}", check.lines());
    says(&check, "actions: hello");
}

#[tokio::test]
async fn a_redis_that_is_away_is_waited_for() {
    let mut redis = Redis::start();
    let config = Config::chat(&redis.url());
    redis.kill();
    plugin::install(&plugin::chat(), &config.plugins_dir(), "chat");
    let (server, worker) = (Process::server(&config), Process::worker(&config));
    let (url, ready) = (server.ws_url(), format!("{}readyz", server.ops_url()));
    let answer = http::get(&ready);
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("queue:"), "{}", answer.body);
    redis.start_again();
    eventually("readiness", PATIENCE * 2, async || http::get(&ready).status == 200).await;
    worker.wait_worker_ready();
    let mut client = Client::enter(&url, "patient").await;
    assert_eq!(client.request("echo", json!(1)).await["echo"], 1);

    // Everything in it is gone, answers on their way included; what is asked afterwards is answered.
    redis.restart();
    let end = Instant::now() + PATIENCE * 3;
    loop {
        client.send("echo", json!("again"), Some(&json!("again"))).await;
        if client.drain(Duration::from_millis(200)).await.iter().any(|frame| frame["data"]["echo"] == "again") {
            break;
        }
        assert!(Instant::now() < end, "no answer after Redis came back empty");
    }
}

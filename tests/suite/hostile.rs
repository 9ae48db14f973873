//! Promise: a plugin that misbehaves costs its own messages an attempt, and neither the process nor anybody else's message.

use std::fs;
use std::time::Duration;

use serde_json::json;

use crate::harness::START_PATIENCE;
use crate::harness::client::Client;
use crate::harness::config::Config;
use crate::harness::plugin;
use crate::harness::process::Process;

const SOURCE: &str = include_str!("hostile/plugin.rs.txt");
const ACTIONS: [&str; 6] = ["huge", "wordy", "bomb", "stuck", "crowd", "noise"];

#[tokio::test]
async fn a_hostile_plugin_hurts_nobody_else() {
    let mut library = plugin::from_source("hostile", SOURCE);
    let mut config = Config::chat("memory").with("worker.retry_backoff", "10ms").with("worker.attempts", 2);
    for action in ACTIONS {
        let mut entry = toml::Table::new();
        entry.insert("plugin".into(), "hostile".into());
        entry.insert("timeout".into(), if action == "stuck" { "300ms" } else { "30s" }.into());
        config.set(&format!("actions.{action}"), entry);
    }
    plugin::install(&plugin::chat(), &config.plugins_dir(), "chat");
    plugin::install_bytes(&library, &config.plugins_dir(), "hostile");
    let mut process = Process::dev(&config);
    let mut client = Client::enter(&process.ws_url(), "Ada").await;
    let mut bystander = Client::enter(&process.ws_url(), "Bob").await;
    for round in 0..2 {
        for (action, code) in [
            ("noise", None),
            ("crowd", None),
            ("bomb", Some("failed")),
            ("wordy", Some("failed")),
            ("huge", Some("failed")),
            ("stuck", Some("timeout")),
        ] {
            let asked = client.send_request(action, json!(null)).await;
            assert_eq!(bystander.request("echo", json!(action)).await["echo"], action);
            let answer = client.answer(&asked).await;
            assert_eq!(answer.as_ref().err().and_then(|error| error["code"].as_str()), code, "{action}: {answer:?}");
        }
        // Its shutdown panics, and its drop; the threads of the old version talk on.
        let mark = process.lines().len();
        library.push(round);
        plugin::install_bytes(&library, &config.plugins_dir(), "hostile");
        process.wait_line_after(mark, "plugin version is live", START_PATIENCE);
        process.wait_line_after(mark, "version retired", START_PATIENCE);
    }
    assert!(process.is_running());
    let longest = process.lines().iter().map(String::len).max();
    assert!(longest < Some(100_000), "a plugin's text fills the log: a line of {longest:?} bytes");
    let staged = fs::read_dir(config.state_dir().join("plugins")).unwrap().count();
    assert_eq!(staged, 2, "copies of retired versions are removed");
    assert!(process.terminate(Duration::from_secs(10)).success(), "{:?}", process.lines().last());
}

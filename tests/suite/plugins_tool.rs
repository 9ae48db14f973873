//! Promise: an operator sees which build runs where and why one was refused, and nobody else can put one there.

mod change;
mod lock;
mod trust;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::harness::app::App;
use crate::harness::client::Client;
use crate::harness::config::Config;
use crate::harness::plugin;
use crate::harness::process::Process;
use crate::harness::tool::{self, Said};
use crate::harness::{START_PATIENCE, eventually};

const PATIENCE: Duration = Duration::from_secs(30);

fn plugins(config: &Config, args: &str) -> Said {
    tool::run(config, &format!("plugins {args}"))
}

/// What `list --json` tells of each process, by its name.
fn listed(config: &Config) -> Vec<(String, Value)> {
    let entries = plugins(config, "list --json").ok().json().remove(0);
    let entry = |entry: &Value| (entry["process"].as_str().unwrap().to_owned(), entry["plugins"].clone());
    entries.as_array().unwrap().iter().map(entry).collect()
}

/// What every process tells of the plugin `chat`.
fn chats(config: &Config) -> Vec<Value> {
    listed(config)
        .into_iter()
        .map(|(_, plugins)| plugins.as_array().unwrap().iter().find(|one| one["name"] == "chat").unwrap().clone())
        .collect()
}

/// The version of `chat` that every process serves; `None` while they differ.
fn version(config: &Config) -> Option<String> {
    let versions: Vec<_> = chats(config).into_iter().map(|chat| chat["version"].as_str().map(ToOwned::to_owned)).collect();
    versions.iter().all(|version| *version == versions[0]).then(|| versions[0].clone()).flatten()
}

/// Whether every process has refused a build of `chat` for this reason.
fn all_refuse(config: &Config, words: &str) -> bool {
    chats(config).iter().all(|chat| chat["last_rejection"]["reason"].as_str().is_some_and(|reason| reason.contains(words)))
}

/// Another build of the chat plugin: the same code with bytes behind it that nobody reads.
fn another_build(config: &Config, tail: &str) {
    let mut bytes = fs::read(plugin::chat()).unwrap();
    bytes.extend_from_slice(tail.as_bytes());
    plugin::install_bytes(&bytes, &config.plugins_dir(), "chat");
}

/// As `sha256sum` shows it.
fn sha256(file: &Path) -> String {
    let output = Command::new("sha256sum").arg(file).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().to_owned()
}

async fn serves(app: &App, who: &str) {
    let mut client = Client::enter(&app.urls()[0], who).await;
    assert_eq!(client.request("echo", serde_json::json!(1)).await["echo"], 1);
}

#[test]
fn list_shows_every_process_and_forgets_the_dead() {
    let mut app = App::start(1, 1);
    let names = [format!("server-{}", app.servers[0].pid()), format!("worker-{}", app.workers[0].pid())];
    let said = plugins(&app.config, "list").ok().says("last reason");
    for name in &names {
        let row = said.lines.iter().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{:#?}", said.lines));
        assert!(row.contains("  chat  ") && row.contains("  0.1.0  "), "{row}");
    }
    assert_eq!(listed(&app.config).into_iter().map(|(name, _)| name).collect::<Vec<_>>(), names);
    assert!(version(&app.config).is_some_and(|version| version.len() == 64));
    let sums: Vec<_> = chats(&app.config).iter().map(|chat| chat["versions"][0]["sha256"].clone()).collect();
    assert_eq!(sums, [sha256(&plugin::chat()), sha256(&plugin::chat())]);

    app.workers[0].kill();
    let socket = app.config.state_dir().join("control").join(format!("{}.sock", names[1]));
    assert!(socket.exists());
    assert_eq!(listed(&app.config).len(), 1);
    let next = Process::worker(&app.config);
    next.wait_worker_ready();
    assert!(!socket.exists());
    assert_eq!(listed(&app.config).len(), 2);

    assert!(app.servers[0].terminate(START_PATIENCE).success());
    assert!(!app.config.state_dir().join("control").join(format!("{}.sock", names[0])).exists());
    drop(next);
    let state_dir = app.config.state_dir();
    plugins(&app.config, "list").code_is(1).says(&format!("no process runs with state_dir {}", state_dir.display()));
}

#[test]
fn a_hung_process_is_told_and_holds_nobody_up() {
    let app = App::start(1, 1);
    app.workers[0].signal("STOP");
    let hung = format!("worker-{}: no answer within 5s", app.workers[0].pid());
    plugins(&app.config, "list").code_is(1).says(&format!("server-{}", app.servers[0].pid())).says(&hung);
    plugins(&app.config, "rollback other").code_is(1).says("failed: no answer within 5s");
    app.workers[0].signal("CONT");
    plugins(&app.config, "list").ok();
}

#[test]
fn wrong_use_exits_with_2_and_every_command_helps() {
    let config = Config::chat("memory");
    for (args, words) in [
        ("rollback", "NAME"),
        ("retry chat", "`chat` is no sha256"),
        ("retry abc", "`abc` is no sha256"),
        ("list --set reload=sometimes", "reload"),
        ("remove chat", "unrecognized subcommand"),
    ] {
        plugins(&config, args).code_is(2).says(words);
    }
    for args in ["--help", "list --help", "reload --help", "rollback --help", "retry --help", "lock --help"] {
        plugins(&config, args).ok().says("Example");
    }
}

#[test]
fn what_nobody_has_is_a_failure() {
    let config = Config::chat("memory");
    plugin::install(&plugin::chat(), &config.plugins_dir(), "chat");
    for args in ["reload", "rollback chat", "retry abcdef"] {
        plugins(&config, args).code_is(1).says("no process runs with state_dir");
    }
    let dev = Process::dev(&config);
    dev.ws_url();
    plugins(&config, "reload").ok().says(&format!("dev-{}: ", dev.pid()));
    plugins(&config, "rollback other").code_is(1).says("no process has a plugin `other`; they have: chat");
    plugins(&config, "retry 0123456789ab").code_is(1).says("no process has refused a build");
}

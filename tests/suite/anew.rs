//! Promise: a process that has replaced as many in-process libraries as it may starts anew by itself, under the same id, and goes on serving.

use serde_json::json;

use crate::harness::app::App;
use crate::harness::client::Client;
use crate::harness::config::Config;
use crate::harness::plugin;
use crate::harness::process::Process;
use crate::harness::{PATIENCE, START_PATIENCE, eventually, procfs, tool};

const RETIRED_MAX: u64 = 3;
/// How a client is told that its server is going, and that it may come back at once.
const DRAINING: u16 = 4104;

pub fn in_process(config: Config) -> Config {
    config.with("retired_max", i64::try_from(RETIRED_MAX).unwrap()).with("plugins.chat.isolation", "in-process")
}

/// Puts builds into place one by one, each when the one before it serves in all of `processes`, until they start anew. A library's bytes
/// may be followed by others: a build like the one before, under another sha256.
pub fn wear_out(config: &Config, processes: &[&Process]) {
    let library = std::fs::read(plugin::chat()).unwrap();
    // One more than are retired: the first stands by for all that follow.
    for build in 1..=RETIRED_MAX + 1 {
        let marks: Vec<usize> = processes.iter().map(|process| process.lines().len()).collect();
        plugin::install_bytes(&[library.as_slice(), b"build ", build.to_string().as_bytes()].concat(), &config.plugins_dir(), "chat");
        for (process, mark) in processes.iter().zip(marks) {
            process.wait_line_after(mark, "plugin version is live", START_PATIENCE);
        }
    }
}

/// Its address since it has started anew.
fn address_after(process: &Process, mark: usize) -> String {
    process.wait_line_after(mark, "starting anew", START_PATIENCE);
    let line = process.wait_line_after(mark, "listening on ws://", START_PATIENCE);
    line.split("listening on ").last().unwrap().to_owned()
}

async fn is_answered(url: &str) {
    let mut client = Client::enter(url, "grace").await;
    assert_eq!(client.request("echo", json!(2)).await["echo"], 2);
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_starts_anew_and_serves() {
    let config = in_process(Config::chat("memory"));
    plugin::install(&plugin::chat(), &config.plugins_dir(), "chat");
    let mut dev = Process::dev(&config);
    let mut client = Client::enter(&dev.ws_url(), "ada").await;
    assert_eq!(client.request("echo", json!(1)).await["echo"], 1);
    let (arguments, mark) = (procfs::arguments(dev.pid()), dev.lines().len());
    wear_out(&config, &[&dev]);
    assert_eq!(client.wait_closed().await.code, DRAINING);
    is_answered(&address_after(&dev, mark)).await;
    assert_eq!(procfs::arguments(dev.pid()), arguments, "it is the same command");
    let name = std::fs::read_to_string(format!("/proc/{}/comm", dev.pid())).unwrap();
    assert_eq!(name.trim(), "plugsocket", "and found by the same name");

    // Its control socket is there under the same name, and the next build comes as usual.
    let name = format!("dev-{}", dev.pid());
    tool::run(&config, "plugins list").ok().says(&name);
    let again = dev.lines().len();
    wear_out(&config, &[&dev]);
    is_answered(&address_after(&dev, again)).await;
    assert!(dev.terminate(START_PATIENCE).success(), "signals are heard as before");
}

#[tokio::test(flavor = "multi_thread")]
async fn server_and_worker_start_anew_and_lose_nothing() {
    let mut app = App::start_with(1, 1, in_process);
    let mut client = Client::enter(&app.urls()[0], "ada").await;
    assert_eq!(client.request("echo", json!(1)).await["echo"], 1);
    let marks = (app.servers[0].lines().len(), app.workers[0].lines().len());
    wear_out(&app.config, &[&app.servers[0], &app.workers[0]]);
    assert_eq!(client.wait_closed().await.code, DRAINING);
    app.workers[0].wait_line_after(marks.1, "starting anew", START_PATIENCE);
    is_answered(&address_after(&app.servers[0], marks.0)).await;
    app.workers[0].wait_line_after(marks.1, "worker ready", START_PATIENCE);
    let listed = || tool::run(&app.config, "plugins list").lines.join("\n");
    let names = [format!("server-{}", app.servers[0].pid()), format!("worker-{}", app.workers[0].pid())];
    eventually("both at their control sockets", PATIENCE, async || names.iter().all(|name| listed().contains(name))).await;
    assert!(app.workers[0].terminate(START_PATIENCE).success() && app.servers[0].terminate(START_PATIENCE).success());
}

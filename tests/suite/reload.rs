//! Promise: a new build takes over with no socket dropped, no message lost, none reordered; a bad one changes nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::app::App;
use crate::harness::client::Client;
use crate::harness::load::{self, Plan, Watch};
use crate::harness::plugin::{self, BROKEN, Broken};
use crate::harness::{PATIENCE, eventually, load_seconds, number, procfs};

/// Reloads, unless `PLUGSOCKET_RELOADS` says how many.
const RELOADS: u64 = 20;
/// Connections, and the pause between two messages of each: two thousand a second, or what a debug build beside other tests can do.
const CONNECTIONS: usize = 100;
const INTERVAL: Duration = Duration::from_millis(50);
const INTERVAL_OF_A_TEST: Duration = Duration::from_millis(200);
/// Reloads from one look at memory and runners to the next.
const LOOK_EVERY: usize = 10;
/// What hosts and runners may have grown by, beyond what a first reload leaves behind.
const GROWTH_MAX_KIB: u64 = 64 * 1024;

/// Resident memory of the hosts, of their runners, and the number of runners.
fn footprint(hosts: &[u32]) -> (u64, u64, usize) {
    let runners: Vec<u32> = hosts.iter().flat_map(|host| procfs::runners(*host, "chat")).collect();
    let sum = |pids: &[u32]| pids.iter().map(|pid| procfs::resident_kib(*pid)).sum();
    (sum(hosts), sum(&runners), runners.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn reloads_under_load() {
    let asked = number("PLUGSOCKET_RELOADS");
    let (reloads, interval) = asked.map_or((RELOADS, INTERVAL_OF_A_TEST), |reloads| (reloads, INTERVAL));
    let builds = [("one", plugin::chat_tagged("one")), ("two", plugin::chat_tagged("two"))];
    let app = App::start_with(1, 1, |config| {
        // By time alone: the handler has no calls while nobody comes or goes.
        config.with("limits.messages_per_second", 0).with("probation.time", "1s").with("probation.calls", 0)
    });
    // Each with its copy on the file system of the plugins folder, so that putting one in place is no load of its own.
    let folders = ["one", "two"].map(|tag| app.config.state_dir().join(tag));
    let builds = [0, 1].map(|index| {
        std::fs::create_dir_all(&folders[index]).unwrap();
        (builds[index].0, plugin::install(&builds[index].1, &folders[index], "chat"))
    });
    let plan = Plan {
        urls: app.urls(),
        connections: CONNECTIONS,
        messages: u64::MAX,
        window: 60,
        interval: Some(interval),
        action: "echo",
        patience: Duration::from_secs(20),
    };
    let watch = Arc::new(Watch::default());
    let running = tokio::spawn(load::run(plan, Arc::clone(&watch)));
    eventually("the load to run", PATIENCE * 3, async || watch.answered() > 1_000).await;
    let steady = Instant::now();
    tokio::time::sleep(load_seconds()).await; // The measure of what is steady.
    let hosts = [app.servers[0].pid(), app.workers[0].pid()];
    let (begin, mut before, mut most) = (Instant::now(), footprint(&hosts), 0);
    let mut times = Vec::new();
    for (tag, library) in builds.iter().cycle().take(usize::try_from(reloads).unwrap()) {
        watch.expect_version(tag);
        let renamed = Instant::now();
        plugin::install_link(library, &app.config.plugins_dir(), "chat");
        eventually("an answer of the new build", PATIENCE * 2, async || watch.version_seen().is_some()).await;
        times.push(watch.version_seen().unwrap() - renamed);
        // Looking through /proc is a load of its own.
        if times.len() % LOOK_EVERY == 1 {
            let now = footprint(&hosts);
            most = most.max(now.2);
            if times.len() == 1 {
                before.0 = before.0.max(now.0); // What a first reload leaves behind in the allocator is no growth.
            }
        }
    }
    let end = Instant::now();
    eventually("as many runners as before", PATIENCE * 6, async || footprint(&hosts).2 == before.2).await;
    let after = footprint(&hosts);
    watch.stop();
    let report = running.await.unwrap();
    times.sort();
    let p99_steady = report.percentile_where(0.99, |at| at >= steady && at < begin);
    let p99 = report.percentile_where(0.99, |at| at >= begin && at < end);
    println!(
        "{reloads} reloads in {:.1?} at {:.0} messages/s, {} messages: lost {}, out of order {}, closed {}; rename to first answer p50 {:.1?}, max \
         {:.1?}; p99 steady {p99_steady:.1?}, during {p99:.1?}: {:.2} x; hosts {} -> {} KiB, runners {} -> {} KiB, number {} -> {}, most {most}",
        end - begin,
        report.sent as f64 / steady.elapsed().as_secs_f64(),
        report.sent,
        report.lost(),
        report.out_of_order,
        report.closed,
        times[times.len() / 2],
        times[times.len() - 1],
        p99.as_secs_f64() / p99_steady.as_secs_f64(),
        before.0,
        after.0,
        before.1,
        after.1,
        before.2,
        after.2,
    );
    report.assert_clean();
    assert!(p99 < (p99_steady * 2).max(PATIENCE), "p99 during reloads {p99:?}, steady {p99_steady:?}");
    assert!(after.0 + after.1 < before.0 + before.1 + GROWTH_MAX_KIB, "{before:?} has become {after:?}");
}

#[tokio::test]
async fn an_editor_that_empties_the_file_before_it_writes_disturbs_nobody() {
    let app = App::start(1, 1);
    let mut client = Client::enter(&app.urls()[0], "ada").await;
    let text = std::fs::read_to_string(app.config.path()).unwrap();
    std::fs::write(app.config.path(), "").unwrap();
    app.servers[0].wait_line("is empty", PATIENCE);
    app.workers[0].wait_line("is empty", PATIENCE);
    assert_eq!(client.request("echo", json!(1)).await["echo"], 1);
    std::fs::write(app.config.path(), text + "[limits]\nunanswered_max = 7\n").unwrap();
    app.servers[0].wait_line("config applied", PATIENCE);
    assert_eq!(client.request("echo", json!(2)).await["echo"], 2);
}

#[tokio::test]
async fn edits_of_the_action_map_apply_live() {
    let mut app = App::start_with(1, 1, |mut config| {
        config.unset("actions.echo");
        config
    });
    let mut client = Client::enter(&app.urls()[0], "ada").await;
    assert_eq!(client.try_request("echo", json!(1)).await.unwrap_err()["code"], "unknown_action", "the fallback answers");

    let edited = Instant::now();
    app.config.set("actions.echo", "chat");
    eventually("the new action", PATIENCE, async || client.try_request("echo", json!(2)).await.is_ok_and(|data| data["echo"] == 2)).await;
    println!("added action works {:?} after the edit", edited.elapsed());

    app.config.unset("actions.echo");
    let is_fallback = async || client.try_request("echo", json!(3)).await.is_err_and(|error| error["code"] == "unknown_action");
    eventually("the fallback", PATIENCE, is_fallback).await;

    let mark = app.servers[0].lines().len();
    app.config.set("limits.ping_interval", "soon");
    let line = app.servers[0].wait_line_after(mark, "config refused", PATIENCE);
    assert!(line.contains("limits.ping_interval"), "{line}");
    assert!(client.try_request("join", json!({"room": "lobby"})).await.is_ok(), "the running config stays");
}

#[tokio::test]
async fn limits_and_plugin_settings_apply_live_to_open_connections() {
    let mut app = App::start_with(1, 1, |config| config.with("probation.time", "200ms").with("probation.calls", 0));
    let mut client = Client::enter(&app.urls()[0], "ada").await;
    client.request("join", json!({"room": "lobby"})).await;
    for text in ["one", "two"] {
        client.request("chat_text", json!({"room": "lobby", "text": text})).await;
    }
    let long = "x".repeat(2000);
    assert_eq!(client.request("echo", json!(long)).await["echo"], long.as_str());

    app.config.set("limits.frame_in_max", "1KiB");
    let is_refused = async || {
        client.send("echo", json!(long), None).await;
        let answer = client.next_where("an answer", |frame| frame["action"] == "echo" || frame["action"] == "error").await;
        answer["data"]["code"] == "bad_frame"
    };
    eventually("the new limit", PATIENCE, is_refused).await;

    app.config.set("plugins.chat.config.history_limit", 1);
    let kept = async || client.request("history", json!({"room": "lobby"})).await.to_string().matches("\"text\"").count() == 1;
    eventually("the plugin's new config", PATIENCE, kept).await;

    app.config.set("plugins.chat.isolation", "in-process");
    for host in [&app.servers[0], &app.workers[0]] {
        eventually("no runner", PATIENCE * 2, async || procfs::children(host.pid()).is_empty()).await;
    }
    assert_eq!(client.request("echo", json!(3)).await["echo"], 3, "the connection is still open");
}

#[tokio::test]
async fn broken_libraries_leave_the_old_version_live() {
    broken_libraries_change_nothing("process").await;
}

#[tokio::test]
async fn broken_libraries_leave_the_old_version_live_in_process() {
    broken_libraries_change_nothing("in-process").await;
}

async fn broken_libraries_change_nothing(isolation: &str) {
    let mut app = App::start_with(1, 1, |config| config.with("plugins.chat.isolation", isolation));
    let mut client = Client::enter(&app.urls()[0], "ada").await;
    let version = client.request("echo", json!(0)).await["version"].clone();
    for way in BROKEN {
        let marks = [app.workers[0].lines().len(), app.servers[0].lines().len()];
        plugin::install_bytes(&plugin::broken(way), &app.config.plugins_dir(), "chat");
        let reason = match way {
            Broken::Empty => "empty",
            Broken::Text => "text",
            Broken::Truncated => "truncated",
            Broken::Hollow => "rejected",
            Broken::Stranger => "export_plugin",
            Broken::Foreign => "built for",
            Broken::OtherApi => "this host needs",
        };
        for (process, mark) in [&app.workers[0], &app.servers[0]].into_iter().zip(marks) {
            let line = process.wait_line_after(mark, "rejected", PATIENCE * 2);
            assert!(line.to_lowercase().contains(reason), "{way:?}: expected {reason:?} in {line}");
        }
        let echo = client.request("echo", json!("serving")).await;
        assert_eq!((&echo["version"], &echo["echo"]), (&version, &json!("serving")), "after {way:?}");
        for host in [&app.servers[0], &app.workers[0]] {
            let is_left = async || procfs::children(host.pid()).len() == usize::from(isolation == "process");
            eventually("one runner, and nothing of what was tried", PATIENCE, is_left).await;
        }
    }
    assert!(app.workers[0].is_running() && app.servers[0].is_running());
    plugin::install(&plugin::chat_tagged("one"), &app.config.plugins_dir(), "chat");
    eventually("a sound build after broken ones", PATIENCE * 2, async || client.request("echo", json!(1)).await["version"] == "one").await;
}

#[tokio::test]
async fn a_constructor_that_fails_is_rejected_and_a_good_config_recovers() {
    let mut app = App::start(1, 1);
    let mut client = Client::enter(&app.urls()[0], "ada").await;
    let mark = app.workers[0].lines().len();
    app.config.set("plugins.chat.config.history_limt", 5);
    let line = app.workers[0].wait_line_after(mark, "rejected", PATIENCE * 2);
    assert!(line.contains("history_limt"), "the constructor's own words: {line}");
    assert_eq!(client.request("echo", json!(1)).await["echo"], 1);
    app.config.unset("plugins.chat.config.history_limt");
    assert_eq!(client.request("echo", json!(2)).await["echo"], 2);
}

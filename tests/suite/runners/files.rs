//! What people do to the file of a plugin that is at work.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::PATIENCE;
use crate::harness::app::App;
use crate::harness::client::Client;
use crate::harness::load::{self, Plan, Watch};
use crate::harness::process::Process;
use crate::harness::{eventually, plugin, procfs};

/// Replacements within a second.
const REPLACEMENTS: usize = 100;
/// Different builds among these.
const DRAFTS: usize = 9;
/// Most runners of one plugin that a host may have meanwhile: the live one, the one before it, and the one that is coming up.
const RUNNERS_MAX: usize = 6;

fn plan(app: &App) -> Plan {
    Plan {
        urls: app.urls(),
        connections: 20,
        messages: u64::MAX,
        window: 60,
        interval: Some(Duration::from_millis(50)),
        action: "echo",
        patience: Duration::from_secs(20),
    }
}

/// The chat plugin in a build of this name.
fn build(tag: &str) -> Vec<u8> {
    fs::read(plugin::chat_tagged(tag)).unwrap()
}

/// The version that a host said last to be live.
fn newest(host: &Process) -> Option<String> {
    let line = host.lines().into_iter().rev().find(|line| line.contains("plugin version is live"))?;
    line.split("sha256").nth(1).map(|rest| rest.chars().filter(char::is_ascii_hexdigit).take(64).collect())
}

fn app() -> App {
    // Probation by time alone: the handler has no calls while nobody comes or goes.
    App::start_with(1, 1, |config| config.with("limits.messages_per_second", 0).with("probation.time", "1s").with("probation.calls", 0))
}

#[tokio::test]
async fn cp_over_the_live_file_disturbs_nobody() {
    let builds = [("one", build("one")), ("two", build("two"))];
    let app = app();
    let watch = Arc::new(Watch::default());
    let running = tokio::spawn(load::run(plan(&app), Arc::clone(&watch)));
    eventually("the load to run", PATIENCE, async || watch.answered() > 200).await;
    let file = app.config.plugins_dir().join(plugin::library_name("chat"));
    for (tag, bytes) in builds.iter().cycle().take(6) {
        watch.expect_version(tag);
        // In place: the file is emptied, then written piece by piece.
        fs::write(&file, bytes).unwrap();
        eventually("an answer of the build that was copied", PATIENCE, async || watch.version_seen().is_some()).await;
    }
    watch.stop();
    let report = running.await.unwrap();
    println!(
        "cp over the live file: {} messages, lost {}, out of order {}, closed {}",
        report.sent,
        report.lost(),
        report.out_of_order,
        report.closed
    );
    report.assert_clean();
}

#[tokio::test]
async fn of_a_hundred_replacements_in_a_second_the_last_one_is_live() {
    // Some builds with tails that nobody reads, again and again, then the one that counts. Written before: only renames take place.
    let drafts = tempfile::tempdir().unwrap();
    let first = build("one");
    for number in 0..DRAFTS {
        fs::write(drafts.path().join(number.to_string()), [first.as_slice(), &number.to_le_bytes()].concat()).unwrap();
    }
    fs::write(drafts.path().join("last"), build("last")).unwrap();
    let app = app();
    let hosts = [app.servers[0].pid(), app.workers[0].pid()];
    let runners = || hosts.map(|host| procfs::runners(host, "chat").len());
    let children = || hosts.map(|host| procfs::children(host).len());
    let watch = Arc::new(Watch::default());
    let running = tokio::spawn(load::run(plan(&app), Arc::clone(&watch)));
    eventually("the load to run", PATIENCE, async || watch.answered() > 200).await;
    let before = runners();
    let (started, mut most) = (Instant::now(), [0; 2]);
    for number in 1..=REPLACEMENTS {
        let draft = if number == REPLACEMENTS { "last".to_owned() } else { (number % DRAFTS).to_string() };
        let folder = app.config.plugins_dir();
        fs::hard_link(drafts.path().join(draft), folder.join(".next")).unwrap();
        fs::rename(folder.join(".next"), folder.join(plugin::library_name("chat"))).unwrap();
        if number % 10 == 0 {
            // Not every time: it reads all of /proc.
            for (most, now) in most.iter_mut().zip(children()) {
                *most = now.max(*most);
            }
        }
        tokio::time::sleep(Duration::from_millis(8)).await; // With the rest, a hundred of them make the second.
    }
    let took = started.elapsed();
    let mut client = Client::enter(&app.urls()[0], "ada").await;
    client.set_patience(PATIENCE);
    let is_settled = async || {
        for (most, now) in most.iter_mut().zip(children()) {
            *most = now.max(*most);
        }
        client.request("echo", json!(1)).await["version"] == "last" && newest(&app.servers[0]) == newest(&app.workers[0])
    };
    eventually("the last build", PATIENCE, is_settled).await;
    let live = started.elapsed();
    eventually("as many runners as before", PATIENCE, async || runners() == before).await;
    watch.stop();
    let report = running.await.unwrap();
    println!(
        "{REPLACEMENTS} replacements in {took:.1?}: the last was live after {live:.1?}; runners before and after {before:?}, most children meanwhile \
         {most:?}; {} messages, lost {}, out of order {}, closed {}",
        report.sent,
        report.lost(),
        report.out_of_order,
        report.closed
    );
    assert!(most.iter().all(|most| *most <= RUNNERS_MAX), "{most:?}");
    report.assert_clean();
}

//! A worker whose plugin does everything a plugin must not do.

use std::time::Instant;

use serde_json::{Value, json};

use super::{DELAY_MS, NEIGHBOURS, Neighbours, PATIENCE, app, dead, enter, names_one_of, obituaries_of, settled};
use crate::harness::app::App;
use crate::harness::client::Client;
use crate::harness::plugin;
use crate::harness::procfs;

/// `worker.attempts`.
const ATTEMPTS: usize = 2;

/// What ends a runner: what is asked for, by which action, how the runner's end is called, and the code for the client.
const FATAL: [(&str, &str, &[&str], &str); 10] = [
    ("segfault", "act", &["SIGSEGV"], "failed"),
    ("overflow", "act", &["SIGABRT", "SIGSEGV"], "failed"),
    ("abort", "act", &["SIGABRT"], "failed"),
    ("exit", "act", &["exit code 3"], "failed"),
    ("allocate", "act", &["SIGABRT", "SIGKILL"], "failed"),
    ("close", "act", &[], "failed"),
    ("garbage", "act", &[], "failed"),
    ("garbage and go", "act", &[], "failed"),
    ("fork", "act", &["SIGABRT"], "failed"),
    ("loop", "act_briefly", &[], "timeout"),
];

/// What no runner ends of.
const HARMLESS: [(&str, Option<&str>); 5] =
    [("huge", Some("failed")), ("panic", Some("failed")), ("error", Some("failed")), ("threads", None), ("say", None)];

async fn process(client: &mut Client) -> Value {
    client.request("act", Value::Null).await["process"].clone()
}

fn villains_worker() -> App {
    app(|config| config.with("worker.attempts", ATTEMPTS as i64).with("plugins.villain.memory_max", "256MiB"))
}

#[tokio::test]
async fn what_ends_a_runner_costs_its_own_message_and_nothing_else() {
    let mut app = villains_worker();
    let url = app.urls().remove(0);
    let (mut bystander, _) = enter(&url, "bystander").await;
    let mut neighbours = Neighbours::enter(&url).await;
    let mut before = process(&mut bystander).await;
    let runners = procfs::runners(app.workers[0].pid(), super::PLUGIN).len();
    assert_eq!(runners, 1, "of the villain: {before}");
    for (number, (what, action, ends, code)) in FATAL.into_iter().enumerate() {
        let (mut villain, connection) = enter(&url, "villain").await;
        let mark = app.workers[0].lines().len();
        neighbours.ask("act").await;
        let started = Instant::now();
        let asked = villain.send_request(action, json!({ "do": what, "milliseconds": DELAY_MS })).await;
        assert_eq!(bystander.request("echo", json!(what)).await["echo"], what, "another plugin of the same worker");
        let answer = villain.answer(&asked).await;
        assert_eq!(answer.as_ref().map_err(|error| error["code"].as_str()), Err(Some(code)), "{what}: {answer:?}");
        println!("{what}: answered {code:?} after {:.0?}", started.elapsed());
        neighbours.answered(what).await;

        let letters = dead(&app);
        assert_eq!(letters.len(), number + 1, "{what}: {letters:?}");
        let is_told = |letter: &&String| names_one_of(letter, ends) && letter.contains(&connection);
        assert!(letters.iter().any(|letter| is_told(&letter)), "{what}: no dead letter that tells of {ends:?}: {letters:?}");
        // A runner that is ended for a call past its time has no obituary.
        let ended = obituaries_of(&app.workers[0], mark, if code == "timeout" { 0 } else { ATTEMPTS }).await;
        // What ended it is known from the thread's crumb; who only closes his socket or writes into it may have gone on.
        if !ends.is_empty() {
            let message_id = format!("{connection}-1");
            let blamed = ended.iter().filter(|line| names_one_of(line, ends) && line.contains(action) && line.contains(&message_id));
            assert_eq!(blamed.count(), ATTEMPTS, "{what}: {ended:?}");
        }

        let after = process(&mut bystander).await;
        assert_ne!(after, before, "{what}: served by the runner that should have ended");
        before = after;
        settled(&app.workers[0], runners).await;
        assert_eq!(villain.closed(), None, "{what}");
        assert!(app.workers[0].is_running() && app.servers[0].is_running(), "{what}");
        let fresh = villain.request("act", json!({ "text": what })).await;
        assert_eq!((&fresh["text"], &fresh["attempt"]), (&json!(what), &json!(1)));
    }
    assert_eq!(neighbours.clients.len(), NEIGHBOURS);
    let idle: Vec<_> = app.workers[0].lines().into_iter().filter(|line| line.contains("no runner came up")).collect();
    assert_eq!(idle, Vec::<String>::new(), "each had come up, and ended of its first call");
}

#[tokio::test]
async fn what_a_runner_survives_is_no_more_than_a_failed_message() {
    let mut app = villains_worker();
    let url = app.urls().remove(0);
    let mut neighbours = Neighbours::enter(&url).await;
    let (mut villain, _) = enter(&url, "villain").await;
    process(&mut villain).await;
    for (what, code) in HARMLESS {
        let mark = app.workers[0].lines().len();
        neighbours.ask("act").await;
        let answer = villain.try_request("act", json!({ "do": what, "text": "hear, hear" })).await;
        assert_eq!(answer.as_ref().err().and_then(|error| error["code"].as_str()), code, "{what}: {answer:?}");
        neighbours.answered(what).await;
        if what == "say" {
            for stream in ["to standard output: \"hear, hear\"", "to standard error: \"hear, hear\""] {
                let line = app.workers[0].wait_line_after(mark, stream, PATIENCE);
                assert!(line.contains("villain"), "a line without the plugin's name: {line}");
            }
        }
        assert!(app.workers[0].is_running(), "{what}");
    }
    // Threads that were left behind keep no old runner alive.
    let mut library = plugin::from_source(super::PLUGIN, super::SOURCE);
    library.push(0);
    let before = process(&mut villain).await;
    plugin::install_bytes(&library, &app.config.plugins_dir(), super::PLUGIN);
    crate::harness::eventually("the new build", PATIENCE, async || process(&mut villain).await != before).await;
    let old = u32::try_from(before.as_u64().unwrap()).unwrap();
    app.config.set("probation.time", "0s");
    app.config.set("probation.calls", 0);
    crate::harness::eventually("the end of the old build's runner", PATIENCE, async || {
        process(&mut villain).await;
        !procfs::is_running(old)
    })
    .await;
}

#[tokio::test]
async fn a_copy_that_a_plugin_makes_of_its_runner_takes_nothing_from_it() {
    let app = villains_worker();
    let (mut villain, _) = enter(&app.urls().remove(0), "villain").await;
    let original = process(&mut villain).await;
    for what in ["copy", "copy and exit"] {
        villain.request("act", json!({ "do": what })).await;
        for text in 0..100 {
            let answer = villain.request("act", json!({ "text": text })).await;
            assert_eq!((&answer["text"], &answer["process"]), (&json!(text), &original), "{what}");
        }
    }
    // Killed by somebody, it blames nobody: how its copy ended is not its own end.
    let mark = app.workers[0].lines().len();
    let asked = villain.send_request("act", json!({ "milliseconds": 5_000 })).await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let killed = std::process::Command::new("kill").args(["-9", &original.to_string()]).status();
    assert!(killed.is_ok_and(|status| status.success()));
    let ended = obituaries_of(&app.workers[0], mark, 1).await;
    assert!(ended[0].contains("no call is to blame for certain"), "{ended:?}");
    drop(villain.answer(&asked).await);
}

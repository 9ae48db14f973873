//! A bad build that is put in place under load: it is taken back by itself, and no message is lost to it.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::{PATIENCE, dead};
use crate::harness::app::App;
use crate::harness::redis::Redis;
use crate::harness::report::Report;
use crate::harness::sequence::{self, Plan, Running};
use crate::harness::{eventually, load_seconds, plugin};

/// The bad call of the build that crashes.
const CRASHING_CALL: u64 = 150;
/// Share of the calls that fail in the other one.
const FAILING_PERCENT: u64 = 30;

/// What became of a bad build.
struct Trial {
    report: Report,
    /// Messages that it was given, and messages that failed or crashed in it.
    saw: usize,
    suffered: usize,
    /// From the rename to the log line.
    rolled_back: Duration,
}

fn app() -> App {
    App::start_on(Redis::start(), 1, 1, |config| {
        let config = sequence::with_tracer(config).with("queue_options.partitions", i64::from(super::PARTITIONS));
        config.with("probation.time", "2s").with("probation.calls", 200)
    })
}

/// Puts the bad build in place in the middle of the load.
async fn trial(app: &App, bad: &[u8], what: &str) -> Trial {
    let running = Running::start(Plan::new(app.urls(), &app.config)).await;
    // There has to be a good version to fall back to.
    let is_good = |line: &String| line.contains("tracer") && line.contains("to=\"current\"");
    eventually("the first build's probation to end", PATIENCE, async || app.workers[0].lines().iter().any(is_good)).await;
    let mark = app.workers[0].lines().len();
    let renamed = Instant::now();
    plugin::install_bytes(bad, &app.config.plugins_dir(), "tracer");
    let is_rolled_back = async || app.workers[0].lines().iter().skip(mark).any(|line| line.contains("rolled_back"));
    eventually("the bad build to be rolled back", PATIENCE, is_rolled_back).await;
    let rolled_back = renamed.elapsed();
    let runs_before = running.answered();
    tokio::time::sleep(load_seconds()).await; // The load goes on as if nothing had been.
    assert!(running.answered() > runs_before + 200, "the load stands still");
    let report = running.finish(what).await;
    let of_bad = |is_meant: fn(&crate::harness::report::Run) -> bool| {
        let runs = report.runs.iter().filter(|run| run.is_bad_build && is_meant(run));
        runs.map(|run| (run.connection, run.number)).collect::<HashSet<_>>().len()
    };
    let (saw, suffered) = (of_bad(|_| true), of_bad(|run| !run.is_good));
    println!("{report}; rolled back {rolled_back:.1?} after it was put in place; {saw} messages saw it, {suffered} of them failed in it");
    report.assert_nothing_lost();
    assert!(suffered > 0, "it was never at work: {report}");
    assert!(report.runs.iter().rev().take(200).all(|run| !run.is_bad_build), "it is still at work");
    Trial { report, saw, suffered, rolled_back }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_fails_too_often_is_rolled_back() {
    let mut app = app();
    let bad = sequence::bad_tracer(FAILING_PERCENT, 0);
    let trial = trial(&app, &bad, &format!("a build of which {FAILING_PERCENT} % of the calls fail")).await;
    assert!(trial.rolled_back < PATIENCE && trial.saw < 5_000, "{} messages saw it", trial.saw);
    // Whatever failed was tried again, most of it on the good build; three failures in a row are the plugin's own word.
    assert_eq!(trial.report.done + trial.report.errors.get("failed").copied().unwrap_or(0), trial.report.sent);
    assert!(app.workers[0].is_running() && app.servers[0].is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_crashes_on_a_later_call_is_rolled_back() {
    let mut app = app();
    let bad = sequence::bad_tracer(0, CRASHING_CALL);
    let trial = trial(&app, &bad, &format!("a build that crashes on its {CRASHING_CALL}th call")).await;
    assert_eq!(trial.suffered, 1, "it was rolled back at its first crash, and that message ran well on the build before");
    assert_eq!(trial.report.done, trial.report.sent, "{}", trial.report);
    assert_eq!(dead(&app), Vec::<String>::new());
    assert!(app.workers[0].is_running() && app.servers[0].is_running());
}

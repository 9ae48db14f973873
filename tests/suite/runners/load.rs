//! A thousand messages a second, of which one in five hundred crashes its plugin, and what everybody else notices of it.

use std::time::Duration;

use super::{PATIENCE, dead};
use crate::harness::app::App;
use crate::harness::redis::Redis;
use crate::harness::report::Report;
use crate::harness::sequence::{self, Plan, Running};
use crate::harness::{eventually, load_seconds, procfs};

/// One message in so many crashes.
const POISON_EVERY: usize = 500;
/// Attempts of a message, as an action and in the fallback.
const ATTEMPTS: u64 = 3;
/// What a busy machine and a debug build may make of the 20 ms in which a replacement should be there.
const REPLACED_MAX: Duration = Duration::from_secs(2);

async fn poisoned(app: &App, action: &'static str, host: u32) -> Report {
    let mut plan = Plan::new(app.urls(), &app.config);
    (plan.action, plan.poison_every) = (action, POISON_EVERY);
    let what = format!("one of {POISON_EVERY} messages segfaults, {action}");
    let running = Running::start(plan).await;
    tokio::time::sleep(load_seconds()).await; // The load itself.
    let report = running.finish(&what).await;
    let replaced = report.replacements();
    println!(
        "{report}; {} poisons given up of {}; {} runners replaced, crash to first call on the replacement p50 {:.1?}, max {:.1?}",
        report.poisons_failed,
        report.poisons,
        replaced.len(),
        replaced.get(replaced.len() / 2).unwrap_or(&Duration::ZERO),
        replaced.last().unwrap_or(&Duration::ZERO),
    );
    report.assert_nothing_lost();
    assert!(report.poisons > 0 && report.poisons_failed == report.poisons, "{report}");
    assert_eq!(report.done, report.sent - report.poisons, "{report}");
    assert!(replaced.len() as u64 >= report.poisons, "{report}");
    assert!(replaced.last() < Some(&REPLACED_MAX), "{replaced:?}");
    eventually("one runner, and nothing dead", PATIENCE, async || {
        procfs::runners(host, "tracer").len() == 1 && procfs::children(host).into_iter().all(procfs::is_running)
    })
    .await;
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_that_segfaults_on_one_message_in_five_hundred() {
    let mut app = App::start_on(Redis::start(), 1, 1, |config| {
        sequence::with_tracer(config)
            .with("queue_options.partitions", i64::from(super::PARTITIONS))
            .with("worker.attempts", ATTEMPTS as i64)
    });
    let report = poisoned(&app, "trace", app.workers[0].pid()).await;
    let letters = dead(&app);
    assert_eq!(letters.len() as u64, report.poisons, "{letters:?}");
    assert!(letters.iter().all(|letter| letter.contains("SIGSEGV")), "{letters:?}");
    assert!(app.workers[0].is_running() && app.servers[0].is_running());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fallback_that_segfaults_on_one_message_in_five_hundred() {
    let mut app = App::start_on(Redis::start(), 1, 0, |config| {
        sequence::with_tracer(config)
            .with("queue_options.partitions", i64::from(super::PARTITIONS))
            .with("server.handler", "tracer")
            .with("server.handler_attempts", ATTEMPTS as i64)
    });
    let report = poisoned(&app, "fallback", app.servers[0].pid()).await;
    let lines = app.servers[0].lines();
    let count = |words: &[&str]| lines.iter().filter(|line| words.iter().all(|word| line.contains(word))).count() as u64;
    assert_eq!(count(&["runner ended", "tracer", "SIGSEGV", "fallback"]), report.poisons * ATTEMPTS);
    assert_eq!(count(&["fallback message given up", "SIGSEGV"]), report.poisons);
    eventually("a dead letter of each poison", PATIENCE, async || dead(&app).len() as u64 >= report.poisons).await;
    let letters = dead(&app);
    assert_eq!(letters.len() as u64, report.poisons, "{letters:?}");
    assert!(letters.iter().all(|letter| letter.contains("SIGSEGV") && letter.contains("fallback")), "{letters:?}");
    assert!(app.servers[0].is_running());
}

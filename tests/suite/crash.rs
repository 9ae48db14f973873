//! Promise: a worker that is killed loses nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::harness::app::App;
use crate::harness::load::{self, Plan, Watch};
use crate::harness::{PATIENCE, eventually};

#[tokio::test]
async fn a_killed_workers_messages_are_taken_over() {
    let mut app = App::start_with(1, 2, |config| config.with("limits.messages_per_second", 0).with("queue_options.lease", "2s"));
    app.wait_balanced().await;
    let plan = Plan {
        urls: app.urls(),
        connections: 20,
        messages: 500,
        window: 32,
        interval: None,
        action: "chat_text",
        patience: Duration::from_secs(30),
    };
    let watch = Arc::new(Watch::default());
    let running = tokio::spawn(load::run(plan, Arc::clone(&watch)));
    eventually("3000 answers", PATIENCE * 3, async || watch.answered() > 3_000).await;
    let killed = Instant::now();
    app.workers[0].kill();
    assert!(watch.answered() < 10_000, "killed too late to mean anything");
    let report = running.await.unwrap();
    println!(
        "10000 jobs, one of two workers killed: lost {}, ran twice {}, all answered {:?} after the kill, slowest answer {:?}",
        report.lost(),
        report.ran_twice,
        killed.elapsed(),
        report.percentile(1.0)
    );
    assert_eq!((report.answered, report.lost(), report.answered_twice, report.closed), (10_000, 0, 0, 0), "{:?}", report.errors);
    assert!(report.errors.is_empty(), "{:?}", report.errors);
    assert_eq!(report.out_of_order, 0);
}

//! A Redis that is killed, stalls, drops every connection, or forgets everything.

use std::time::{Duration, Instant};

use super::{STEADY, load, start, start_on};
use crate::harness::app::{PARTITIONS, metric};
use crate::harness::sequence::Plan;
use crate::harness::{PATIENCE, eventually};

/// How often the data is thrown away.
const FLUSHES: usize = 3;
/// How long Redis stays away when it does not come back at once: longer than the lease.
const AWAY: Duration = Duration::from_millis(2_500);

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_killed_and_comes_back_with_its_append_only_file() {
    // What was written survives the process in either mode: "everysec" loses up to a second only when the machine dies too.
    for (fsync, pause) in [("always", Duration::ZERO), ("everysec", AWAY)] {
        let mut app = start_on(&["--appendonly", "yes", "--appendfsync", fsync], 1, 2);
        let running = load(&app, |plan| plan.milliseconds = 2).await;
        let killed = Instant::now();
        app.redis.kill();
        tokio::time::sleep(pause).await;
        app.redis.start_again();
        let away = killed.elapsed();
        running.go_on(STEADY).await;
        let report = running.finish(&format!("Redis killed and started again, appendfsync {fsync}")).await;
        println!("{report}; away {away:.0?}");
        report.assert_nothing_lost();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_stalls_longer_than_the_lease() {
    let app = start_on(&["--enable-debug-command", "yes"], 1, 2);
    app.wait_balanced().await;
    let running = load(&app, |plan| plan.milliseconds = 2).await;
    app.redis.cli(&["DEBUG", "SLEEP", "4"]);
    running.go_on(STEADY).await;
    let report = running.finish("DEBUG SLEEP 4, twice the lease").await;
    println!("{report}");
    report.assert_nothing_lost();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_connection_to_redis_is_cut() {
    let app = start(2, 2);
    app.wait_balanced().await;
    let running = load(&app, |plan| plan.milliseconds = 2).await;
    for _ in 0..5 {
        let cut = app.redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
        assert!(cut.parse::<u32>().unwrap() >= 8, "only {cut} connections");
        running.go_on(STEADY / 4).await;
    }
    let report = running.finish("CLIENT KILL of all connections, five times").await;
    println!("{report}");
    report.assert_nothing_lost();
    assert_eq!(report.errors.get("busy"), None, "a moment without a connection is waited out: {report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_flushed_under_load() {
    let app = start(2, 2);
    app.wait_balanced().await;
    // Calls nearly as long as the interval: when the owners of partitions change wrongly, messages of one connection run side by side.
    let slow = |plan: &mut Plan| (plan.connections, plan.milliseconds, plan.patience) = (100, 180, Duration::from_secs(5));
    let running = load(&app, slow).await;
    let mut flushed = Instant::now();
    for _ in 0..FLUSHES {
        app.redis.cli(&["FLUSHALL"]);
        flushed = Instant::now();
        running.go_on(STEADY / 2).await;
    }
    let report = running.finish("FLUSHALL").await;
    println!("{report}, lost of those sent after it {}", report.lost_since(flushed));
    report.assert_sound();
    assert_eq!(report.lost_since(flushed), 0, "{report}");
    // Told, not hidden: in the log of each process and in its metrics.
    for process in app.servers.iter().chain(&app.workers) {
        process.wait_line("Redis lost the app's keys", PATIENCE);
        assert_eq!(metric(process, "plugsocket_queue_losses_total"), FLUSHES.to_string());
    }
    let balanced = || app.workers.iter().all(|worker| metric(worker, "plugsocket_worker_partitions") == (PARTITIONS / 2).to_string());
    eventually("each worker's share again", PATIENCE, async || balanced()).await;
    let group = app.redis.cli(&["XINFO", "GROUPS", "ps:{plugsocket:p0}:in"]);
    assert!(group.starts_with("name\nw\n"), "{group}");
}

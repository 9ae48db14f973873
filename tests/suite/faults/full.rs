//! A Redis that a backlog fills up to its last byte.

use std::time::Duration;

use super::{STEADY, begin, start_on};
use crate::harness::app::{PARTITIONS, metric};
use crate::harness::process::Process;
use crate::harness::{START_PATIENCE, eventually};

/// Far more than either needs, far less than it would take to hold what is refused.
const RESIDENT_MIB_MAX: u64 = 256;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_redis_refuses_drains_and_serves_again() {
    let mut app = start_on(&["--maxmemory", "24mb"], 1, 0);
    let running = begin(&app, |plan| (plan.connections, plan.padding, plan.patience) = (100, 8 << 10, Duration::from_secs(10))).await;
    let mut resident = 0;
    let mut watch =
        |processes: &[&Process]| resident = processes.iter().map(|process| process.resident_mib()).chain([resident]).max().unwrap();
    eventually("clients that are told busy", START_PATIENCE, async || {
        watch(&[&app.servers[0]]);
        running.refused() > 500
    })
    .await;
    let stored = running.accepted();
    app.workers.push(Process::worker(&app.config));
    app.workers[0].wait_worker_ready();
    eventually("the backlog's end", START_PATIENCE, async || {
        watch(&[&app.servers[0], &app.workers[0]]);
        running.answered() - running.refused() >= stored
    })
    .await;
    running.go_on(STEADY / 2).await;
    watch(&[&app.servers[0], &app.workers[0]]);
    let report = running.finish("Redis full at 24 MB, then drained").await;
    println!("{report}; {stored} stored when it was full, at most {resident} MiB resident");
    report.assert_nothing_lost();
    assert!(report.errors.keys().eq(["busy"]), "{report}");
    assert!(resident < RESIDENT_MIB_MAX, "{resident} MiB resident");
    let waiting =
        (0..PARTITIONS).map(|partition| app.redis.cli(&["XLEN", &format!("ps:{{plugsocket:p{partition}}}:in")]).parse::<u64>().unwrap());
    assert_eq!(waiting.sum::<u64>(), 0, "drained");
    for process in app.servers.iter().chain(&app.workers) {
        let refused = process.lines().into_iter().find(|line| line.contains("queue refused"));
        assert_eq!(refused, None, "refused for good");
        assert_eq!(metric(process, "plugsocket_queue_writes_refused_total{what=\"delivery\"}"), "", "refused for good");
    }
}

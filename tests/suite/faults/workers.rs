//! Workers that are killed, frozen past their lease, or whose clock jumps.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{LEASE, STEADY, begin, load, start};
use crate::harness::app::App;
use crate::harness::process::Process;
use crate::harness::redis::Redis;
use crate::harness::report::{Report, Run};
use crate::harness::sequence::{self, Plan};

/// When the other worker must have taken over, as a multiple of the lease: the target is 1.1, the rest is for machines that are busy with
/// other things.
const TAKE_OVER_LEASES: f64 = 1.5;
/// `worker.timeout`, in milliseconds.
const TIMEOUT: u64 = 30_000;
const HOUR: Duration = Duration::from_secs(3600);
/// How often libfaketime looks at its file.
const CLOCK_CACHE: Duration = Duration::from_secs(1);

fn leases(report: &Report) -> f64 {
    report.worst.as_secs_f64() / LEASE.as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_workers_is_killed() {
    let mut app = start(2, 2);
    app.wait_balanced().await;
    let running = load(&app, |plan| (plan.milliseconds, plan.interval) = (2, plan.interval * 2)).await;
    let dead = u64::from(app.workers[0].pid());
    app.workers[0].kill();
    let killed = unix_ms();
    running.go_on(STEADY).await;
    let report = running.finish("kill -9 of one of two workers").await;
    let taken_over = taken_over(&report, dead).saturating_sub(killed) as f64 / 1000.0 / LEASE.as_secs_f64();
    println!("{report}: {:.2} x lease; the last connection was taken over after {taken_over:.2} x lease", leases(&report));
    report.assert_nothing_lost();
    assert_eq!(report.done, report.sent, "{report}");
    assert!(taken_over < TAKE_OVER_LEASES, "after {taken_over:.2} x lease: {report}");
    assert!(report.worst < LEASE.mul_f64(TAKE_OVER_LEASES) + report.median * 4, "{report}");
}

fn unix_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// When the last of the connections that `dead` had served was served by another worker for the first time.
fn taken_over(report: &Report, dead: u64) -> u64 {
    let mut orphaned = HashSet::new();
    let mut last = 0;
    for run in &report.runs {
        if run.process == dead {
            orphaned.insert(run.connection);
        } else if orphaned.remove(&run.connection) {
            last = run.time;
        }
    }
    assert!(last > 0, "the dead worker had served nobody: {report}");
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_frozen_past_its_lease_changes_nothing() {
    let app = start(1, 2);
    app.wait_balanced().await;
    // Few messages but long calls: many are in the middle when the worker freezes, little is on its way to Redis.
    let slow = |plan: &mut Plan| (plan.connections, plan.interval, plan.milliseconds, plan.push) = (100, plan.interval * 2, 150, true);
    let running = begin(&app, slow).await;
    running.go_on(STEADY / 4).await;
    app.workers[0].signal("STOP");
    tokio::time::sleep(LEASE * 2).await; // The fault itself.
    running.go_on(STEADY / 4).await;
    app.workers[0].signal("CONT");
    running.go_on(STEADY / 2).await;
    let report = running.finish("a worker frozen for two leases").await;
    let zombie = u64::from(app.workers[0].pid());
    let (runs, sends) = (late_runs(&report, zombie), late_sends(&report, zombie));
    println!("{report}: {:.2} x lease, late runs {runs}, late sends {sends}", leases(&report));
    report.assert_nothing_lost();
    assert_eq!(report.done, report.sent, "{report}");
    // Calls that were in the middle run again elsewhere, and what they say on waking is dropped. All that may be late is what had left them
    // already: a call about to begin, a delivery about to be written, or not confirmed yet and written again.
    assert!(report.ran_twice > 8, "too little was in its hands when it froze: {report}");
    assert!((runs + sends) * 4 < report.ran_twice * 3, "the zombie goes on: late runs {runs}, late sends {sends}: {report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_worker_freezes_again_and_again() {
    let app = start(1, 1);
    // About as much as it can do, so that much waits in its hands when it freezes.
    let running = load(&app, |plan| (plan.milliseconds, plan.interval) = (30, plan.interval * 4)).await;
    for _ in 0..3 {
        app.workers[0].signal("STOP");
        tokio::time::sleep(LEASE.mul_f64(1.1)).await; // The fault itself: its lease lapses, and nobody else takes it.
        app.workers[0].signal("CONT");
        running.go_on(STEADY / 3).await;
    }
    let report = running.finish("the only worker frozen three times for 1.1 leases").await;
    println!("{report}");
    report.assert_nothing_lost();
    assert_eq!(report.done, report.sent, "{report}");
}

/// Runs by `zombie` of messages that another worker had run before.
fn late_runs(report: &Report, zombie: u64) -> u64 {
    let mut by_others = HashSet::new();
    let mut late = 0;
    for Run { connection, number, process, .. } in &report.runs {
        if *process != zombie {
            by_others.insert((connection, number));
        } else if by_others.contains(&(connection, number)) {
            late += 1;
        }
    }
    late
}

/// What `zombie` sent for a message, and a connection got behind what another worker sent for the same or a later one.
fn late_sends(report: &Report, zombie: u64) -> u64 {
    let mut late = 0;
    for pushes in report.pushes.values() {
        let mut newest_of_others = None;
        for push in pushes {
            if push.process != zombie {
                newest_of_others = newest_of_others.max(Some(push.number));
            } else if Some(push.number) <= newest_of_others {
                late += 1;
            }
        }
    }
    late
}

/// The clock of a process that was started with it, to be set while it runs.
struct Clock {
    file: PathBuf,
    library: PathBuf,
}

impl Clock {
    fn new(folder: &Path) -> Self {
        let library = std::fs::read_dir("/usr/lib").unwrap().flatten().map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
        let library = library.chain([PathBuf::from("/usr/lib/faketime/libfaketimeMT.so.1")]).find(|path| path.is_file());
        let clock = Self { file: folder.join("clock"), library: library.expect("libfaketime must be installed") };
        clock.set("+0");
        clock
    }

    fn set(&self, offset: &str) {
        let draft = self.file.with_extension("new");
        std::fs::write(&draft, offset).unwrap();
        std::fs::rename(draft, &self.file).unwrap();
    }

    fn worker(&self, config: &crate::harness::config::Config) -> Process {
        let cache = CLOCK_CACHE.as_secs().to_string();
        Process::worker_with(
            config,
            &[
                ("LD_PRELOAD", self.library.to_str().unwrap()),
                ("FAKETIME_TIMESTAMP_FILE", self.file.to_str().unwrap()),
                ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
                ("FAKETIME_CACHE_DURATION", &cache),
            ],
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_clock_steps_an_hour_forward_and_back() {
    // A lease that no busy machine lets lapse: here every message runs once.
    // Without runners: every process looks at the clock's file on its own, and would see the step at another time than its host.
    let mut app = App::start_on(Redis::start(), 1, 1, |config| {
        sequence::with_tracer(config).with("queue_options.lease", "10s").with("plugins.tracer.isolation", "in-process")
    });
    let clock = Clock::new(&app.config.state_dir());
    app.workers.push(clock.worker(&app.config));
    app.workers[1].wait_worker_ready();
    app.wait_balanced().await;
    let running = load(&app, |plan| (plan.milliseconds, plan.push) = (2, true)).await;
    for offset in ["+3600", "+0", "-3600", "+0"] {
        clock.set(offset);
        tokio::time::sleep(CLOCK_CACHE * 2).await; // Until it is looked at.
        running.go_on(STEADY / 2).await;
    }
    let report = running.finish("a worker whose clock steps an hour").await;
    println!("{report}");
    report.assert_nothing_lost();
    assert_eq!((report.done, report.ran_twice), (report.sent, 0), "{report}");
    let stepped = u64::from(app.workers[1].pid());
    let now = unix_ms();
    let hour = u64::try_from(HOUR.as_millis()).unwrap();
    let pushes: Vec<_> = report.pushes.values().flatten().collect();
    let mut clocks: HashMap<i32, usize> = HashMap::new();
    for push in pushes.iter().filter(|push| push.process == stepped) {
        let hours = if push.time > now + hour / 2 { 1 } else { -i32::from(push.time + hour / 2 < now) };
        *clocks.entry(hours).or_default() += 1;
    }
    assert!([-1, 0, 1].iter().all(|hours| clocks.get(hours) > Some(&0)), "its clock never was another one: {clocks:?}");
    // A call whose deadline was worked out just before the step sees another one.
    let mad = pushes.iter().filter(|push| push.left == 0 || push.left > TIMEOUT).count();
    assert!(mad < 20, "{mad} of {} calls with a deadline that makes no sense", pushes.len());
    for worker in &app.workers {
        let lines = worker.lines();
        let lost = lines.iter().find(|line| line.contains("passed to another worker") || line.contains("lease has passed"));
        assert_eq!(lost, None, "a lease was lost");
    }
}

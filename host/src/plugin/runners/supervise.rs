//! Keeps a runner in each place: puts another one there when one has ended, was given up, or has grown too old or too large.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{self, Instant};

use super::Shared;
use super::life::Runner;
use super::start::{self, Started};
use crate::plugin::blame::RunnerEvent;

/// Starts in a row that came to nothing before the place is parked.
const FAILURES_MAX: u32 = 3;
const BACKOFF: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Who ends before this and has answered nothing has not come up.
const YOUNG: Duration = Duration::from_secs(1);
/// More ends than these within a second, and the next start waits a moment: each costs a process.
const ENDS_PER_SECOND_MAX: usize = 20;
const MANY_ENDS_PAUSE: Duration = Duration::from_millis(100);
/// How often a runner's size and age are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after a runner that should be replaced could not be.
const RENEWAL_PAUSE: Duration = Duration::from_secs(30);

/// How starting has gone in one place.
#[derive(Default)]
struct Luck {
    /// In a row.
    failures: u32,
    is_parked: bool,
}

/// Why a runner is not looked after any more.
enum Over {
    /// It takes no more calls.
    Left,
    /// It is to be replaced, and serves until then.
    Worn,
    /// Everything is closed.
    Closing,
}

impl Shared {
    /// Puts a runner that has started into its place.
    pub(super) fn put(&self, place: usize, started: Started) -> Arc<Runner> {
        let (runner, body) = Runner::new(started, &self.options);
        self.tasks.spawn(Arc::clone(&runner).live(body, Arc::clone(&self.options), self.options.events.clone()));
        if let Some(place) = self.places.get(place) {
            place.store(Some(Arc::clone(&runner)));
        }
        self.changed.notify_waiters();
        metrics::counter!("plugsocket_runner_starts_total", "plugin" => self.options.plugin.to_string()).increment(1);
        tracing::debug!(plugin = %self.options.plugin, version = %self.options.version, runner = runner.id, "runner serves");
        runner
    }

    /// Keeps a runner in a place until everything is closed.
    pub(super) async fn supervise(self: Arc<Self>, place: usize, first: Option<Arc<Runner>>) {
        let mut luck = Luck::default();
        let mut ends: VecDeque<Instant> = VecDeque::new();
        let (mut next, mut rest) = (first, LOOK_INTERVAL);
        loop {
            let runner = match next.take() {
                Some(runner) => runner,
                None => match self.start(place, &mut luck).await {
                    Some(runner) => runner,
                    None => return,
                },
            };
            match self.guard(&runner, rest).await {
                Over::Left => {}
                Over::Closing => return self.end(&runner).await,
                Over::Worn => {
                    let (another, pause) = match self.closing.run_until_cancelled(start::start(&self.options)).await {
                        None => return self.end(&runner).await,
                        Some(Ok(started)) => {
                            let another = self.put(place, started);
                            self.dismiss(&runner);
                            (another, LOOK_INTERVAL)
                        }
                        Some(Err(error)) => {
                            tracing::warn!(plugin = %self.options.plugin, runner = runner.id, %error, "runner can't be replaced; it goes on");
                            (runner, RENEWAL_PAUSE)
                        }
                    };
                    (next, rest) = (Some(another), pause);
                    continue;
                }
            }
            rest = LOOK_INTERVAL;
            if runner.has_served() || runner.started.elapsed() > YOUNG {
                luck.failures = 0;
            } else if runner.has_crashed() {
                self.note_failure(&mut luck, "it ended before it answered any call");
            }
            ends.push_back(Instant::now());
            ends.retain(|end| end.elapsed() < Duration::from_secs(1));
            if ends.len() > ENDS_PER_SECOND_MAX {
                self.pause(MANY_ENDS_PAUSE).await;
            }
        }
    }

    /// Starts one, however often it takes. `None` when everything is closed.
    async fn start(&self, place: usize, luck: &mut Luck) -> Option<Arc<Runner>> {
        loop {
            if luck.failures > 0 {
                self.pause(BACKOFF.saturating_mul(1 << (luck.failures - 1).min(16)).min(BACKOFF_MAX)).await;
            }
            let begun = Instant::now();
            let started = self.closing.run_until_cancelled(start::start(&self.options)).await?;
            match started {
                Ok(started) => {
                    if std::mem::take(&mut luck.is_parked) && self.parked.fetch_sub(1, Ordering::AcqRel) == self.places.len() {
                        let _ = self.options.events.send(RunnerEvent::Recovered { role: self.options.role });
                    }
                    tracing::info!(plugin = %self.options.plugin, runner = started.child.id(), took = ?begun.elapsed(), "another runner serves");
                    return Some(self.put(place, started));
                }
                Err(error) => self.note_failure(luck, &error.to_string()),
            }
        }
    }

    fn note_failure(&self, luck: &mut Luck, reason: &str) {
        luck.failures = luck.failures.saturating_add(1);
        let failures = luck.failures;
        tracing::warn!(plugin = %self.options.plugin, version = %self.options.version, failures, reason, "no runner came up");
        if failures < FAILURES_MAX || std::mem::replace(&mut luck.is_parked, true) {
            return;
        }
        if self.parked.fetch_add(1, Ordering::AcqRel) + 1 == self.places.len() {
            let _ = self.options.events.send(RunnerEvent::Parked { role: self.options.role, reason: reason.to_owned() });
            self.changed.notify_waiters();
        }
    }

    /// Looks after a runner, the first time after `rest`.
    async fn guard(&self, runner: &Runner, rest: Duration) -> Over {
        let mut pause = rest;
        loop {
            tokio::select! {
                biased;
                () = self.closing.cancelled() => return Over::Closing,
                () = runner.left().cancelled() => return Over::Left,
                () = time::sleep(pause) => {
                    pause = LOOK_INTERVAL;
                    if runner.is_silent() {
                        tracing::warn!(plugin = %self.options.plugin, runner = runner.id, "runner takes nothing in any more: it is ended");
                        runner.end_within(Duration::ZERO);
                    } else if let Some(why) = self.is_worn(runner) {
                        tracing::info!(plugin = %self.options.plugin, runner = runner.id, why, "runner is replaced");
                        return Over::Worn;
                    }
                }
            }
        }
    }

    /// It takes no more calls, and ends within the time that a replaced version has.
    fn dismiss(self: &Arc<Self>, runner: &Arc<Runner>) {
        let (shared, runner) = (Arc::clone(self), Arc::clone(runner));
        runner.close();
        self.tasks.spawn(async move { shared.end(&runner).await });
    }

    /// Lets a runner finish, and ends it when that takes too long or nobody wants it to.
    async fn end(&self, runner: &Runner) {
        runner.close();
        let limit = time::sleep(self.options.settings.drain_timeout);
        tokio::select! {
            biased;
            () = runner.ended().cancelled() => return,
            () = self.killed.cancelled() => {}
            () = limit => {}
        }
        runner.kill();
        runner.ended().cancelled().await;
    }

    async fn pause(&self, pause: Duration) {
        let _ = self.closing.run_until_cancelled(time::sleep(pause)).await;
    }

    fn is_worn(&self, runner: &Runner) -> Option<&'static str> {
        let settings = &self.options.settings;
        if !settings.recycle_age.is_zero() && runner.started.elapsed() >= settings.recycle_age {
            return Some("it is older than recycle_age");
        }
        let limit = settings.recycle_memory.as_u64();
        (limit > 0 && resident_bytes(runner.id).is_some_and(|bytes| bytes > limit)).then_some("it is larger than recycle_memory")
    }
}

/// Memory of a process that is in use; `None` where the system has no `/proc`.
fn resident_bytes(process: u32) -> Option<u64> {
    let facts = std::fs::read_to_string(format!("/proc/{process}/statm")).ok()?;
    let pages: u64 = facts.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

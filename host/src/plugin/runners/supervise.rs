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
        let mut failures = 0;
        let mut ends: VecDeque<Instant> = VecDeque::new();
        let mut next = first;
        loop {
            let runner = match next.take() {
                Some(runner) => runner,
                None => match self.start(place, &mut failures).await {
                    Some(runner) => runner,
                    None => return,
                },
            };
            if !self.guard(&runner).await {
                return self.end(&runner).await;
            }
            self.dismiss(&runner);
            if runner.has_answered() || runner.started.elapsed() > YOUNG {
                failures = 0;
            } else if runner.has_crashed() {
                failures += 1;
                self.note_failures(failures, "it ended before it answered any call");
            }
            ends.push_back(Instant::now());
            ends.retain(|end| end.elapsed() < Duration::from_secs(1));
            if ends.len() > ENDS_PER_SECOND_MAX {
                self.pause(MANY_ENDS_PAUSE).await;
            }
        }
    }

    /// Starts one, however often it takes. `None` when everything is closed.
    async fn start(&self, place: usize, failures: &mut u32) -> Option<Arc<Runner>> {
        loop {
            if *failures > 0 {
                self.pause(BACKOFF.saturating_mul(1 << (*failures - 1).min(16)).min(BACKOFF_MAX)).await;
            }
            let begun = Instant::now();
            let started = self.closing.run_until_cancelled(start::start(&self.options)).await?;
            match started {
                Ok(started) => {
                    if *failures >= FAILURES_MAX && self.parked.fetch_sub(1, Ordering::AcqRel) == self.places.len() {
                        let _ = self.options.events.send(RunnerEvent::Recovered { role: self.options.role });
                    }
                    tracing::info!(plugin = %self.options.plugin, runner = started.child.id(), took = ?begun.elapsed(), "another runner serves");
                    return Some(self.put(place, started));
                }
                Err(error) => {
                    *failures += 1;
                    self.note_failures(*failures, &error.to_string());
                }
            }
        }
    }

    fn note_failures(&self, failures: u32, reason: &str) {
        tracing::warn!(plugin = %self.options.plugin, version = %self.options.version, failures, reason, "no runner came up");
        if failures == FAILURES_MAX && self.parked.fetch_add(1, Ordering::AcqRel) + 1 == self.places.len() {
            let _ = self.options.events.send(RunnerEvent::Parked { role: self.options.role, reason: reason.to_owned() });
            self.changed.notify_waiters();
        }
    }

    /// Until the runner takes no more calls (true), or everything is closed (false).
    async fn guard(&self, runner: &Runner) -> bool {
        loop {
            tokio::select! {
                biased;
                () = self.closing.cancelled() => return false,
                () = runner.left().cancelled() => return true,
                () = time::sleep(LOOK_INTERVAL), if self.may_recycle() => {
                    if let Some(why) = self.is_worn(runner) {
                        tracing::info!(plugin = %self.options.plugin, runner = runner.id, why, "runner is replaced");
                        return true;
                    }
                }
            }
        }
    }

    /// Nobody finds it any more. One that still lives ends by itself, within the time that a replaced version has.
    fn dismiss(self: &Arc<Self>, runner: &Arc<Runner>) {
        if !runner.left().is_cancelled() {
            let (shared, runner) = (Arc::clone(self), Arc::clone(runner));
            runner.close();
            self.tasks.spawn(async move { shared.end(&runner).await });
        }
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

    fn may_recycle(&self) -> bool {
        let settings = &self.options.settings;
        settings.recycle_memory.as_u64() > 0 || !settings.recycle_age.is_zero()
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

//! Keeps a slow plugin or action from occupying all slots: no more of its jobs run than it has threads, or than its `concurrency`.
//!
//! Calls that take no time worth speaking of are handed over ahead of the threads: one trip to the plugin and back is then for many. When one of
//! them hangs, no more go ahead, and those that wait in the plugin for its threads leave their slots to others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// As long as calls take less on average, more of them are with the plugin than it has threads.
const QUICK: Duration = Duration::from_millis(1);
/// One that takes longer ends that at once, whatever the others took.
pub(super) const SLOW: Duration = Duration::from_millis(20);
/// The average is that of about so many calls.
const MEMORY: u64 = 16;

/// One gate for each name, as wide as what may run of it.
#[derive(Default)]
pub(super) struct Gates {
    gates: Mutex<HashMap<Arc<str>, Arc<Gate>>>,
}

/// How many may be behind a gate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Widths {
    pub(super) calls: usize,
    /// While calls are quick.
    pub(super) quick: usize,
    /// Calls that come behind others, of which one runs at a time.
    pub(super) follow: usize,
}

/// A way through for so many at once.
pub(super) struct Gate {
    width: usize,
    /// How many more may pass while calls are quick.
    ahead: usize,
    semaphore: Arc<Semaphore>,
    /// Nanoseconds that calls took lately; starts as slow, for nothing is known.
    average_ns: AtomicU64,
    is_quick: AtomicBool,
    /// Permits that are to be given up when they come back.
    owed: AtomicUsize,
    /// Those behind it that occupy a slot.
    occupying: AtomicUsize,
    /// How many may go to the plugin behind others.
    follow_max: usize,
    /// Places left for calls that go to the plugin behind others, of which one runs at a time.
    follow: AtomicUsize,
}

/// The place of a call that is with the plugin behind another one.
pub(super) struct Following(Arc<Gate>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.follow.fetch_add(1, Ordering::Relaxed);
    }
}

/// A place behind the gate.
pub(super) struct Passed {
    gate: Arc<Gate>,
    permit: Option<OwnedSemaphorePermit>,
    is_occupying: bool,
}

impl Gates {
    /// The gate of `name`; a new one when its widths have been changed.
    pub(super) fn of(&self, name: &str, widths: Widths) -> Arc<Gate> {
        let width = widths.calls.clamp(1, Semaphore::MAX_PERMITS / 2);
        let ahead = widths.quick.min(Semaphore::MAX_PERMITS / 2).saturating_sub(width);
        let wanted = (width, ahead, widths.follow);
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gate) = gates.get(name).filter(|gate| (gate.width, gate.ahead, gate.follow_max) == wanted) {
            return Arc::clone(gate);
        }
        let gate = Arc::new(Gate {
            width,
            ahead,
            follow_max: widths.follow,
            semaphore: Arc::new(Semaphore::new(width)),
            average_ns: AtomicU64::new(nanoseconds(QUICK)),
            is_quick: AtomicBool::new(false),
            owed: AtomicUsize::new(0),
            occupying: AtomicUsize::new(0),
            follow: AtomicUsize::new(widths.follow),
        });
        gates.insert(name.into(), Arc::clone(&gate));
        gate
    }
}

impl Gate {
    /// Passes, when that needs no waiting.
    pub(super) fn try_pass(self: &Arc<Self>) -> Option<Passed> {
        let permit = Arc::clone(&self.semaphore).try_acquire_owned().ok()?;
        Some(self.passed(permit))
    }

    /// A place behind a call that has passed; `None` when there are enough.
    pub(super) fn follow(self: &Arc<Self>) -> Option<Following> {
        let one_less = |left: usize| left.checked_sub(1);
        self.follow.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).ok()?;
        Some(Following(Arc::clone(self)))
    }

    /// Passes, in the order of coming.
    pub(super) async fn pass(self: &Arc<Self>) -> Option<Passed> {
        let permit = Arc::clone(&self.semaphore).acquire_owned().await.ok()?;
        Some(self.passed(permit))
    }

    fn passed(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Passed {
        Passed { gate: Arc::clone(self), permit: Some(permit), is_occupying: false }
    }

    /// Notes how long a call took.
    pub(super) fn note(&self, took: Duration) {
        if self.ahead == 0 && self.follow_max == 0 {
            return;
        }
        let before = self.average_ns.load(Ordering::Relaxed);
        let average = if took >= SLOW { nanoseconds(took) } else { before - before / MEMORY + nanoseconds(took) / MEMORY };
        self.average_ns.store(average.min(nanoseconds(SLOW)), Ordering::Relaxed);
        let is_quick = average < nanoseconds(QUICK);
        if self.is_quick.swap(is_quick, Ordering::Relaxed) == is_quick {
            return;
        }
        if is_quick {
            // What is still owed from last time stays with those who have it.
            let owed = self.owed.swap(0, Ordering::Relaxed);
            self.semaphore.add_permits(self.ahead.saturating_sub(owed));
        } else {
            let free = self.semaphore.forget_permits(self.ahead);
            self.owed.fetch_add(self.ahead - free, Ordering::Relaxed);
        }
    }
}

impl Passed {
    /// It occupies a slot from now on.
    pub(super) fn occupy(&mut self) {
        self.is_occupying = true;
        self.gate.occupying.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether calls are quick at present.
    pub(super) fn is_quick(&self) -> bool {
        self.gate.is_quick.load(Ordering::Relaxed)
    }

    /// Whether more may be behind the gate than the plugin has threads.
    pub(super) fn may_be_ahead(&self) -> bool {
        self.is_quick() || self.gate.owed.load(Ordering::Relaxed) > 0
    }

    /// Its call has taken [`SLOW`] and goes on: no more go ahead. True when it is to leave its slot: as many as the plugin has threads keep theirs.
    pub(super) fn step_aside(&mut self) -> bool {
        self.gate.note(SLOW);
        let is_one_more = |occupying: usize| (occupying > self.gate.width).then(|| occupying - 1);
        let is_aside = self.gate.occupying.fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_one_more).is_ok();
        self.is_occupying &= !is_aside;
        is_aside
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        if self.is_occupying {
            self.gate.occupying.fetch_sub(1, Ordering::Relaxed);
        }
        let is_owed = |owed: usize| owed.checked_sub(1);
        if self.gate.owed.load(Ordering::Relaxed) > 0
            && self.gate.owed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, is_owed).is_ok()
            && let Some(permit) = self.permit.take()
        {
            permit.forget();
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn widths(calls: usize, quick: usize) -> Widths {
        Widths { calls, quick, follow: 3 }
    }

    fn fill(gate: &Arc<Gate>) -> Vec<Passed> {
        std::iter::from_fn(|| gate.try_pass()).collect()
    }

    #[test]
    fn quick_calls_go_ahead_and_slow_ones_do_not() {
        let gate = Gates::default().of("chat", widths(2, 8));
        assert_eq!(fill(&gate).len(), 2, "nothing is known of it yet");
        (0..100).for_each(|_| gate.note(Duration::from_micros(10)));
        let passed = fill(&gate);
        assert_eq!(passed.len(), 8);
        gate.note(SLOW);
        assert_eq!(fill(&gate).len(), 0);
        let mut passed = passed.into_iter();
        drop(passed.by_ref().take(6).collect::<Vec<_>>());
        assert_eq!(fill(&gate).len(), 0, "the permits that came ahead are given up first");
        drop(passed);
        assert_eq!(fill(&gate).len(), 2);
    }

    #[test]
    fn turning_to_and_fro_neither_makes_nor_loses_a_place() {
        let gate = Gates::default().of("chat", widths(3, 10));
        for round in 0..20 {
            let held: Vec<_> = fill(&gate).into_iter().take(round % 5).collect();
            (0..200).for_each(|_| gate.note(Duration::from_micros(1)));
            let more: Vec<_> = fill(&gate).into_iter().skip(round % 3).collect();
            gate.note(SLOW);
            drop(held);
            if round % 2 == 0 {
                (0..200).for_each(|_| gate.note(Duration::from_micros(1)));
            }
            drop(more);
            (0..200).for_each(|_| gate.note(Duration::from_micros(1)));
            assert_eq!(fill(&gate).len(), 10, "round {round}");
            gate.note(SLOW);
            assert_eq!(fill(&gate).len(), 3, "round {round}");
        }
    }

    #[test]
    fn of_those_that_hang_as_many_keep_their_slots_as_the_plugin_has_threads() {
        let gate = Gates::default().of("chat", widths(2, 8));
        (0..100).for_each(|_| gate.note(Duration::from_micros(10)));
        let mut passed = fill(&gate);
        passed.iter_mut().for_each(Passed::occupy);
        assert!(passed.iter().all(Passed::may_be_ahead));
        assert_eq!(passed.iter_mut().filter_map(|passed| passed.step_aside().then_some(())).count(), 6);
        assert!(fill(&gate).is_empty());
        drop(passed);
        let mut passed = fill(&gate);
        passed.iter_mut().for_each(Passed::occupy);
        assert_eq!((passed.len(), passed[0].may_be_ahead(), passed[0].step_aside()), (2, false, false), "all is as at first");
    }

    #[test]
    fn no_more_follow_than_may() {
        let gate = Gates::default().of("chat", widths(2, 8));
        let following: Vec<_> = std::iter::from_fn(|| gate.follow()).collect();
        assert_eq!(following.len(), 3);
        drop(following);
        assert!(gate.follow().is_some());
    }

    #[test]
    fn without_more_to_let_ahead_it_stays_as_wide_as_it_is() {
        let gates = Gates::default();
        let gate = gates.of("chat", widths(4, 4));
        (0..100).for_each(|_| gate.note(Duration::ZERO));
        assert_eq!(fill(&gate).len(), 4);
        assert!(Arc::ptr_eq(&gate, &gates.of("chat", widths(4, 1))) && !Arc::ptr_eq(&gate, &gates.of("chat", widths(5, 4))));
    }
}

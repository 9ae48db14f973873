//! How long calls take, as far as the last ones tell: whether those that wait are one thread's work or that of several.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// So much work in front of one thread and another is woken to help; to wake one costs some 10 µs of both.
const HELP_NS: u64 = 150_000;
/// A thread that runs calls one after the other does nothing else for so long: what it has to say is said, and what was said to it is heard.
pub(super) const TURN: Duration = Duration::from_micros(100);
/// A thread that does nothing else for so long has to be stood in for.
pub(super) const TURN_MAX: Duration = Duration::from_micros(200);
/// How much one call counts for at most.
const TAKEN_MAX_NS: u64 = 1_000_000;
/// An estimate moves by so much of the difference.
const WEIGHT: u64 = 8;

/// The estimate, in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct Pace(AtomicU64);

impl Pace {
    /// A call has kept a thread busy for so long. Of two that are noted at once one may get lost.
    pub(super) fn note(&self, taken: Duration) {
        let (estimate, taken) = (self.0.load(Ordering::Relaxed), u64::try_from(taken.as_nanos()).unwrap_or(u64::MAX).min(TAKEN_MAX_NS));
        self.0.store(estimate - estimate / WEIGHT + taken / WEIGHT, Ordering::Relaxed);
    }

    /// A call has taken so long that it had to be stood in for, and has not ended yet.
    pub(super) fn note_slow(&self) {
        self.0.fetch_max(2 * HELP_NS, Ordering::Relaxed);
    }

    /// How many threads should help the one that is there with the calls that wait; all of these have one to themselves if it is as many.
    pub(super) fn helpers(&self, waiting: usize) -> usize {
        let work = self.0.load(Ordering::Relaxed).saturating_mul(waiting as u64);
        usize::try_from(work / HELP_NS).unwrap_or(usize::MAX).min(waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_calls_are_one_threads_work_and_slow_ones_have_a_thread_each() {
        let pace = Pace::default();
        assert_eq!(pace.helpers(100), 0, "nothing is known");
        let note = |taken, count| (0..count).for_each(|_| pace.note(Duration::from_micros(taken)));
        note(5, 100);
        assert_eq!((pace.helpers(1), pace.helpers(20), pace.helpers(100)), (0, 0, 3));
        note(50_000, 1);
        assert_eq!(pace.helpers(1), 0, "once is no pace");
        note(50_000, 20);
        assert_eq!((pace.helpers(1), pace.helpers(8)), (1, 8));
        note(5, 40);
        assert_eq!(pace.helpers(8), 0);
        pace.note_slow();
        assert_eq!((pace.helpers(1), pace.helpers(8)), (1, 8));
    }
}

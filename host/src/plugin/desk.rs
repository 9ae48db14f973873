//! Where calls wait for an instance's threads.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A queue that many threads empty.
pub(super) struct Desk<W> {
    state: Mutex<State<W>>,
    wake: Condvar,
}

struct State<W> {
    waiting: VecDeque<W>,
    running: usize,
    is_closed: bool,
}

/// Why work was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Full,
    Closed,
}

impl<W> Desk<W> {
    pub(super) fn new() -> Self {
        Self { state: Mutex::new(State { waiting: VecDeque::new(), running: 0, is_closed: false }), wake: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues work while no more than `open_max` waits and runs. Whoever is not `is_wanted` any more gives way first.
    pub(super) fn offer(&self, work: W, open_max: usize, is_wanted: impl Fn(&W) -> bool) -> Result<(), Refused> {
        let mut state = self.lock();
        if state.is_closed {
            return Err(Refused::Closed);
        }
        let room = open_max.saturating_sub(state.running);
        if state.waiting.len() >= room {
            state.waiting.retain(is_wanted);
        }
        if state.waiting.len() >= room {
            return Err(Refused::Full);
        }
        state.waiting.push_back(work);
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Takes no more work; what waits is still done.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.wake.notify_all();
    }

    /// How much waits.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// How much runs.
    pub(super) fn running(&self) -> usize {
        self.lock().running
    }

    /// One thread's life: does what comes until the desk is closed and empty. `note` is told of work in the moment in which it is no
    /// longer there to be withdrawn.
    pub(super) fn serve(&self, note: impl Fn(&W), mut work_off: impl FnMut(W)) {
        let mut state = self.lock();
        loop {
            if let Some(work) = state.waiting.pop_front() {
                state.running += 1;
                note(&work);
                drop(state);
                work_off(work);
                state = self.lock();
                state.running -= 1;
            } else if state.is_closed {
                return;
            } else {
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

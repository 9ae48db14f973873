//! Calls that run one after the other though all of them are handed over at once: one trip to a runner and back is for many, and what keeps
//! messages in order is kept.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Calls of which each begins only when the one before it has gone well and quickly. If it has not, those behind it come back as
/// [`CallError::NotBegun`](super::CallError::NotBegun).
#[derive(Debug, Default)]
pub struct Chain {
    state: Mutex<State>,
    handed: AtomicUsize,
}

#[derive(Debug, Clone, Copy, Default)]
enum State {
    /// Nothing of it is with a runner.
    #[default]
    Empty,
    /// Its last call until now, and the runner that has it.
    At(Last),
    /// Nothing more can be put behind it.
    Over,
}

/// A call that is with a runner, by its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Last {
    pub(super) runner: u64,
    pub(super) number: u64,
}

/// A call's place in a chain.
#[derive(Debug, Clone)]
pub struct Chained {
    chain: Arc<Chain>,
    is_first: bool,
}

impl Chain {
    /// The place of the call that is made first.
    #[must_use]
    pub fn first(self: &Arc<Self>) -> Chained {
        Chained { chain: Arc::clone(self), is_first: true }
    }

    /// A place behind the calls made before: make it only when all of them have been [handed over](Self::handed).
    #[must_use]
    pub fn behind(self: &Arc<Self>) -> Chained {
        Chained { chain: Arc::clone(self), is_first: false }
    }

    /// Calls that have been handed over. One that has been polled is not for certain: it may wait for its place.
    #[must_use]
    pub fn handed(&self) -> usize {
        self.handed.load(Ordering::Relaxed)
    }
}

impl Chained {
    /// Whether it comes behind another call: its time begins only when somebody waits for it, which is when that one has ended.
    pub(super) fn is_behind(&self) -> bool {
        !self.is_first
    }

    /// The runner that has the calls before it.
    pub(super) fn runner(&self) -> Option<u64> {
        match *self.state() {
            State::At(last) => Some(last.runner),
            State::Empty | State::Over => None,
        }
    }

    /// The call it comes behind: `Ok(None)` for the first, an error when it can't be where it belongs.
    pub(super) fn before(&self) -> Result<Option<Last>, ()> {
        match *self.state() {
            _ if self.is_first => Ok(None),
            State::At(last) => Ok(Some(last)),
            State::Empty | State::Over => Err(()),
        }
    }

    /// It has been handed over; `None` when it has not, and nothing can come behind it.
    pub(super) fn note(&self, last: Option<Last>) {
        *self.state() = last.map_or(State::Over, State::At);
        self.chain.handed.fetch_add(usize::from(last.is_some()), Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.chain.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

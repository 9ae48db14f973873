//! Where calls wait for an instance's threads. One thread that is up does many fast ones; no other is woken for them.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::alarm::Alarm;
use super::pace::{Pace, TURN, TURN_MAX};

/// A queue that many threads empty.
pub(super) struct Desk<W> {
    state: Mutex<State<W>>,
    wake: Condvar,
    pace: Pace,
    alarm: Option<Alarm>,
}

struct State<W> {
    waiting: VecDeque<W>,
    running: usize,
    /// Threads that have nothing to do, and how many of them have been called.
    resting: usize,
    called: usize,
    /// All other threads, and those that have been called.
    up: usize,
    /// When work was begun last.
    begun: Instant,
    is_alarm_set: bool,
    /// Threads that have ended work and not told of it yet: the alarm is set as long as there are any, or has told.
    holding: usize,
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
        let state = State {
            waiting: VecDeque::new(),
            running: 0,
            resting: 0,
            called: 0,
            up: 0,
            begun: Instant::now(),
            is_alarm_set: false,
            holding: 0,
            is_closed: false,
        };
        Self { state: Mutex::new(state), wake: Condvar::new(), pace: Pace::default(), alarm: Alarm::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues work while no more than `open_max` waits and runs. Whoever is not `is_wanted` any more gives way first. Answers whether
    /// [`Self::call`] is still to be called, once for all that is offered meanwhile.
    pub(super) fn offer(&self, work: W, open_max: usize, is_wanted: impl Fn(&W) -> bool) -> Result<bool, Refused> {
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
        let is_alone = state.running == 0 && state.waiting.len() == 1;
        if is_alone {
            self.call_from(state);
        }
        Ok(!is_alone)
    }

    /// Sees to it that what waits is begun soon.
    pub(super) fn call(&self) {
        self.call_from(self.lock());
    }

    fn call_from(&self, mut state: MutexGuard<'_, State<W>>) {
        let called = self.enlist(&mut state);
        drop(state);
        (0..called).for_each(|_| self.wake.notify_one());
    }

    /// Answers how many threads are to be woken.
    fn enlist(&self, state: &mut State<W>) -> usize {
        let waiting = state.waiting.len();
        let (helpers, uncalled) = (self.pace.helpers(waiting), waiting.saturating_sub(state.called));
        let is_slow = helpers == waiting;
        // Slow work has a thread each: those that are up may be in some of it for long.
        let mut wanted = if is_slow { uncalled } else { (1 + helpers).saturating_sub(state.up) };
        let resting = state.resting.saturating_sub(state.called);
        // What is left to threads that are up is watched over. When all are in slow work there is nobody to call: whoever ends takes more.
        let is_left = uncalled > wanted || (uncalled > resting && !is_slow);
        if is_left && !state.is_alarm_set && !self.set_alarm(state, TURN_MAX) {
            wanted = uncalled;
        }
        let called = wanted.min(resting);
        state.called += called;
        state.up += called;
        called
    }

    /// Whether it could be set.
    fn set_alarm(&self, state: &mut State<W>, after: Duration) -> bool {
        let is_set = self.alarm.as_ref().is_some_and(|alarm| alarm.set(after));
        state.is_alarm_set = is_set && !after.is_zero();
        is_set
    }

    /// Takes no more work; what waits is still done.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        self.set_alarm(&mut state, TURN_MAX); // Its thread ends when all is done.
        drop(state);
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

    /// One thread's life: does what comes until the desk is closed and empty. What has ended may be held back for the next `flush`.
    pub(super) fn serve(&self, mut work_off: impl FnMut(W), flush: impl Fn()) {
        let mut state = self.lock();
        state.up += 1;
        let (mut turn, mut is_holding) = (Instant::now(), false);
        loop {
            if let Some(work) = state.waiting.pop_front() {
                let begun = Instant::now();
                state.running += 1;
                state.begun = begun;
                drop(state);
                work_off(work);
                let ended = Instant::now();
                self.pace.note(ended.duration_since(begun));
                state = self.lock();
                state.running -= 1;
                state.holding += usize::from(!std::mem::replace(&mut is_holding, true));
                let is_turn_over = ended.duration_since(turn) > TURN;
                if is_turn_over && state.is_alarm_set {
                    self.set_alarm(&mut state, TURN_MAX); // Work is being done: it need not ring.
                }
                if !is_turn_over && state.is_alarm_set && !state.waiting.is_empty() {
                    continue;
                }
                turn = ended;
            }
            // Also when others have taken meanwhile what it was held back for.
            if std::mem::take(&mut is_holding) {
                state.holding -= 1;
                drop(state);
                flush();
                state = self.lock();
            } else if state.is_closed {
                self.set_alarm(&mut state, TURN_MAX); // The end of its thread.
                return;
            } else {
                if state.is_alarm_set && state.holding == 0 {
                    self.set_alarm(&mut state, Duration::ZERO);
                }
                state = self.wait(state);
                turn = Instant::now();
            }
        }
    }

    fn wait<'state>(&'state self, mut state: MutexGuard<'state, State<W>>) -> MutexGuard<'state, State<W>> {
        state.resting += 1;
        state.up -= 1;
        loop {
            if state.is_closed {
                state.up += 1;
                break;
            }
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            if state.called > 0 {
                state.called -= 1; // Whoever has called has counted it as up.
                break;
            }
        }
        state.resting -= 1;
        state
    }

    /// The life of the thread that calls others when those that are up are in slow work, and flushes what they hold back.
    pub(super) fn watch(&self, flush: impl Fn()) {
        while self.alarm.as_ref().is_some_and(Alarm::wait) {
            let mut state = self.lock();
            state.is_alarm_set = false;
            if state.is_closed && state.waiting.is_empty() {
                break;
            }
            if !state.waiting.is_empty() && state.begun.elapsed() > TURN {
                self.pace.note_slow();
            }
            self.call_from(state);
            flush();
        }
        flush();
    }

    /// Whether there is anything for [`Self::watch`] to do.
    pub(super) fn has_alarm(&self) -> bool {
        self.alarm.is_some()
    }
}

//! The lanes of a worker at work: one task for each lane that has something to do, which goes on until the lane is empty.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use tokio::sync::Notify;
use tokio::time;
use tokio_util::task::TaskTracker;

use super::ahead::{Ahead, Seat};
use super::dispatch::Dispatcher;
use super::gates::SLOW;
use super::take::Held;
use crate::config::Ordering;
use crate::lanes::Lanes;
use crate::plugin::CallError;
use crate::wire::ids::SessionId;

/// What jobs have in common that run one after another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum LaneKey {
    Connection(SessionId),
    /// A job without order has a lane to itself.
    Unordered(u64),
}

/// The lanes, shared by their tasks.
pub(super) struct Lines {
    state: Mutex<State>,
    /// Told when a lane has ended: it may have been the last one, or have left jobs behind.
    pub(super) ended: Notify,
    dispatcher: Arc<Dispatcher>,
    tasks: TaskTracker,
}

#[derive(Default)]
struct State {
    lanes: Lanes<LaneKey, Held>,
    running: usize,
    /// Counts jobs without order.
    unordered: u64,
}

impl Lines {
    pub(super) fn new(dispatcher: Arc<Dispatcher>, tasks: TaskTracker) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), ended: Notify::new(), dispatcher, tasks })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts jobs at the ends of their lanes.
    pub(super) fn push(&self, taken: Vec<Held>) {
        let settings = self.dispatcher.settings.load();
        let mut state = self.lock();
        for mut held in taken {
            let job = &held.taken.job;
            let key = match settings.plugin_action(&job.action).map(|action| action.ordering).unwrap_or_default() {
                Ordering::Connection => LaneKey::Connection(job.session.clone()),
                Ordering::None => {
                    state.unordered += 1;
                    LaneKey::Unordered(state.unordered)
                }
            };
            if state.lanes.is_busy(&key) {
                held.park(&self.dispatcher.waiting);
            }
            state.lanes.push(key, held);
        }
    }

    /// Starts a task for each lane that has something to do and none.
    pub(super) fn start(self: &Arc<Self>) {
        let mut state = self.lock();
        while let Some((key, held)) = state.lanes.start() {
            state.running += 1;
            let lane = Lane { lines: Arc::clone(self), key, ahead: VecDeque::new(), seat: None, has_ended: false };
            // Boxed: it is large, and would be copied at each step of its way into the runtime.
            self.tasks.spawn(Box::pin(lane.run(held)));
        }
    }

    /// Whether nothing waits and nothing runs.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().lanes.is_empty()
    }

    /// Jobs that wait or run.
    pub(super) fn unfinished(&self) -> usize {
        let state = self.lock();
        state.running + state.lanes.waiting()
    }
}

/// A lane's task.
pub(super) struct Lane {
    lines: Arc<Lines>,
    key: LaneKey,
    /// Jobs behind the one that is being processed whose calls may be with the plugin already.
    pub(super) ahead: VecDeque<Ahead>,
    /// Of the call that runs, and those behind it.
    pub(super) seat: Option<Seat>,
    has_ended: bool,
}

impl Lane {
    async fn run(mut self, first: Held) {
        let dispatcher = Arc::clone(&self.lines.dispatcher);
        let mut next = Some(first);
        while let Some(held) = next {
            dispatcher.process(held, None, &mut self).await;
            while let Some(Ahead { held, begun }) = self.ahead.pop_front() {
                self.lines.lock().running -= 1; // It takes the place of the one before it.
                dispatcher.process(held, begun, &mut self).await;
            }
            next = self.next();
        }
    }

    /// The lane's next job; without one, the lane has ended.
    fn next(&mut self) -> Option<Held> {
        let mut state = self.lines.lock();
        let next = state.lanes.go_on(&self.key);
        if next.is_none() {
            state.running -= 1;
            self.has_ended = true;
            if state.lanes.is_empty() {
                self.lines.ended.notify_one();
            }
        }
        next
    }

    /// Gives up the seat when the next call is not with the plugin yet.
    pub(super) fn rest(&mut self) {
        if self.ahead.front().is_none_or(|ahead| ahead.begun.is_none()) {
            self.seat = None;
        }
    }

    /// The job that is being processed goes on by itself, and those behind it wait for that: none of their calls begins. What one of
    /// them has done to its runner counts.
    pub(super) fn stand_alone(&mut self) {
        self.seat = None;
        for Ahead { held, begun } in &mut self.ahead {
            match begun.take().and_then(|begun| begun.answer.now_or_never()) {
                Some(Err(CallError::Crashed(_))) => held.taken.job.attempts = held.taken.job.attempts.saturating_add(1),
                Some(Err(CallError::Interrupted { is_suspect: true })) => held.interruptions.add(true),
                _ => {}
            }
        }
    }

    /// Waits for a call's end. If that takes long, the seat may have to be left to others.
    pub(super) async fn wait<T>(&mut self, call: impl Future<Output = T>) -> T {
        let mut call = std::pin::pin!(call);
        if let Some(seat) = self.seat.as_mut().filter(|seat| seat.may_be_ahead()) {
            if let Ok(end) = time::timeout(SLOW, call.as_mut()).await {
                return end;
            }
            seat.step_aside();
        }
        call.await
    }

    /// Takes the job behind all that have been taken, when it fits, to run with them.
    pub(super) fn take_along(&mut self, fits: impl FnOnce(&Held) -> bool) -> bool {
        let mut state = self.lines.lock();
        let Some(held) = state.lanes.take_if(&self.key, fits) else { return false };
        state.running += 1;
        self.ahead.push_back(Ahead { held, begun: None });
        true
    }
}

/// Normally the lane has ended by then; a task that panics leaves its jobs to another one.
impl Drop for Lane {
    fn drop(&mut self) {
        if !self.has_ended {
            let mut state = self.lines.lock();
            state.running -= 1 + self.ahead.len();
            for Ahead { held, .. } in self.ahead.drain(..).rev() {
                state.lanes.put_back(&self.key, held);
            }
            state.lanes.finish(&self.key);
            self.lines.ended.notify_one();
        }
    }
}

//! The lanes of a worker at work: one task for each lane that has something to do, which goes on until the lane is empty.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use super::dispatch::Dispatcher;
use super::take::Held;
use crate::config::Ordering;
use crate::lanes::Lanes;
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
            let lane = Lane { lines: Arc::clone(self), key, has_ended: false };
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
struct Lane {
    lines: Arc<Lines>,
    key: LaneKey,
    has_ended: bool,
}

impl Lane {
    async fn run(mut self, first: Held) {
        let mut next = Some(first);
        while let Some(held) = next {
            self.lines.dispatcher.process(held).await;
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
}

/// Normally the lane has ended by then; a task that panics leaves its jobs to another one.
impl Drop for Lane {
    fn drop(&mut self) {
        if !self.has_ended {
            let mut state = self.lines.lock();
            state.running -= 1;
            state.lanes.finish(&self.key);
            self.lines.ended.notify_one();
        }
    }
}

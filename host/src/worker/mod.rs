//! From the queue to the plugins: takes jobs, keeps lanes in order, settles what became of each.

mod dispatch;
mod gates;
mod lease;
mod replies;
mod retry;
mod take;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::dispatch::Dispatcher;
use self::gates::Gates;
use self::lease::Lease;
use self::take::{Held, take_jobs};
use crate::config::{LiveSettings, Ordering};
use crate::lanes::Lanes;
use crate::plugin::{Floor, Plugins};
use crate::queue::{Queue, QueueError};
use crate::wire::ids::{NodeId, SessionId};

/// How long tasks that were told to stop may take to notice.
const CUT_TIMEOUT: Duration = Duration::from_secs(1);

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Jobs that were not finished within `worker.drain_timeout`. They were not settled and run again elsewhere.
    pub cut: usize,
}

/// Works until `stop` fires, then finishes what it has taken, at most `worker.drain_timeout`, and leaves the queue.
///
/// `slots` and `prefetch` hold from the start; all other settings, and the plugins, are looked up anew for every job. Cancel by firing
/// `stop`, not by dropping the future: dropping abandons the jobs that were taken until the worker's lease has passed.
///
/// # Errors
/// [`QueueError`] when the queue can't serve workers for a reason that waiting does not mend.
pub async fn run(
    queue: Queue,
    plugins: Arc<dyn Plugins>,
    settings: LiveSettings,
    node: NodeId,
    stop: CancellationToken,
) -> Result<Drained, QueueError> {
    let consumer = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(Drained { cut: 0 }),
        consumer = queue.inbox.consume(&node) => consumer?,
    };
    let (slots, room, waiting, held_max) = {
        let worker = &settings.load().worker;
        (worker.slots.max(1), worker.slots.max(1).saturating_add(worker.prefetch), worker.waiting_max, worker.held_max())
    };
    let tasks = TaskTracker::new();
    let cut = CancellationToken::new();
    let (taken, jobs) = mpsc::channel(held_max);
    let (finished, done) = mpsc::channel(held_max);
    let (room, waiting) = (Arc::new(Semaphore::new(room)), Arc::new(Semaphore::new(waiting)));
    tasks.spawn(take_jobs(Arc::clone(&consumer), room, taken, stop.clone()));
    let dispatcher = Arc::new(Dispatcher {
        queue,
        plugins,
        settings: Arc::clone(&settings),
        lease: Lease::new(Arc::clone(&consumer)),
        consumer: Arc::clone(&consumer),
        slots: Semaphore::new(slots),
        waiting,
        floor: Floor::default(),
        plugin_gates: Gates::default(),
        action_gates: Gates::default(),
        cut: cut.clone(),
    });
    let lanes = Lines { lanes: Lanes::new(), jobs, finished, done, running: 0, unordered: 0 };
    let unfinished = lanes.run(&dispatcher, &tasks, &settings, &stop).await;
    cut.cancel();
    tasks.close();
    if time::timeout(CUT_TIMEOUT, tasks.wait()).await.is_err() {
        tracing::warn!("some jobs did not notice that the worker stops");
    }
    consumer.leave().await;
    Ok(Drained { cut: unfinished })
}

/// What jobs have in common that run one after another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum LaneKey {
    Connection(SessionId),
    /// A job without order has a lane to itself.
    Unordered(u64),
}

/// The lanes and what moves through them.
struct Lines {
    lanes: Lanes<LaneKey, Held>,
    jobs: mpsc::Receiver<Held>,
    finished: mpsc::Sender<LaneKey>,
    done: mpsc::Receiver<LaneKey>,
    running: usize,
    /// Counts jobs without order.
    unordered: u64,
}

impl Lines {
    /// Runs lanes until nothing is taken any more and all are empty, or the drain takes too long. Answers the jobs left over.
    async fn run(mut self, dispatcher: &Arc<Dispatcher>, tasks: &TaskTracker, settings: &LiveSettings, stop: &CancellationToken) -> usize {
        let mut is_taking = true;
        let mut deadline: Option<Instant> = None;
        while is_taking || !self.lanes.is_empty() {
            while let Some((key, held)) = self.lanes.start() {
                let finish = Finish { key, finished: self.finished.clone() };
                let dispatcher = Arc::clone(dispatcher);
                self.running += 1;
                tasks.spawn(async move {
                    let _finish = finish;
                    dispatcher.process(held).await;
                });
            }
            let overdue = async {
                match deadline {
                    Some(deadline) => time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(key) = self.done.recv() => {
                    self.running -= 1;
                    self.lanes.finish(&key);
                }
                () = stop.cancelled(), if deadline.is_none() => {
                    deadline = Some(Instant::now() + settings.load().worker.drain_timeout);
                }
                () = overdue => break,
                held = self.jobs.recv(), if is_taking => match held {
                    Some(held) => self.push(held, dispatcher),
                    None => is_taking = false,
                },
            }
        }
        let cut = self.running + self.lanes.waiting();
        if cut > 0 {
            tracing::warn!(cut, "jobs were not finished within worker.drain_timeout; they will run again elsewhere");
        }
        cut
    }

    fn push(&mut self, mut held: Held, dispatcher: &Dispatcher) {
        let job = &held.taken.job;
        let ordering = dispatcher.settings.load().plugin_action(&job.action).map(|action| action.ordering).unwrap_or_default();
        let key = match ordering {
            Ordering::Connection => LaneKey::Connection(job.session.clone()),
            Ordering::None => {
                self.unordered += 1;
                LaneKey::Unordered(self.unordered)
            }
        };
        if self.lanes.is_busy(&key) {
            held.park(&dispatcher.waiting);
        }
        self.lanes.push(key, held);
    }
}

/// Tells that a lane's job has ended, however it ended.
struct Finish {
    key: LaneKey,
    finished: mpsc::Sender<LaneKey>,
}

impl Drop for Finish {
    fn drop(&mut self) {
        // There is room for every job that can be held at once.
        let _ = self.finished.try_send(self.key.clone());
    }
}

#[cfg(test)]
mod tests;

//! From the queue to the plugins: takes jobs, keeps lanes in order, settles what became of each.

mod ahead;
mod call;
mod dispatch;
mod gates;
mod lease;
mod lines;
mod replies;
mod retry;
mod routes;
mod take;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::dispatch::Dispatcher;
use self::lease::Lease;
use self::lines::Lines;
use self::routes::{Meters, Routes};
use self::take::{Held, take_jobs};
use crate::config::LiveSettings;
use crate::plugin::{Floor, Plugins};
use crate::queue::{Queue, QueueError};
use crate::wire::ids::NodeId;

/// How long tasks that were told to stop may take to notice.
const CUT_TIMEOUT: Duration = Duration::from_secs(1);

/// Takes that may wait until their jobs are in their lanes.
const TAKES_WAITING_MAX: usize = 4;

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
    let (slots, room, waiting) = {
        let worker = &settings.load().worker;
        (worker.slots.max(1), worker.slots.max(1).saturating_add(worker.prefetch), worker.waiting_max)
    };
    let tasks = TaskTracker::new();
    let cut = CancellationToken::new();
    let (taken, jobs) = mpsc::channel(TAKES_WAITING_MAX);
    let (room, waiting) = (Arc::new(Semaphore::new(room)), Arc::new(Semaphore::new(waiting)));
    tasks.spawn(take_jobs(Arc::clone(&consumer), room, taken, stop.clone()));
    let dispatcher = Arc::new(Dispatcher {
        queue,
        plugins,
        settings: Arc::clone(&settings),
        lease: Lease::new(Arc::clone(&consumer)),
        consumer: Arc::clone(&consumer),
        slots: Arc::new(Semaphore::new(slots)),
        waiting,
        floor: Floor::default(),
        routes: Routes::default(),
        meters: Meters::new(),
        cut: cut.clone(),
    });
    let lines = Lines::new(dispatcher, tasks.clone());
    let unfinished = work(&lines, jobs, &settings, &stop).await;
    cut.cancel();
    tasks.close();
    if time::timeout(CUT_TIMEOUT, tasks.wait()).await.is_err() {
        tracing::warn!("some jobs did not notice that the worker stops");
    }
    consumer.leave().await;
    Ok(Drained { cut: unfinished })
}

/// Starts what is taken until nothing is taken any more and all lanes are empty, or the drain takes too long. Answers the jobs left over.
async fn work(lines: &Arc<Lines>, mut jobs: mpsc::Receiver<Vec<Held>>, settings: &LiveSettings, stop: &CancellationToken) -> usize {
    let mut is_taking = true;
    let mut deadline: Option<Instant> = None;
    let mut stopped = std::pin::pin!(stop.cancelled());
    while is_taking || !lines.is_empty() {
        let overdue = async {
            match deadline {
                Some(deadline) => time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            taken = jobs.recv(), if is_taking => match taken {
                Some(taken) => lines.push(taken),
                None => is_taking = false,
            },
            () = &mut stopped, if deadline.is_none() => {
                deadline = Some(Instant::now() + settings.load().worker.drain_timeout);
            }
            () = overdue => break,
            () = lines.ended.notified() => {}
        }
        lines.start();
    }
    let cut = lines.unfinished();
    if cut > 0 {
        tracing::warn!(cut, "jobs were not finished within worker.drain_timeout; they will run again elsewhere");
    }
    cut
}

#[cfg(test)]
mod tests;

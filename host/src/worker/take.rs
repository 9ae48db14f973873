//! Takes jobs off the queue, never more than there is room for.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::{task, time};
use tokio_util::sync::CancellationToken;

use crate::plugin::Interruptions;
use crate::queue::{Consumer, QueueError, Taken};

/// Most jobs of one take.
const TAKE_MAX: usize = 128;
/// Pause after the queue failed.
const FAILURE_PAUSE: Duration = Duration::from_millis(200);

/// A job that this worker holds, and the room it takes up.
pub(super) struct Held {
    pub(super) taken: Taken,
    /// It has been counted as started alone, and nothing has come of that yet.
    pub(super) is_alone: bool,
    room: OwnedSemaphorePermit,
    is_parked: bool,
    pub(super) interruptions: Interruptions,
}

impl Held {
    pub(super) fn new(taken: Taken, room: OwnedSemaphorePermit) -> Self {
        Self { taken, is_alone: false, room, is_parked: false, interruptions: Interruptions::default() }
    }

    /// It can't run yet: it takes its room among those that wait, if there is any, and leaves its own to jobs that can.
    pub(super) fn park(&mut self, waiting: &Arc<Semaphore>) {
        if !self.is_parked
            && let Ok(room) = Arc::clone(waiting).try_acquire_owned()
        {
            (self.room, self.is_parked) = (room, true);
        }
    }
}

/// Takes until `stop` fires; what the last take brings is passed on as well. Run it in a task of its own: a take must not be dropped.
pub(super) async fn take_jobs(consumer: Arc<dyn Consumer>, room: Arc<Semaphore>, taken: mpsc::Sender<Vec<Held>>, stop: CancellationToken) {
    let count = metrics::counter!("plugsocket_jobs_taken_total");
    while !stop.is_cancelled() {
        let first = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            first = Arc::clone(&room).acquire_owned() => first,
        };
        let Ok(mut permits) = first else { return };
        // The jobs that have just ended give their room free as well: one take for all of it.
        task::yield_now().await;
        let more = room.available_permits().min(TAKE_MAX - 1);
        if let Ok(more) = Arc::clone(&room).try_acquire_many_owned(u32::try_from(more).unwrap_or_default()) {
            permits.merge(more);
        }
        match consumer.take(permits.num_permits()).await {
            Ok(jobs) => {
                count.increment(jobs.len().try_into().unwrap_or(u64::MAX));
                let mut held = Vec::with_capacity(jobs.len());
                for job in jobs {
                    let Some(room) = permits.split(1) else {
                        tracing::error!(job = job.job.message_id(), "the queue gave more jobs than were asked for");
                        return;
                    };
                    held.push(Held::new(job, room));
                }
                drop(permits);
                if !held.is_empty() && taken.send(held).await.is_err() {
                    return;
                }
            }
            Err(QueueError::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, "taking jobs failed; trying again");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = time::sleep(FAILURE_PAUSE) => {}
                }
            }
        }
    }
}

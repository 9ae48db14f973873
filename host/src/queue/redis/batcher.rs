//! The way to the writer: room for writes, counted and weighed, and the answers to them.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot, watch};
use tokio::time::{self, Instant};

use super::batch::{Done, Write};
use super::connect::{CALL_TIMEOUT, Connector};
use super::writer::{Intake, Writer};
use crate::queue::QueueError;

/// What waits for the writer takes up at most about so much, whatever the number of writes.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// One write counts for no more than this, so that room for any write can be waited for.
const WRITE_BYTES_MAX: usize = WAITING_BYTES_MAX / 4;
/// A write on its way to the writer.
pub(super) struct Queued {
    pub(super) write: Write,
    /// When it was handed over.
    pub(super) born: Instant,
    /// What it takes of the budget.
    pub(super) bytes: usize,
}

/// The way to the writer; cheap to clone.
#[derive(Clone)]
pub(super) struct Batcher {
    queue: mpsc::Sender<Queued>,
    budget: Arc<Semaphore>,
    accepting: watch::Receiver<bool>,
    confirm_timeout: Duration,
}

/// Room for one write.
pub(super) struct Permit<'batcher> {
    slot: mpsc::Permit<'batcher, Queued>,
    budget: SemaphorePermit<'batcher>,
}

impl Permit<'_> {
    pub(super) fn send(self, write: Write) {
        let bytes = self.budget.num_permits();
        // The writer gives it back.
        self.budget.forget();
        self.slot.send(Queued { write, born: Instant::now(), bytes });
    }
}

fn share(bytes: usize) -> u32 {
    u32::try_from(bytes.min(WRITE_BYTES_MAX)).unwrap_or(u32::MAX)
}

impl Batcher {
    /// The handle, and the writer to be run.
    pub(super) fn new(connector: Arc<Connector>, items_max: usize, confirm_timeout: Duration) -> (Self, Writer) {
        let (sender, queue) = mpsc::channel(items_max.max(1));
        let (refuse, accepting) = watch::channel(true);
        let budget = Arc::new(Semaphore::new(WAITING_BYTES_MAX));
        let intake = Intake { queue, budget: Arc::clone(&budget), refuse, items_max: items_max.max(1) };
        let writer = Writer::new(connector, intake, confirm_timeout);
        (Self { queue: sender, budget, accepting, confirm_timeout }, writer)
    }

    /// Room for one write of about `bytes`, if there is any now.
    pub(super) fn try_reserve(&self, bytes: usize) -> Option<Permit<'_>> {
        if *self.accepting.borrow() { self.free(bytes) } else { None }
    }

    /// As [`Self::try_reserve`], also while Redis is known to be away.
    pub(super) fn free(&self, bytes: usize) -> Option<Permit<'_>> {
        let budget = self.budget.try_acquire_many(share(bytes)).ok()?;
        self.queue.try_reserve().ok().map(|slot| Permit { slot, budget })
    }

    /// Resolves when there is room for any write and Redis is not known to be away; also when the queue is closed.
    pub(super) async fn room(&self) {
        let mut accepting = self.accepting.clone();
        if accepting.wait_for(|accepting| *accepting).await.is_ok() {
            let _budget = self.budget.acquire_many(share(WRITE_BYTES_MAX)).await;
            let _ = self.queue.reserve().await;
        }
    }

    /// Room for one write of about `bytes`, waiting for it.
    pub(super) async fn reserve(&self, bytes: usize) -> Result<Permit<'_>, QueueError> {
        // Mostly there is room: then no timer is needed.
        if let Some(permit) = self.free(bytes) {
            return Ok(permit);
        }
        let both = async {
            let budget = self.budget.acquire_many(share(bytes)).await.map_err(|_| QueueError::Closed)?;
            let slot = self.queue.reserve().await.map_err(|_| QueueError::Closed)?;
            Ok(Permit { slot, budget })
        };
        let no_room = || Err(QueueError::Unreachable("no room for writes in the time allowed".to_owned()));
        time::timeout(self.confirm_timeout, both).await.unwrap_or_else(|_| no_room())
    }

    /// Hands over a write, waiting for room.
    pub(super) async fn send(&self, write: Write) -> Result<(), QueueError> {
        self.reserve(write.bytes()).await?.send(write);
        Ok(())
    }

    /// The answer to a write that was handed over.
    async fn answer(&self, answer: oneshot::Receiver<Result<Value, QueueError>>) -> Result<Value, QueueError> {
        // Waiting and confirming are bounded each; this is for what waits behind a queue that does not move at all.
        let Ok(answer) = time::timeout(self.confirm_timeout * 2 + CALL_TIMEOUT, answer).await else {
            return Err(QueueError::Unreachable("not confirmed in the time allowed".to_owned()));
        };
        answer.unwrap_or(Err(QueueError::Closed))
    }

    /// Runs one command in order with everything else, and waits for its answer.
    pub(super) async fn run(&self, command: redis::Cmd) -> Result<Value, QueueError> {
        let (sender, answer) = oneshot::channel();
        self.send(Write::Command { command, done: Done::Reply(sender) }).await?;
        self.answer(answer).await
    }

    /// Resolves when everything handed over before is stored.
    pub(super) async fn flush(&self) -> Result<(), QueueError> {
        let (sender, answer) = oneshot::channel();
        self.send(Write::Mark(Done::Reply(sender))).await?;
        self.answer(answer).await.map(drop)
    }
}

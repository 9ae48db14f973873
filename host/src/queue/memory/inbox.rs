//! Jobs in one process: partitions shared among the consumers by rank, as in Redis, with the consumer's life as its lease.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;
use tokio::time::{self, Instant};

use crate::queue::{Consumer, Full, Inbox, ListItem, OnStored, QueueError, QueueOptions, Receipt, Stored, Taken, Verdict};
use crate::wire::ids::{NodeId, StreamId};
use crate::wire::job::Job;

/// Longest wait of a `take`.
const TAKE_WAIT: Duration = Duration::from_secs(1);
/// Most bytes of data that wait in all partitions together.
const WAITING_BYTES_MAX: usize = 512 << 20;
/// Most jobs waiting for their time before plugins may schedule no more; jobs that are put back always may.
const LATER_MAX: usize = if cfg!(test) { 1_000 } else { 1_000_000 };

#[derive(Default)]
struct Partition {
    /// With how often it was in hand when a consumer went.
    waiting: VecDeque<(u64, Job, u32)>,
    running: BTreeMap<u64, (Job, u32)>,
    /// Starts of suspects that no end followed.
    alone: BTreeMap<u64, u32>,
    owner: Option<u64>,
    dead: VecDeque<(Instant, Job, String)>,
}

struct State {
    partitions: Vec<Partition>,
    /// Bytes of data waiting in the partitions.
    waiting_bytes: usize,
    later: BTreeMap<(Instant, u64), Job>,
    /// Consumers by their number, the order of joining.
    consumers: Vec<u64>,
    /// Names entries, scheduled jobs and consumers.
    next: u64,
    /// The partition that the last take ended with.
    served: usize,
}

/// The incoming half.
pub(super) struct MemoryInbox(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Something to take has come, or a share has changed.
    changed: Notify,
    partition_jobs_max: usize,
    partition_held_max: usize,
    dead_max: usize,
    dead_age_max: Duration,
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn push(&mut self, job: Job) {
        let number = self.number();
        let partition = job.session.partition(u32::try_from(self.partitions.len()).unwrap_or(u32::MAX));
        if let Some(partition) = self.partitions.get_mut(partition as usize) {
            self.waiting_bytes += job.data.as_bytes().len();
            partition.waiting.push_back((number, job, 0));
        }
    }

    /// Moves what is due; answers when the next one is.
    fn promote(&mut self) -> Option<Instant> {
        loop {
            let first = self.later.first_entry()?;
            let due = first.key().0;
            if due > Instant::now() {
                return Some(due);
            }
            let job = first.remove();
            self.push(job);
        }
    }

    fn quota(&self, consumer: u64) -> usize {
        let rank = self.consumers.iter().position(|other| *other == consumer).unwrap_or(0);
        let (count, consumers) = (self.partitions.len(), self.consumers.len().max(1));
        count / consumers + usize::from(rank < count % consumers)
    }

    /// Gives free what is over a consumer's share and idle; claims what is free up to it.
    fn share(&mut self, consumer: u64) -> bool {
        let quota = self.quota(consumer);
        let mut owned = self.partitions.iter().filter(|partition| partition.owner == Some(consumer)).count();
        let mut released = false;
        for partition in &mut self.partitions {
            if owned > quota && partition.owner == Some(consumer) && partition.running.is_empty() {
                partition.owner = None;
                released = true;
                owned -= 1;
            }
        }
        for partition in &mut self.partitions {
            if owned < quota && partition.owner.is_none() {
                partition.owner = Some(consumer);
                owned += 1;
            }
        }
        released
    }

    /// Partitions this consumer still may read: those over its share wait for their running jobs, then go.
    fn readable(&self, consumer: u64) -> Vec<usize> {
        let owned = self.partitions.iter().enumerate().filter(|(_, partition)| partition.owner == Some(consumer));
        let mut owned: Vec<(usize, bool)> = owned.map(|(index, partition)| (index, partition.running.is_empty())).collect();
        // Idle ones have been given free already, so those over the share are all running.
        owned.sort_by_key(|(_, idle)| !idle);
        owned.truncate(self.quota(consumer));
        owned.into_iter().map(|(index, _)| index).collect()
    }

    /// Begins behind the partition that the last take ended with: those that are never empty take turns.
    fn take(&mut self, consumer: u64, max: usize, held_max: usize) -> Vec<Taken> {
        let mut taken = Vec::new();
        let mut partitions = self.readable(consumer);
        partitions.sort_by_key(|index| (*index <= self.served, *index));
        for index in partitions {
            if taken.len() == max {
                break;
            }
            let Some(partition) = self.partitions.get_mut(index) else { continue };
            while taken.len() < max && partition.running.len() < held_max {
                let Some((number, job, ends)) = partition.waiting.pop_front() else { break };
                self.waiting_bytes = self.waiting_bytes.saturating_sub(job.data.as_bytes().len());
                partition.running.insert(number, (job.clone(), ends));
                let receipt = Receipt {
                    partition: u32::try_from(index).unwrap_or(u32::MAX),
                    entry: StreamId { ms: 0, sequence: number },
                    delivery: number,
                };
                let crashes = partition.alone.get(&number).copied().unwrap_or(0);
                // As in Redis: once may be anybody's end, what was in hand at two in a row is looked at one by one.
                let suspect = crashes > 0 || ends > 1;
                taken.push(Taken { job, receipt, suspect, crashes });
                self.served = index;
            }
        }
        taken
    }

    fn partition(&mut self, receipt: &Receipt) -> Option<(&mut Partition, u64)> {
        let number = receipt.entry.sequence;
        self.partitions.get_mut(receipt.partition as usize).map(|partition| (partition, number))
    }

    /// Takes a consumer out; what it had running goes back to the front, in order.
    fn remove(&mut self, consumer: u64) {
        self.consumers.retain(|other| *other != consumer);
        for partition in self.partitions.iter_mut().filter(|partition| partition.owner == Some(consumer)) {
            partition.owner = None;
            while let Some((number, (job, ends))) = partition.running.pop_last() {
                self.waiting_bytes += job.data.as_bytes().len();
                partition.waiting.push_front((number, job, ends + 1));
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settled(&self, receipt: &Receipt) {
        if let Some((partition, entry)) = self.lock().partition(receipt) {
            partition.running.remove(&entry);
            partition.alone.remove(&entry);
        }
        self.changed.notify_waiters();
    }

    fn put_later(&self, job: Job, delay: Duration) {
        let mut state = self.lock();
        let number = state.number();
        state.later.insert((Instant::now() + delay, number), job);
        drop(state);
        self.changed.notify_waiters();
    }
}

impl Shared {
    fn set_aside(&self, partition: u32, job: Job, reason: String, version: &str) {
        tracing::debug!(action = job.action, reason, version, "job set aside");
        metrics::counter!("plugsocket_jobs_dead_total").increment(1);
        let mut state = self.lock();
        let Some(partition) = state.partitions.get_mut(partition as usize) else { return };
        partition.dead.push_back((Instant::now(), job, reason));
        let is_old = |dead: &VecDeque<(Instant, Job, String)>| dead.front().is_some_and(|(since, ..)| since.elapsed() > self.dead_age_max);
        while partition.dead.len() > self.dead_max || is_old(&partition.dead) {
            partition.dead.pop_front();
        }
    }
}

impl MemoryInbox {
    pub(super) fn new(options: &QueueOptions) -> Self {
        let partitions = (0..options.partitions.max(1)).map(|_| Partition::default()).collect();
        Self(Arc::new(Shared {
            state: Mutex::new(State { partitions, waiting_bytes: 0, later: BTreeMap::new(), consumers: Vec::new(), next: 0, served: 0 }),
            changed: Notify::new(),
            partition_jobs_max: options.partition_jobs_max.max(1),
            partition_held_max: options.partition_held_max.max(1),
            dead_max: options.dead_max.max(1),
            dead_age_max: options.dead_age_max,
        }))
    }

    #[cfg(test)]
    pub(super) fn dead_letters(&self) -> Vec<(String, String)> {
        let state = self.0.lock();
        state.partitions.iter().flat_map(|partition| &partition.dead).map(|(_, job, reason)| (job.action.clone(), reason.clone())).collect()
    }
}

#[async_trait]
impl Inbox for MemoryInbox {
    fn offer(&self, job: Job, on_stored: OnStored) -> Result<(), Full> {
        let mut state = self.0.lock();
        let partition = job.session.partition(u32::try_from(state.partitions.len()).unwrap_or(u32::MAX)) as usize;
        if state.partitions.get(partition).is_some_and(|partition| partition.waiting.len() >= self.0.partition_jobs_max) {
            drop(state);
            on_stored(Stored::No("partition is full".to_owned()));
            return Ok(());
        }
        if state.waiting_bytes + job.data.as_bytes().len() > WAITING_BYTES_MAX {
            drop(state);
            on_stored(Stored::No(format!("{WAITING_BYTES_MAX} bytes are waiting already")));
            return Ok(());
        }
        state.push(job);
        drop(state);
        self.0.changed.notify_waiters();
        on_stored(Stored::Yes);
        Ok(())
    }

    fn push(&self, _item: ListItem, on_stored: OnStored) -> Result<(), Full<ListItem>> {
        // `config/check` refuses lists without Redis.
        on_stored(Stored::No("the queue in memory has no lists".to_owned()));
        Ok(())
    }

    async fn room(&self) {
        // There is always room to offer: a full partition is answered at once.
    }

    async fn consume(&self, _worker: &NodeId) -> Result<Arc<dyn Consumer>, QueueError> {
        let mut state = self.0.lock();
        let number = state.number();
        state.consumers.push(number);
        drop(state);
        self.0.changed.notify_waiters();
        Ok(Arc::new(MemoryConsumer { shared: Arc::clone(&self.0), number }))
    }

    async fn schedule(&self, job: Job, delay: Duration) -> Result<(), QueueError> {
        if self.0.lock().later.len() >= LATER_MAX {
            return Err(QueueError::Refused(format!("{LATER_MAX} jobs are scheduled already")));
        }
        self.0.put_later(job, delay);
        Ok(())
    }

    async fn set_aside(&self, job: Job, reason: &str, version: &str) -> Result<(), QueueError> {
        let partitions = u32::try_from(self.0.lock().partitions.len()).unwrap_or(u32::MAX);
        self.0.set_aside(job.session.partition(partitions), job, reason.to_owned(), version);
        Ok(())
    }
}

/// Dropped without leaving, it counts as crashed.
struct MemoryConsumer {
    shared: Arc<Shared>,
    number: u64,
}

#[async_trait]
impl Consumer for MemoryConsumer {
    async fn take(&self, max: usize) -> Result<Vec<Taken>, QueueError> {
        let until = Instant::now() + TAKE_WAIT;
        loop {
            // Asked for before the look, so that nothing that comes in between is missed.
            let mut changed = std::pin::pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            let (taken, released, due) = {
                let mut state = self.shared.lock();
                if state.consumers.contains(&self.number) {
                    let due = state.promote();
                    let released = state.share(self.number);
                    (state.take(self.number, max.max(1), self.shared.partition_held_max), released, due)
                } else {
                    (Vec::new(), false, None)
                }
            };
            if released {
                self.shared.changed.notify_waiters();
            }
            if !taken.is_empty() || Instant::now() >= until {
                return Ok(taken);
            }
            let _ = time::timeout_at(due.map_or(until, |due| due.min(until)), changed).await;
        }
    }

    fn may_start(&self, receipt: &Receipt) -> bool {
        let mut state = self.shared.lock();
        let number = self.number;
        state.partition(receipt).is_some_and(|(partition, entry)| partition.owner == Some(number) && partition.running.contains_key(&entry))
    }

    fn is_in_hand(&self, receipt: &Receipt) -> bool {
        self.may_start(receipt)
    }

    async fn start_alone(&self, receipt: &Receipt) -> Result<(), QueueError> {
        if let Some((partition, entry)) = self.shared.lock().partition(receipt) {
            *partition.alone.entry(entry).or_insert(0) += 1;
        }
        Ok(())
    }

    async fn retract_alone(&self, receipt: &Receipt) -> Result<(), QueueError> {
        if let Some((partition, entry)) = self.shared.lock().partition(receipt)
            && let Some(count) = partition.alone.get_mut(&entry)
        {
            *count = count.saturating_sub(1);
        }
        Ok(())
    }

    async fn settle(&self, receipt: Receipt, verdict: Verdict) -> Result<(), QueueError> {
        if !self.may_start(&receipt) {
            // It went back when this consumer left, and is another's now.
            return Ok(());
        }
        match verdict {
            Verdict::Done => {}
            Verdict::Later { job, delay } => self.shared.put_later(*job, delay),
            Verdict::Dead { job, reason, version } => {
                self.shared.set_aside(receipt.partition, *job, reason, &version);
            }
        }
        self.shared.settled(&receipt);
        Ok(())
    }

    fn try_done(&self, receipt: &Receipt) -> bool {
        if self.may_start(receipt) {
            self.shared.settled(receipt);
        }
        true
    }

    async fn leave(&self) {
        // Settlements are stored at once, and a job without a verdict by now will never have one here.
        self.shared.lock().remove(self.number);
        self.shared.changed.notify_waiters();
    }
}

impl Drop for MemoryConsumer {
    fn drop(&mut self) {
        self.shared.lock().remove(self.number);
        self.shared.changed.notify_waiters();
    }
}

//! A queue for tests: gives out the jobs it is given and writes down everything that happens, in order.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use plugsocket_plugin::call::{ConnectionInfo, StoreAnswer, StoreRequest};
use tokio::sync::{Notify, watch};
use tokio::time;

use crate::queue::{
    Adoption, Consumer, Entry, Full, Health, Inbox, ListItem, NodeFeed, OnStored, Outbox, Presence, Queue, QueueError, Receipt, Store,
    Taken, Verdict,
};
use crate::wire::delivery::Delivery;
use crate::wire::ids::{NodeId, SessionId, StreamId};
use crate::wire::job::Job;

/// Something that reached the queue.
#[derive(Debug)]
pub(crate) enum Event {
    Sent(Delivery),
    Settled(String, Verdict),
    Scheduled(Job, Duration),
    Alone(String, i32),
    Stored(String, StoreRequest),
    Left,
}

/// All halves of a queue in one.
#[derive(Default)]
pub(crate) struct Recorder {
    jobs: Mutex<VecDeque<Taken>>,
    /// Messages of the jobs so far, by their entries.
    entries: Mutex<Vec<String>>,
    wake: Notify,
    events: Mutex<Vec<Event>>,
    changed: Notify,
    pub(crate) is_lease_lost: AtomicBool,
    pub(crate) failure: Mutex<Option<QueueError>>,
    pub(crate) known: Mutex<Option<ConnectionInfo>>,
}

impl Recorder {
    pub(crate) fn queue() -> (Arc<Self>, Queue) {
        let recorder = Arc::new(Self::default());
        let queue = Queue {
            inbox: Arc::new(Door(Arc::clone(&recorder))),
            outbox: Arc::clone(&recorder) as _,
            presence: Arc::clone(&recorder) as _,
            store: Arc::clone(&recorder) as _,
            health: watch::channel(Health::Up).1,
        };
        (recorder, queue)
    }

    pub(crate) fn push(&self, job: Job) {
        self.enqueue(job, false, 0);
    }

    /// A job that was in flight at a crash, and `crashes` times alone at one.
    pub(crate) fn push_suspect(&self, job: Job, crashes: u32) {
        self.enqueue(job, true, crashes);
    }

    fn enqueue(&self, job: Job, suspect: bool, crashes: u32) {
        let mut entries = self.entries.lock().unwrap();
        let entry = StreamId { ms: 0, sequence: entries.len() as u64 };
        entries.push(job.message_id());
        drop(entries);
        let receipt = Receipt { partition: 0, entry, delivery: 0 };
        self.jobs.lock().unwrap().push_back(Taken { job, receipt, suspect, crashes });
        self.wake.notify_one();
    }

    /// The message of an entry.
    fn message_of(&self, receipt: &Receipt) -> String {
        self.entries.lock().unwrap()[usize::try_from(receipt.entry.sequence).unwrap()].clone()
    }

    fn record(&self, event: Event) {
        self.events.lock().unwrap().push(event);
        self.changed.notify_one();
    }

    /// What happened so far; forgets it.
    pub(crate) fn events(&self) -> Vec<Event> {
        std::mem::take(&mut self.events.lock().unwrap())
    }

    /// Waits until all jobs have been taken.
    pub(crate) async fn taken(&self) {
        let wait = async {
            while !self.jobs.lock().unwrap().is_empty() {
                time::sleep(Duration::from_millis(1)).await;
            }
        };
        time::timeout(Duration::from_secs(10), wait).await.expect("jobs are not taken");
    }

    /// Waits until that many jobs have been settled, then answers everything that happened.
    pub(crate) async fn settled(&self, count: usize) -> Vec<Event> {
        let enough = || self.events.lock().unwrap().iter().filter(|event| matches!(event, Event::Settled(..))).count() >= count;
        let wait = async {
            while !enough() {
                self.changed.notified().await;
            }
        };
        let in_time = time::timeout(Duration::from_secs(10), wait).await.is_ok();
        let events = self.events();
        assert!(in_time, "not settled in time: {events:?}");
        events
    }

    fn checked(&self) -> Result<(), QueueError> {
        self.failure.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

struct Door(Arc<Recorder>);

#[async_trait]
impl Inbox for Door {
    fn offer(&self, job: Job, on_stored: OnStored) -> Result<(), Full> {
        Err(Full { offered: job, on_stored })
    }

    fn push(&self, item: ListItem, on_stored: OnStored) -> Result<(), Full<ListItem>> {
        Err(Full { offered: item, on_stored })
    }

    async fn room(&self) {}

    async fn consume(&self, _worker: &NodeId) -> Result<Arc<dyn Consumer>, QueueError> {
        Ok(Arc::clone(&self.0) as _)
    }

    async fn schedule(&self, job: Job, delay: Duration) -> Result<(), QueueError> {
        self.0.checked()?;
        self.0.record(Event::Scheduled(job, delay));
        Ok(())
    }

    async fn set_aside(&self, _job: Job, _reason: &str, _version: &str) -> Result<(), QueueError> {
        Ok(())
    }
}

#[async_trait]
impl Consumer for Recorder {
    async fn take(&self, max: usize) -> Result<Vec<Taken>, QueueError> {
        if self.jobs.lock().unwrap().is_empty() {
            let _ = time::timeout(Duration::from_millis(50), self.wake.notified()).await;
        }
        let mut jobs = self.jobs.lock().unwrap();
        let count = jobs.len().min(max);
        Ok(jobs.drain(..count).collect())
    }

    fn may_start(&self, _receipt: &Receipt) -> bool {
        !self.is_lease_lost.load(Ordering::SeqCst)
    }

    fn is_in_hand(&self, receipt: &Receipt) -> bool {
        self.may_start(receipt)
    }

    async fn start_alone(&self, receipt: &Receipt) -> Result<(), QueueError> {
        self.checked()?;
        self.record(Event::Alone(self.message_of(receipt), 1));
        Ok(())
    }

    async fn retract_alone(&self, receipt: &Receipt) -> Result<(), QueueError> {
        self.record(Event::Alone(self.message_of(receipt), -1));
        Ok(())
    }

    async fn settle(&self, receipt: Receipt, verdict: Verdict) -> Result<(), QueueError> {
        self.record(Event::Settled(self.message_of(&receipt), verdict));
        Ok(())
    }

    fn try_done(&self, _receipt: &Receipt) -> bool {
        false
    }

    async fn leave(&self) {
        self.record(Event::Left);
    }
}

#[async_trait]
impl Outbox for Recorder {
    async fn send(&self, delivery: Delivery) -> Result<(), QueueError> {
        self.checked()?;
        self.record(Event::Sent(delivery));
        Ok(())
    }

    fn try_send(&self, _delivery: &Delivery) -> bool {
        false
    }

    async fn flush(&self) -> Result<(), QueueError> {
        Ok(())
    }
}

#[async_trait]
impl Presence for Recorder {
    async fn open(&self, _node: &NodeId) -> Result<Box<dyn NodeFeed>, QueueError> {
        Err(QueueError::Closed)
    }

    async fn enter(&self, _entry: &Entry, _previous: Option<&Entry>) -> Result<Option<SessionId>, QueueError> {
        Ok(None)
    }

    async fn adopt(&self, _cleaner: &NodeId) -> Result<Adoption, QueueError> {
        Err(QueueError::Closed)
    }

    async fn leave(&self, _entry: &Entry) -> Result<(), QueueError> {
        Ok(())
    }

    async fn lead(&self, _node: &NodeId, _time: Duration) -> Result<bool, QueueError> {
        Ok(true)
    }

    async fn connection(&self, _id: &str) -> Result<Option<ConnectionInfo>, QueueError> {
        self.checked()?;
        Ok(self.known.lock().unwrap().clone())
    }

    async fn user_connections(&self, _user: &str) -> Result<Vec<ConnectionInfo>, QueueError> {
        Ok(self.known.lock().unwrap().iter().cloned().collect())
    }

    async fn members(&self, _group: &str) -> Result<Vec<ConnectionInfo>, QueueError> {
        Ok(self.known.lock().unwrap().iter().cloned().collect())
    }

    async fn online(&self) -> Result<u64, QueueError> {
        Ok(0)
    }
}

#[async_trait]
impl Store for Recorder {
    async fn run(&self, plugin: &str, request: StoreRequest) -> Result<StoreAnswer, QueueError> {
        self.checked()?;
        self.record(Event::Stored(plugin.to_owned(), request));
        Ok(StoreAnswer::Done)
    }
}

//! A queue whose answers a test decides, and which shows what was asked of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use plugsocket_plugin::call::{ConnectionInfo, StoreAnswer, StoreRequest};
use tokio::sync::{mpsc, watch};

use crate::queue::{
    Adoption, Consumer, Entry, Estate, Full, Health, Inbox, ListItem, NodeFeed, NodeLease, OnStored, Outbox, Presence, Queue, QueueError,
    Store, Stored,
};
use crate::wire::delivery::Delivery;
use crate::wire::ids::{NodeId, SessionId};
use crate::wire::job::Job;

/// What becomes of the next jobs.
#[derive(Debug, Clone)]
pub(super) enum Mode {
    Answer(Stored),
    /// Answered when the test calls what is in `held`.
    Hold,
    Full,
}

pub(super) struct TestQueue {
    pub mode: Mutex<Mode>,
    /// What was set aside, and why.
    pub dead: Mutex<Vec<(Job, String)>>,
    pub held: Mutex<Vec<OnStored>>,
    pub entries: Mutex<BTreeMap<String, Entry>>,
    /// Who has the id of the next connection, on another node.
    pub elsewhere: Mutex<Option<SessionId>>,
    /// What the next look for dead nodes finds.
    pub estate: Mutex<Option<Arc<dyn Estate>>>,
    /// The lease of the node that was opened last.
    pub lease: Mutex<watch::Sender<NodeLease>>,
    /// The nodes that were opened.
    pub nodes: Mutex<Vec<NodeId>>,
    pub is_announcing: Mutex<bool>,
    pub may_lead: Mutex<bool>,
    pub sent: mpsc::UnboundedSender<Delivery>,
    jobs: mpsc::UnboundedSender<Job>,
    items: mpsc::UnboundedSender<ListItem>,
    feed: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Delivery>>>,
    _health: watch::Sender<Health>,
}

/// The queue, its scripted inside, the jobs offered to it, and the way into the node's feed.
pub(super) struct Opened {
    pub queue: Queue,
    pub inside: Arc<TestQueue>,
    pub jobs: mpsc::UnboundedReceiver<Job>,
    pub items: mpsc::UnboundedReceiver<ListItem>,
    pub deliveries: mpsc::UnboundedSender<Delivery>,
    pub sent: mpsc::UnboundedReceiver<Delivery>,
}

pub(super) fn open() -> Opened {
    let (jobs, taken) = mpsc::unbounded_channel();
    let (items, pushed) = mpsc::unbounded_channel();
    let (deliveries, feed) = mpsc::unbounded_channel();
    let (sent, outgoing) = mpsc::unbounded_channel();
    let (up, health) = watch::channel(Health::Up);
    let inside = Arc::new(TestQueue {
        mode: Mutex::new(Mode::Answer(Stored::Yes)),
        dead: Mutex::default(),
        held: Mutex::default(),
        entries: Mutex::default(),
        elsewhere: Mutex::default(),
        estate: Mutex::default(),
        lease: Mutex::new(watch::channel(NodeLease::Always).0),
        nodes: Mutex::default(),
        is_announcing: Mutex::new(true),
        may_lead: Mutex::new(true),
        sent,
        jobs,
        items,
        feed: Arc::new(tokio::sync::Mutex::new(feed)),
        _health: up,
    });
    let queue = Queue { inbox: inside.clone(), outbox: inside.clone(), presence: inside.clone(), store: inside.clone(), health };
    Opened { queue, inside, jobs: taken, items: pushed, deliveries, sent: outgoing }
}

#[async_trait]
impl Inbox for TestQueue {
    fn offer(&self, job: Job, on_stored: OnStored) -> Result<(), Full> {
        let mode = self.mode.lock().unwrap().clone();
        match mode {
            Mode::Answer(stored) => {
                let _ = self.jobs.send(job);
                on_stored(stored);
                Ok(())
            }
            Mode::Hold => {
                self.held.lock().unwrap().push(on_stored);
                let _ = self.jobs.send(job);
                Ok(())
            }
            Mode::Full => Err(Full { offered: job, on_stored }),
        }
    }

    fn push(&self, item: ListItem, on_stored: OnStored) -> Result<(), Full<ListItem>> {
        let mode = self.mode.lock().unwrap().clone();
        if matches!(mode, Mode::Full) {
            return Err(Full { offered: item, on_stored });
        }
        let _ = self.items.send(item);
        match mode {
            Mode::Answer(stored) => on_stored(stored),
            _ => self.held.lock().unwrap().push(on_stored),
        }
        Ok(())
    }

    async fn room(&self) {
        while matches!(*self.mode.lock().unwrap(), Mode::Full) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn consume(&self, _worker: &NodeId) -> Result<Arc<dyn Consumer>, QueueError> {
        Err(QueueError::Closed)
    }

    async fn schedule(&self, _job: Job, _delay: Duration) -> Result<(), QueueError> {
        Ok(())
    }

    async fn set_aside(&self, job: Job, reason: &str, _version: &str) -> Result<(), QueueError> {
        self.dead.lock().unwrap().push((job, reason.to_owned()));
        Ok(())
    }
}

#[async_trait]
impl Outbox for TestQueue {
    async fn send(&self, delivery: Delivery) -> Result<(), QueueError> {
        let _ = self.sent.send(delivery);
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
impl Presence for TestQueue {
    async fn open(&self, node: &NodeId) -> Result<Box<dyn NodeFeed>, QueueError> {
        self.nodes.lock().unwrap().push(node.clone());
        let (sender, lease) = watch::channel(NodeLease::Always);
        *self.lease.lock().unwrap() = sender;
        Ok(Box::new(Feed { deliveries: Arc::clone(&self.feed), lease }))
    }

    async fn enter(&self, entry: &Entry, _previous: Option<&Entry>) -> Result<Option<SessionId>, QueueError> {
        if !*self.is_announcing.lock().unwrap() {
            return Err(QueueError::Unreachable("by order of the test".to_owned()));
        }
        self.entries.lock().unwrap().insert(entry.session.to_string(), entry.clone());
        Ok(self.elsewhere.lock().unwrap().clone())
    }

    async fn leave(&self, entry: &Entry) -> Result<(), QueueError> {
        while !*self.is_announcing.lock().unwrap() {
            tokio::time::sleep(Duration::from_millis(5)).await; // as with a queue that is away
        }
        self.entries.lock().unwrap().remove(entry.session.as_str());
        Ok(())
    }

    async fn adopt(&self, _cleaner: &NodeId) -> Result<Adoption, QueueError> {
        let again = Duration::from_millis(5);
        Ok(self.estate.lock().unwrap().take().map_or(Adoption::Nothing { again }, Adoption::Node))
    }

    async fn lead(&self, _node: &NodeId, _time: Duration) -> Result<bool, QueueError> {
        Ok(*self.may_lead.lock().unwrap())
    }

    async fn connection(&self, _id: &str) -> Result<Option<ConnectionInfo>, QueueError> {
        Ok(None)
    }

    async fn user_connections(&self, _user: &str) -> Result<Vec<ConnectionInfo>, QueueError> {
        Ok(Vec::new())
    }

    async fn members(&self, _group: &str) -> Result<Vec<ConnectionInfo>, QueueError> {
        Ok(Vec::new())
    }

    async fn online(&self) -> Result<u64, QueueError> {
        Ok(0)
    }
}

struct Feed {
    deliveries: Arc<tokio::sync::Mutex<mpsc::UnboundedReceiver<Delivery>>>,
    lease: watch::Receiver<NodeLease>,
}

#[async_trait]
impl NodeFeed for Feed {
    async fn receive(&mut self) -> Option<Vec<Delivery>> {
        let mut deliveries = self.deliveries.lock().await;
        tokio::select! {
            delivery = deliveries.recv() => delivery.map(|delivery| vec![delivery]),
            _ = self.lease.wait_for(|lease| *lease == NodeLease::Lost) => None,
        }
    }

    fn lease(&self) -> watch::Receiver<NodeLease> {
        self.lease.clone()
    }

    async fn close(self: Box<Self>) {}
}

#[async_trait]
impl Store for TestQueue {
    async fn run(&self, _plugin: &str, _request: StoreRequest) -> Result<StoreAnswer, QueueError> {
        Ok(StoreAnswer::Done)
    }
}

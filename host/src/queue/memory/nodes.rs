//! Nodes in one process: who is connected where, and deliveries to them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use plugsocket_plugin::call::ConnectionInfo;
use tokio::sync::{mpsc, watch};
use tokio::time::{self, Instant};

use crate::queue::{Adoption, Entry, LOOKUP_MAX, NodeFeed, NodeLease, Outbox, Presence, QueueError, QueueOptions};
use crate::wire::delivery::{Address, Body, Delivery};
use crate::wire::ids::{NodeId, SessionId};

/// Deliveries the feed hands over at once.
const RECEIVE_MAX: usize = 256;
/// Groups that joins on their way keep open; beyond it the oldest knowledge goes.
const JOINED_MAX: usize = 65_536;
/// A node in this process dies with it, and nothing of either is left: there is never anything to adopt.
const ADOPT_AGAIN: Duration = Duration::from_secs(3600);

struct Node {
    deliveries: mpsc::Sender<Delivery>,
    roster: HashMap<SessionId, Entry>,
    users: HashMap<String, usize>,
    groups: HashMap<String, usize>,
    /// Groups with a join on its way to this node.
    joined: HashSet<String>,
}

impl Node {
    fn add(&mut self, entry: &Entry) {
        if let Some(user) = &entry.user_id {
            *self.users.entry(user.clone()).or_insert(0) += 1;
        }
        for group in &entry.groups {
            *self.groups.entry(group.clone()).or_insert(0) += 1;
            self.joined.remove(group);
        }
        self.roster.insert(entry.session.clone(), entry.clone());
    }

    fn remove(&mut self, session: &SessionId) -> Option<Entry> {
        let entry = self.roster.remove(session)?;
        if let Some(user) = &entry.user_id {
            count_down(&mut self.users, user);
        }
        for group in &entry.groups {
            count_down(&mut self.groups, group);
        }
        Some(entry)
    }
}

fn count_down(counts: &mut HashMap<String, usize>, name: &str) {
    if let Some(count) = counts.get_mut(name) {
        *count -= 1;
        if *count == 0 {
            counts.remove(name);
        }
    }
}

#[derive(Default)]
struct State {
    nodes: HashMap<NodeId, Node>,
    aliases: HashMap<String, SessionId>,
    /// Who may do what only one node may, and until when.
    leader: Option<(NodeId, Instant)>,
}

impl State {
    fn reached(&self, delivery: &Delivery) -> Vec<NodeId> {
        let mut reached = Vec::new();
        for (id, node) in &self.nodes {
            let holds = |session: &SessionId| session.node() == *id;
            let is_reached = delivery.to.iter().any(|address| match address {
                Address::Session(session) => holds(session),
                Address::Connection(connection) => match SessionId::parse(connection) {
                    Some(session) => holds(&session),
                    None => self.aliases.get(connection).is_some_and(holds),
                },
                Address::User(user) => node.users.contains_key(user),
                Address::Group(group) => node.groups.contains_key(group) || node.joined.contains(group),
                Address::All => true,
            });
            if is_reached {
                reached.push(id.clone());
            }
        }
        reached
    }

    fn drop_alias(&mut self, entry: &Entry) {
        if self.aliases.get(&entry.connection_id) == Some(&entry.session) {
            self.aliases.remove(&entry.connection_id);
        }
    }

    fn find(&self, fits: impl Fn(&Entry) -> bool) -> Vec<ConnectionInfo> {
        let entries = self.nodes.values().flat_map(|node| node.roster.values());
        entries.filter(|entry| fits(entry)).take(LOOKUP_MAX).map(info).collect()
    }
}

fn info(entry: &Entry) -> ConnectionInfo {
    ConnectionInfo {
        connection_id: entry.connection_id.clone(),
        user_id: entry.user_id.clone(),
        node: entry.session.node().to_string(),
        groups: entry.groups.clone(),
    }
}

/// The outgoing half, and who is where.
pub(super) struct Nodes {
    shared: Arc<Shared>,
    waiting_max: usize,
    confirm_timeout: Duration,
}

#[derive(Default)]
struct Shared(Mutex<State>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Nodes {
    pub(super) fn new(options: &QueueOptions) -> Self {
        Self { shared: Arc::default(), waiting_max: options.batcher_items_max.max(1), confirm_timeout: options.confirm_timeout }
    }
}

#[async_trait]
impl Outbox for Nodes {
    async fn send(&self, delivery: Delivery) -> Result<(), QueueError> {
        if delivery.to.is_empty() {
            return Err(QueueError::Invalid("delivery has no address".to_owned()));
        }
        metrics::counter!("plugsocket_deliveries_sent_total").increment(1);
        let mut senders = Vec::new();
        {
            let mut state = self.shared.lock();
            for id in state.reached(&delivery) {
                let Some(node) = state.nodes.get_mut(&id) else { continue };
                if let Body::Join(group) = &delivery.body {
                    if node.joined.len() >= JOINED_MAX {
                        node.joined.clear();
                    }
                    node.joined.insert(group.clone());
                }
                senders.push(node.deliveries.clone());
            }
        }
        for sender in senders {
            match time::timeout(self.confirm_timeout, sender.send(delivery.clone())).await {
                // A node that went meanwhile took its connections with it.
                Ok(_) => {}
                Err(_) => return Err(QueueError::Unreachable("a node takes no deliveries".to_owned())),
            }
        }
        Ok(())
    }

    fn try_send(&self, delivery: &Delivery) -> bool {
        let ([Address::Session(session)], false) = (&delivery.to[..], matches!(delivery.body, Body::Join(_))) else { return false };
        let state = self.shared.lock();
        // A node that has gone took its connections with it.
        let is_taken = state.nodes.get(session.node_str()).is_none_or(|node| node.deliveries.try_send(delivery.clone()).is_ok());
        if is_taken {
            metrics::counter!("plugsocket_deliveries_sent_total").increment(1);
        }
        is_taken
    }

    async fn flush(&self) -> Result<(), QueueError> {
        Ok(())
    }
}

#[async_trait]
impl Presence for Nodes {
    async fn open(&self, node: &NodeId) -> Result<Box<dyn NodeFeed>, QueueError> {
        let (sender, deliveries) = mpsc::channel(self.waiting_max);
        let fresh =
            Node { deliveries: sender, roster: HashMap::new(), users: HashMap::new(), groups: HashMap::new(), joined: HashSet::new() };
        self.shared.lock().nodes.insert(node.clone(), fresh);
        Ok(Box::new(MemoryFeed { shared: Arc::clone(&self.shared), node: node.clone(), deliveries }))
    }

    async fn enter(&self, entry: &Entry, previous: Option<&Entry>) -> Result<Option<SessionId>, QueueError> {
        let mut state = self.shared.lock();
        if let Some(previous) = previous.filter(|previous| previous.connection_id != entry.connection_id) {
            state.drop_alias(previous);
        }
        let Some(node) = state.nodes.get_mut(&entry.session.node()) else {
            return Err(QueueError::Invalid(format!("node {} is not open", entry.session.node())));
        };
        node.remove(&entry.session);
        node.add(entry);
        if entry.connection_id == entry.session.as_str() {
            return Ok(None);
        }
        if previous.is_some_and(|previous| previous.connection_id == entry.connection_id) {
            // A newer connection may have taken it since.
            state.aliases.entry(entry.connection_id.clone()).or_insert_with(|| entry.session.clone());
            return Ok(None);
        }
        let older = state.aliases.insert(entry.connection_id.clone(), entry.session.clone());
        Ok(older.filter(|older| *older != entry.session))
    }

    async fn leave(&self, entry: &Entry) -> Result<(), QueueError> {
        let mut state = self.shared.lock();
        if let Some(node) = state.nodes.get_mut(&entry.session.node()) {
            node.remove(&entry.session);
        }
        state.drop_alias(entry);
        Ok(())
    }

    async fn adopt(&self, _cleaner: &NodeId) -> Result<Adoption, QueueError> {
        Ok(Adoption::Nothing { again: ADOPT_AGAIN })
    }

    async fn lead(&self, node: &NodeId, time: Duration) -> Result<bool, QueueError> {
        let mut state = self.shared.lock();
        let now = Instant::now();
        let is_free = state.leader.as_ref().is_none_or(|(leader, until)| leader == node || *until <= now);
        if is_free {
            state.leader = Some((node.clone(), now + time));
        }
        Ok(is_free)
    }

    async fn connection(&self, id: &str) -> Result<Option<ConnectionInfo>, QueueError> {
        let state = self.shared.lock();
        let session = SessionId::parse(id).or_else(|| state.aliases.get(id).cloned());
        let entry = session.and_then(|session| state.nodes.get(&session.node()).and_then(|node| node.roster.get(&session)).map(info));
        Ok(entry)
    }

    async fn user_connections(&self, user: &str) -> Result<Vec<ConnectionInfo>, QueueError> {
        Ok(self.shared.lock().find(|entry| entry.user_id.as_deref() == Some(user)))
    }

    async fn members(&self, group: &str) -> Result<Vec<ConnectionInfo>, QueueError> {
        Ok(self.shared.lock().find(|entry| entry.groups.iter().any(|name| name == group)))
    }

    async fn online(&self) -> Result<u64, QueueError> {
        Ok(self.shared.lock().nodes.values().map(|node| u64::try_from(node.roster.len()).unwrap_or(u64::MAX)).sum())
    }
}

struct MemoryFeed {
    shared: Arc<Shared>,
    node: NodeId,
    deliveries: mpsc::Receiver<Delivery>,
}

#[async_trait]
impl NodeFeed for MemoryFeed {
    async fn receive(&mut self) -> Option<Vec<Delivery>> {
        let mut batch = Vec::new();
        (self.deliveries.recv_many(&mut batch, RECEIVE_MAX).await > 0).then_some(batch)
    }

    fn lease(&self) -> watch::Receiver<NodeLease> {
        // A receiver keeps its last value when the sender is gone.
        watch::channel(NodeLease::Always).1
    }

    async fn close(self: Box<Self>) {
        drop(self);
    }
}

impl Drop for MemoryFeed {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Some(node) = state.nodes.remove(&self.node) {
            for entry in node.roster.values() {
                state.drop_alias(entry);
            }
        }
    }
}

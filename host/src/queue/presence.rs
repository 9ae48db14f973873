//! The contract of presence: who is connected where, the nodes that hold them, and what is left of nodes that died.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use plugsocket_plugin::call::ConnectionInfo;
use tokio::sync::watch;
use tokio::time::Instant;

use super::QueueError;
use crate::wire::delivery::Delivery;
use crate::wire::ids::{NodeId, SessionId};

/// Most connections a lookup of a user or a group answers.
pub const LOOKUP_MAX: usize = 1_000;

/// One registered connection, as its server tells the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The session.
    pub session: SessionId,
    /// Its public id: the session id, or one the handler chose.
    pub connection_id: String,
    /// Its user.
    pub user_id: Option<String>,
    /// Its groups.
    pub groups: Vec<String>,
    /// What `disconnect` is told of it, by whoever calls it: an `IdentityWire` as JSON, the connection id filled in. Shared, never copied.
    pub identity: Bytes,
}

/// Whether a node is surely its process's own. Time passes without a word: look again before each use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeLease {
    /// Nobody else could take it.
    Always,
    /// Surely held until then; afterwards it may have passed to a cleaner, or be renewed.
    Until(Instant),
    /// A cleaner has it, for good: it calls `disconnect` for every connection that was announced.
    Lost,
}

impl NodeLease {
    /// Whether it is surely held at this moment.
    #[must_use]
    pub fn is_held(self) -> bool {
        match self {
            Self::Always => true,
            Self::Until(end) => Instant::now() < end,
            Self::Lost => false,
        }
    }
}

/// What a look for dead nodes found.
pub enum Adoption {
    /// No node to clean up after; worth looking again after this time.
    Nothing {
        /// When a lease may end next.
        again: Duration,
    },
    /// A dead node that is the caller's to clean up after.
    Node(Arc<dyn Estate>),
}

/// What a dead node has left behind: its orphans, each to be buried once its `disconnect` has been called.
#[async_trait]
pub trait Estate: Send + Sync {
    /// The dead node.
    fn node(&self) -> &NodeId;

    /// Whether it is surely still ours. After a no, call nothing for its orphans: another cleaner may be doing so.
    fn is_ours(&self) -> bool;

    /// Keeps it ours; resolves when it is not any more.
    async fn keep(&self);

    /// Some of the orphans that are not buried yet; `None` at the end of a walk through them all.
    ///
    /// # Errors
    /// [`QueueError`]
    async fn next(&self) -> Result<Option<Vec<Entry>>, QueueError>;

    /// Removes an orphan, the id it was chosen, and the routes to the dead node that it needed.
    ///
    /// # Errors
    /// [`QueueError`]: it may come again from [`Self::next`], or be removed when the queue can be reached.
    async fn bury(&self, orphan: &Entry) -> Result<(), QueueError>;

    /// Ends the node, unless orphans are left: then false.
    ///
    /// # Errors
    /// [`QueueError`]
    async fn finish(&self) -> Result<bool, QueueError>;

    /// Leaves the rest to the next cleaner, at once.
    async fn release(&self);
}

/// Who is connected where.
#[async_trait]
pub trait Presence: Send + Sync {
    /// Announces a node and opens its stream of deliveries. Waits, with backoff, until the queue is reachable.
    ///
    /// # Errors
    /// [`QueueError::Refused`] when waiting does not mend it.
    async fn open(&self, node: &NodeId) -> Result<Box<dyn NodeFeed>, QueueError>;

    /// Adds or replaces a connection; when this resolves, deliveries to its ids reach the node. `previous` is what it replaces on this session.
    /// Answers the other session that had the public id until now.
    ///
    /// # Errors
    /// [`QueueError`]: the connection is not announced.
    async fn enter(&self, entry: &Entry, previous: Option<&Entry>) -> Result<Option<SessionId>, QueueError>;

    /// Removes a connection; routes that no connection of the node needs any more follow by themselves.
    ///
    /// # Errors
    /// [`QueueError`]: not known to be removed; it is, as soon as the queue answers.
    async fn leave(&self, entry: &Entry) -> Result<(), QueueError>;

    /// Takes over one node whose lease has ended, for good. Nothing is found while `cleaner`, a node of this process, has not held its own
    /// lease for so long that the others must have renewed theirs as well: after an outage all leases have ended although the nodes live.
    ///
    /// # Errors
    /// [`QueueError`]
    async fn adopt(&self, cleaner: &NodeId) -> Result<Adoption, QueueError>;

    /// Whether the node has, for `time` from the moment it asked, what only one node of the app may do: its `on_loop`. Asked again by the one
    /// that has it, it is prolonged.
    ///
    /// # Errors
    /// [`QueueError`]: not known.
    async fn lead(&self, node: &NodeId, time: Duration) -> Result<bool, QueueError>;

    /// The connection with this public id, or session id.
    ///
    /// # Errors
    /// [`QueueError`]
    async fn connection(&self, id: &str) -> Result<Option<ConnectionInfo>, QueueError>;

    /// The connections of a user, at most [`LOOKUP_MAX`].
    ///
    /// # Errors
    /// [`QueueError`]
    async fn user_connections(&self, user: &str) -> Result<Vec<ConnectionInfo>, QueueError>;

    /// The connections in a group, at most [`LOOKUP_MAX`].
    ///
    /// # Errors
    /// [`QueueError`]
    async fn members(&self, group: &str) -> Result<Vec<ConnectionInfo>, QueueError>;

    /// How many connections all live nodes hold together, each node by what it has announced. The cost grows with the nodes, not with their
    /// connections.
    ///
    /// # Errors
    /// [`QueueError`]
    async fn online(&self) -> Result<u64, QueueError>;
}

/// A node's stream of deliveries.
#[async_trait]
pub trait NodeFeed: Send {
    /// Waits for deliveries, in order. What can't be read is counted, logged and left out. Reconnects by itself; `None` once closed, and
    /// once the node is lost.
    async fn receive(&mut self) -> Option<Vec<Delivery>>;

    /// Whether the node is surely held.
    fn lease(&self) -> watch::Receiver<NodeLease>;

    /// Withdraws the node and its routes. Connections that have not left stay, for the next cleaner to call their `disconnect`.
    async fn close(self: Box<Self>);
}

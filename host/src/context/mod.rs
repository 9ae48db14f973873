//! What a plugin may ask of the host during a call, answered from the queue: the same for the server's handler and the worker's actions.

mod sink;
#[cfg(test)]
pub(crate) mod testing;

use std::sync::Arc;

pub use self::sink::{ContextSink, NameLimits, Sender};

use plugsocket_plugin::call::ConnectionInfo;

use crate::queue::Queue;
use crate::wire::ids::SessionId;

/// Whose call it is, and what it may ask for.
pub struct ContextOptions {
    /// The queue everything goes to.
    pub queue: Queue,
    /// Namespace of its store.
    pub plugin: Arc<str>,
    /// Message the call is for; empty for `connect`, `disconnect` and `on_loop`.
    pub message_id: String,
    /// The session the call is for: where `later` schedules. `None` for `on_loop`.
    pub session: Option<SessionId>,
    /// Connections of this node; handlers only.
    pub local: Option<Arc<dyn LocalConnections>>,
    /// Longest frame to a client, in bytes.
    pub frame_bytes_max: usize,
}

/// The registered connections of this node.
pub trait LocalConnections: Send + Sync {
    /// All of them.
    fn list(&self) -> Vec<ConnectionInfo>;
}

//! What a plugin may ask of the host during a call, answered from the queue: the same for the server's handler and the worker's actions.

use std::sync::Arc;

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
}

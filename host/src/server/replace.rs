//! One connection per public id: the older session with the same id is closed with 4009, on this node or another.

use super::node::Node;
use super::session::Session;
use crate::queue::QueueError;
use crate::wire::codes::CloseCode;
use crate::wire::delivery::{Address, Body, Delivery};
use crate::wire::ids::SessionId;

/// A close request carries a reason and no code; with exactly this reason it means 4009 instead of 4000.
pub(crate) const REPLACED: &str = "replaced by a newer connection with the same id";

/// Closes an older session of this node.
pub(crate) fn close_here(older: &Session) {
    older.outlet.close(CloseCode::Replaced, REPLACED);
}

/// Closes the session that had the id until the queue gave it to a newer one; this node's own is closed by [`close_here`].
///
/// # Errors
/// [`QueueError`] when the queue can't be told.
pub(crate) async fn close_elsewhere(node: &Node, older: SessionId) -> Result<(), QueueError> {
    if older.node() == node.id {
        return Ok(());
    }
    let to = vec![Address::Session(older)];
    node.queue.outbox.send(Delivery { to, except: None, body: Body::Close(REPLACED.to_owned()), origin: None }).await
}

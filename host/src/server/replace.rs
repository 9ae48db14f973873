//! One connection per public id: the older session with the same id is closed with 4009, on this node or another; with the flat protocol it stays.
//!
//! The protocol of the older one's server decides.

use super::node::Node;
use crate::queue::QueueError;
use crate::wire::delivery::{Address, Body, Delivery};
use crate::wire::ids::SessionId;

/// A close request carries a reason and no code; with exactly this reason it means 4009 instead of 4000.
pub(crate) const REPLACED: &str = "replaced by a newer connection with the same id";

/// Closes the session that had the id until the queue gave it to a newer one; this node's own is told by [`Session::give_way`](super::session::Session::give_way).
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

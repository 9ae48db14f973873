//! One connection per public id: the older session with the same id is closed with 4009, on this node or another.

use super::node::Node;
use super::session::Session;
use crate::queue::QueueError;
use crate::wire::codes::CloseCode;
use crate::wire::delivery::{Address, Body, Delivery};

/// A close request carries a reason and no code; with exactly this reason it means 4009 instead of 4000.
pub(crate) const REPLACED: &str = "replaced by a newer connection with the same id";

/// Closes an older session of this node.
pub(crate) fn close_here(older: &Session) {
    older.outlet.close(CloseCode::Replaced, REPLACED);
}

/// Closes an older session of another node. Two registrations of one id at the same moment on two nodes may both stay open until either of them
/// ends; directed messages go to the one that was announced last.
///
/// # Errors
/// [`QueueError`] when the queue can't be asked.
pub(crate) async fn close_elsewhere(node: &Node, connection_id: &str) -> Result<(), QueueError> {
    let Some(older) = node.queue.presence.connection(connection_id).await? else { return Ok(()) };
    if older.node == node.id.as_str() {
        return Ok(());
    }
    let to = vec![Address::Connection(connection_id.to_owned())];
    node.queue.outbox.send(Delivery { to, except: None, body: Body::Close(REPLACED.to_owned()), origin: None }).await?;
    // The address is resolved when it is stored: that has to come before the id points here.
    node.queue.outbox.flush().await
}

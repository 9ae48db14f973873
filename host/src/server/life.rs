//! The server's nodes, one after another: each lives until its lease is lost, and then a fresh one takes its place.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::delivery::{self, Ended};
use super::drain;
use super::node::{Current, Node};
use crate::wire::codes::CloseCode;

const LOST: &str = "this server was taken for dead; connect again";

/// When the nodes end.
pub(crate) struct Stops {
    /// The server drains: a node that is lost from here on gets no successor.
    pub drain: CancellationToken,
    /// It has drained: the node is withdrawn.
    pub end: CancellationToken,
}

/// Announces the present node and passes its deliveries on. When it is lost, closes its sessions, which is done in `retired`, and goes on as
/// another node. Until that is announced, `current` is the lost one.
pub(crate) async fn run(current: Current, retired: TaskTracker, stops: Stops) {
    let mut node = current.load_full();
    let opening = stops.end.run_until_cancelled(delivery::open(&node)).await;
    let Some(Some(mut feed)) = opening else { return };
    while delivery::run(&node, feed, &stops.end).await == Ended::Lost {
        retire(&node, &retired);
        if stops.drain.is_cancelled() {
            return;
        }
        let fresh = match node.successor() {
            Ok(fresh) => Arc::new(fresh),
            Err(error) => return tracing::error!(%error, "the system's random source failed; no client is admitted until a restart"),
        };
        let Some(Some(opened)) = stops.drain.run_until_cancelled(delivery::open(&fresh)).await else { return };
        tracing::info!(node = %fresh.id, "clients are admitted again, as another node");
        (node, feed) = (fresh, opened);
        current.store(Arc::clone(&node));
    }
}

/// Ends a lost node's sessions. Their `disconnect` is its cleaner's; only those that were never announced are told by us.
fn retire(node: &Arc<Node>, retired: &TaskTracker) {
    let sessions = node.roster.drain();
    metrics::counter!("plugsocket_nodes_lost_total").increment(1);
    tracing::error!(
        node = %node.id,
        sessions = sessions.len(),
        "this node's lease ended before it could be renewed (the process was frozen, or could not reach Redis for longer than \
         queue_options.lease), and another server has taken over: it calls `disconnect` for this node's connections, which are closed now"
    );
    let settings = node.settings.load();
    for session in sessions {
        session.send_draining(drain::reconnect_after_ms(&settings));
        session.outlet.close(CloseCode::Draining, LOST);
    }
    let node = Arc::clone(node);
    retired.spawn(async move {
        node.alive.close();
        node.alive.wait().await;
        node.calls.finish().await;
    });
}

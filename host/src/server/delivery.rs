//! From the node's stream of deliveries to the sessions they are for.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::announce;
use super::node::Node;
use super::replace::REPLACED;
use super::session::Session;
use crate::queue::NodeFeed;
use crate::wire::codes::{CloseCode, ErrorCode};
use crate::wire::delivery::{Address, Body, Delivery, MessageName, Origin};
use crate::wire::envelope::ClientId;

/// Pause before the stream is opened again after a refusal.
const OPEN_PAUSE: Duration = Duration::from_secs(5);

/// How a node's deliveries ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// By `stop`, or with the queue.
    Stopped,
    /// The node was cleaned up after, as if it had died.
    Lost,
}

/// Passes deliveries on until `stop` fires, then withdraws the node; or until the node is lost.
///
/// Dropping the future leaves the node announced until its lease ends.
pub(crate) async fn run(node: &Arc<Node>, mut feed: Box<dyn NodeFeed>, stop: &CancellationToken) -> Ended {
    node.hold.open(feed.lease());
    node.set_receiving(true);
    while let Some(Some(deliveries)) = stop.run_until_cancelled(feed.receive()).await {
        node.counts.deliveries.increment(deliveries.len() as u64);
        for delivery in deliveries {
            pass_on(node, delivery);
        }
    }
    node.set_receiving(false);
    if !stop.is_cancelled() && node.hold.is_lost() {
        return Ended::Lost;
    }
    if !stop.is_cancelled() {
        tracing::error!("the queue ended the stream of deliveries; nothing reaches this node's clients until it is restarted");
    }
    feed.close().await;
    Ended::Stopped
}

/// Announces the node, however long that takes; `None` when the queue is closed.
pub(crate) async fn open(node: &Node) -> Option<Box<dyn NodeFeed>> {
    loop {
        match node.queue.presence.open(&node.id).await {
            Ok(feed) => return Some(feed),
            Err(crate::queue::QueueError::Closed) => return None,
            Err(error) => {
                tracing::error!(%error, "this node can't receive deliveries; trying again");
                sleep(OPEN_PAUSE).await;
            }
        }
    }
}

/// Carries out one delivery. Never waits.
pub(crate) fn pass_on(node: &Arc<Node>, delivery: Delivery) {
    let Delivery { to, except, body, origin } = delivery;
    let (one, many);
    let sessions = match (&to[..], &except) {
        // Every reply: nothing has to be gathered.
        ([Address::Session(id)], None) => {
            one = node.roster.get(id);
            one.as_slice()
        }
        _ => {
            many = node.roster.resolve(&to, except.as_deref());
            &many[..]
        }
    };
    if sessions.is_empty() {
        metrics::counter!("plugsocket_deliveries_unaddressed_total").increment(1);
        return;
    }
    match body {
        Body::Message { action, data } => {
            let frame = node.settings.load().server.protocol.message(&action, None, &data);
            if is_over_limit(node, frame.len(), &action) {
                return;
            }
            if std::str::from_utf8(&frame).is_err() {
                return;
            }
            node.counts.frames_out.increment(sessions.len() as u64);
            for session in sessions {
                session.send_text(frame.clone());
            }
        }
        Body::Reply { action, client_id, data } => {
            let id = client_id.as_ref();
            let frame = node.settings.load().server.protocol.message(&action, id, &data);
            let is_over = is_over_limit(node, frame.len(), &action);
            for session in sessions {
                answer(session, origin.as_ref(), id, |session| {
                    if is_over {
                        session.send_error(id, ErrorCode::Failed, "the reply is too large");
                    } else {
                        session.send(frame.clone());
                    }
                });
            }
        }
        Body::Failure { client_id, code, message } => {
            let id = client_id.as_ref();
            for session in sessions {
                answer(session, origin.as_ref(), id, |session| session.send_failure(id, &code, &message));
            }
        }
        Body::Join(group) => regroup(node, sessions, &group, true),
        Body::Leave(group) => regroup(node, sessions, &group, false),
        Body::Close(reason) => {
            for session in sessions {
                if reason == REPLACED {
                    session.give_way();
                } else {
                    session.outlet.close(CloseCode::Application, reason.clone());
                }
            }
        }
    }
}

fn regroup(node: &Arc<Node>, sessions: &[Arc<Session>], group: &str, joins: bool) {
    for session in sessions {
        if node.roster.regroup(&session.id, group, joins) {
            let (node, session) = (Arc::clone(node), Arc::clone(session));
            Arc::clone(&node).calls.run_beside(async move { announce::regroup(&node, &session).await });
        }
    }
}

/// Sends an answer when it is the first one to its message; answers to messages that a plugin scheduled, and those without an origin, always are.
fn answer(session: &Session, origin: Option<&Origin>, id: Option<&ClientId>, send: impl FnOnce(&Session)) {
    let sequence = origin.and_then(|origin| match &origin.message {
        MessageName::Own(sequence) => Some(*sequence),
        MessageName::Id(id) => session.sequence_of(id),
    });
    match sequence {
        None => send(session),
        Some(sequence) if session.answer(sequence, id.is_some(), send) => {}
        Some(_) => metrics::counter!("plugsocket_replies_repeated_total").increment(1),
    }
}

fn is_over_limit(node: &Node, frame_bytes: usize, action: &str) -> bool {
    let frame_bytes_max = node.settings.load().limits.frame_out_max.as_u64();
    let is_over = frame_bytes as u64 > frame_bytes_max;
    if is_over {
        metrics::counter!("plugsocket_frames_dropped_total", "reason" => "too_large").increment(1);
        tracing::warn!(action, frame_bytes, frame_bytes_max, "a frame to clients is over limits.frame_out_max; dropped");
    }
    is_over
}

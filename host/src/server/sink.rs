//! What a handler call may ask of the host: the one place where the server opens a context.

use std::sync::Arc;

use super::node::Node;
use crate::context::{ContextOptions, ContextSink, LocalConnections, Sender};
use crate::plugin::{HostSink, LiveVersion};
use crate::wire::ids::SessionId;

/// The context of one call. `message_id` is empty for calls that belong to no message; without a `sender` the queue is asked who the session is.
pub(crate) fn open(
    node: &Node,
    version: &LiveVersion,
    message_id: String,
    session: Option<SessionId>,
    sender: Option<Sender>,
) -> Arc<dyn HostSink> {
    let settings = node.settings.load();
    let frame_bytes_max = usize::try_from(settings.limits.frame_out_max.as_u64()).unwrap_or(usize::MAX);
    let local: Arc<dyn LocalConnections> = node.roster.clone();
    let options = ContextOptions {
        queue: node.queue.clone(),
        plugin: Arc::clone(&version.plugin),
        message_id,
        session,
        local: Some(local),
        frame_bytes_max,
    };
    let sink = ContextSink::new(options, (&**settings).into());
    Arc::new(match sender {
        Some(sender) => sink.with_sender(sender),
        None => sink,
    })
}

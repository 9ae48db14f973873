//! The handler's periodic turn: never twice at once, skipped while no handler is live.

use std::sync::Arc;

use bytes::Bytes;
use plugsocket_plugin::call::{Operation, Status};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::node::{Current, Node};
use super::sink;
use crate::config::LoopOn;
use crate::plugin::{Call, CallError, LiveVersion};

/// Calls `on_loop` every `server.loop_interval` until `stop` fires. Dropping the future stops it; a call that runs goes on in the plugin.
pub(crate) async fn run(current: Current, stop: CancellationToken) {
    let mut lead = Lead::default();
    loop {
        let pause = current.load().settings.load().server.loop_interval.max(std::time::Duration::from_millis(1));
        if stop.run_until_cancelled(sleep(pause)).await.is_none() {
            return;
        }
        let node = current.load_full();
        let Some(version) = node.plugins.handler() else { continue };
        let next = async {
            if lead.is_ours(&node).await {
                tokio::select! {
                    () = turn(&node, &version) => {}
                    () = lead.keep(&node) => {}
                }
            }
        };
        if stop.run_until_cancelled(next).await.is_none() {
            return;
        }
    }
}

/// This server's part in deciding which one runs the turns, with `server.loop_on = "one_node"`.
#[derive(Default)]
struct Lead {
    /// Surely ours until then.
    held: Option<Instant>,
    ask_at: Option<Instant>,
}

impl Lead {
    /// Whether this server may run a turn now. Asks the queue when it is time to.
    async fn is_ours(&mut self, node: &Node) -> bool {
        let (is_shared, lease) = {
            let settings = node.settings.load();
            (settings.server.loop_on == LoopOn::OneNode, settings.queue_options.lease)
        };
        if !is_shared {
            return true;
        }
        let now = Instant::now();
        if self.ask_at.is_none_or(|at| at <= now) {
            self.ask_at = Some(now + lease / 6);
            match node.queue.presence.lead(&node.id, lease).await {
                Ok(is_ours) => self.held = is_ours.then(|| now + lease * 9 / 10),
                // What was ours stays so for its time.
                Err(error) => tracing::debug!(%error, "not known who runs on_loop"),
            }
        }
        self.held.is_some_and(|until| Instant::now() < until)
    }

    /// Keeps the part of the one that runs the turns, during a turn; never resolves. A turn that outlasts it is not given up.
    async fn keep(&mut self, node: &Node) {
        loop {
            let pause = node.settings.load().queue_options.lease / 6;
            sleep(pause).await;
            self.is_ours(node).await;
        }
    }
}

/// One call. Where it can't be ended it is still waited for past its time, because giving up would let the next one overlap it; a new
/// version ends the waiting.
async fn turn(node: &Arc<Node>, version: &LiveVersion) {
    let call = Call::new(Operation::Loop, Bytes::new(), sink::open(node, version, String::new(), None, None));
    let time_max = node.settings.load().server.handler_timeout;
    let mut call = version.callee.call(if version.callee.ends_calls() { call.within(time_max) } else { call });
    loop {
        let limit = node.settings.load().server.handler_timeout;
        match timeout(limit, &mut call).await {
            Ok(Ok(answer)) if matches!(answer.status, Status::Done | Status::Unsupported) => return,
            Ok(Ok(answer)) => {
                let error = String::from_utf8_lossy(&answer.bytes);
                metrics::counter!("plugsocket_handler_failures_total", "operation" => "loop").increment(1);
                return tracing::warn!(version = %version.version, status = ?answer.status, %error, "on_loop failed");
            }
            // An innocent turn is skipped like any other that a crash has ended.
            Ok(Err(CallError::Interrupted { .. })) => return,
            Ok(Err(error)) => {
                metrics::counter!("plugsocket_handler_failures_total", "operation" => "loop").increment(1);
                return tracing::warn!(version = %version.version, %error, "on_loop failed");
            }
            Err(_) => {
                metrics::counter!("plugsocket_handler_failures_total", "operation" => "loop").increment(1);
                tracing::warn!(version = %version.version, ?limit, "on_loop does not return; no further turn until it does");
                if node.plugins.handler().is_none_or(|live| live.version != version.version) {
                    return;
                }
            }
        }
    }
}

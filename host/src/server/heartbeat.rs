//! One sweep per second over all sessions: registration timeouts, ends of tokens, pings, idle ends, and clients that take nothing.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::node::{Current, Node};
use super::session::Pulse;
use crate::wire::codes::CloseCode;

const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Sweeps until `stop` fires. Dropping the future stops it at once.
pub(crate) async fn run(current: Current, stop: CancellationToken) {
    let mut ticks = interval(SWEEP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        sweep(&current.load());
    }
}

fn sweep(node: &Node) {
    let settings = node.settings.load();
    for (session, pulse) in node.roster.pulses(node.now_ms(), &settings.limits) {
        match pulse {
            Pulse::Stalled => {
                // It stays in the roster until its `disconnect` is through, and counts once.
                if session.outlet.cut("you take nothing") {
                    metrics::counter!("plugsocket_slow_consumers_total", "policy" => "write_timeout").increment(1);
                }
            }
            Pulse::Unregistered => session.outlet.close(CloseCode::RegistrationTimeout, "not registered in time"),
            Pulse::Idle => session.outlet.close(CloseCode::Idle, "nothing heard from you for too long"),
            Pulse::Ping => session.outlet.ping(),
            Pulse::Expiring { in_ms } => session.send_expiring(in_ms),
            Pulse::Expired => session.outlet.close(CloseCode::Expired, "your token has expired; connect with a fresh one"),
        }
    }
    node.users.forget_idle(&settings.limits);
    for (direction, bytes) in [("in", &node.backlog.bytes_in), ("out", &node.backlog.bytes_out)] {
        metrics::counter!("plugsocket_bytes_total", "direction" => direction).absolute(bytes.load(Relaxed));
    }
    let outgoing = usize::try_from(node.backlog.waiting().bytes).unwrap_or(usize::MAX);
    let (open, registered) = node.roster.counts();
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    for (name, count) in [
        ("plugsocket_sessions", open),
        ("plugsocket_sessions_registered", registered),
        ("plugsocket_handler_calls_open", node.calls.open()),
        ("plugsocket_outgoing_bytes", outgoing),
    ] {
        metrics::gauge!(name).set(count as f64);
    }
}

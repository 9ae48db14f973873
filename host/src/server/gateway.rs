//! The door: accepts sockets within the limits, turns each into a session, and drains them all at the end.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::head::{self, Rejection};
use super::life::{self, Stops};
use super::node::{Current, Node};
use super::session::Session;
use super::socket::Socket;
use super::task::SessionTask;
use super::{cleaner, handshake, heartbeat, ticker};
use crate::wire::codes::CloseCode;
use crate::wire::ids::SessionId;

/// Pause after a failed accept: most often the process is out of file descriptors, and trying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Most refused sockets that are answered at once; further ones are closed without a word.
const REFUSALS_MAX: usize = 256;

/// A flood of refusals is told once in this time.
const WARNING_PAUSE_MS: u64 = 10_000;

const FULL: Rejection = Rejection {
    status: "503 Service Unavailable",
    headers: "Retry-After: 5\r\n",
    body: "this server holds as many connections as it may (limits.connections_max)",
};
const FULL_FOR_IP: Rejection = Rejection {
    status: "429 Too Many Requests",
    headers: "Retry-After: 5\r\n",
    body: "too many connections from your address (limits.connections_per_ip_max)",
};

const LOST: Rejection = Rejection {
    status: "503 Service Unavailable",
    headers: "Retry-After: 1\r\n",
    body: "this server was taken for dead and is coming back as another node; try again",
};

/// How draining ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Sessions that were still open at the deadline.
    pub cut: usize,
    /// Handler calls (`disconnect` among them) that had not ended at the deadline.
    pub calls_cut: usize,
}

/// Accepts until `stop` fires, then waits at most `server.drain_timeout` for sessions and their `disconnect` calls.
pub(super) async fn run(listener: TcpListener, current: Current, stop: CancellationToken) -> Drained {
    let (sessions, parts, parts_stop) = (TaskTracker::new(), TaskTracker::new(), CancellationToken::new());
    let retired = TaskTracker::new();
    let stops = Stops { drain: stop.child_token(), end: parts_stop.clone() };
    parts.spawn(life::run(Arc::clone(&current), retired.clone(), stops));
    parts.spawn(heartbeat::run(Arc::clone(&current), parts_stop.clone()));
    parts.spawn(ticker::run(Arc::clone(&current), stop.child_token()));
    parts.spawn(cleaner::run(Arc::clone(&current), stop.child_token()));
    let gate = Gate {
        current: Arc::clone(&current),
        seats: Arc::default(),
        sessions: sessions.clone(),
        refusals: TaskTracker::new(),
        stop: stop.clone(),
        warned_ms: AtomicU64::new(0),
    };
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((socket, peer)) => gate.admit(socket, peer),
                Err(error) => {
                    metrics::counter!("plugsocket_accept_failures_total").increment(1);
                    tracing::warn!(%error, "accept failed");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener); // from here on the kernel refuses newcomers
    let node = current.load_full();
    let deadline = Instant::now() + node.settings.load().server.drain_timeout;
    for session in node.roster.drain() {
        session.outlet.close(CloseCode::Draining, "this server is going away; connect again");
    }
    sessions.close();
    retired.close();
    node.alive.close();
    // Only when every session has queued its `disconnect` can the calls come to an end; sockets that are slow to close come last.
    let _ = timeout_at(deadline, node.alive.wait()).await;
    let _ = timeout_at(deadline, node.calls.finish()).await;
    let _ = timeout_at(deadline, retired.wait()).await;
    // What is not called by now is left to others, who find it in the queue; both must not do it.
    let drained = Drained { cut: node.alive.len(), calls_cut: node.calls.cut() };
    let _ = timeout_at(deadline, sessions.wait()).await;
    parts_stop.cancel();
    parts.close();
    // Withdrawing the node is one short exchange with the queue; it gets a moment even when the deadline has passed.
    let _ = timeout_at(deadline.max(Instant::now() + Duration::from_secs(1)), parts.wait()).await;
    drained
}

struct Gate {
    current: Current,
    seats: Arc<Seats>,
    sessions: TaskTracker,
    refusals: TaskTracker,
    stop: CancellationToken,
    warned_ms: AtomicU64,
}

impl Gate {
    fn admit(&self, socket: TcpStream, peer: SocketAddr) {
        metrics::counter!("plugsocket_connections_accepted_total").increment(1);
        let node = self.current.load_full();
        let settings = node.settings.load_full();
        let (limits, ip) = (&settings.limits, peer.ip().to_canonical());
        if node.hold.is_lost() {
            return self.refuse(socket, ip, &LOST);
        }
        match self.seats.take(ip, limits.connections_max, limits.connections_per_ip_max) {
            Ok(seat) => {
                // Frames are batched before they are written; waiting for more would only delay them.
                let _ = socket.set_nodelay(true);
                let alive = node.alive.token();
                self.sessions.spawn(serve(node, socket, seat, self.stop.clone(), alive));
            }
            Err(rejection) => self.refuse(socket, ip, rejection),
        }
    }

    fn refuse(&self, mut socket: TcpStream, ip: IpAddr, rejection: &'static Rejection) {
        let (now_ms, warned_ms) = (self.current.load().now_ms(), self.warned_ms.load(Relaxed));
        if now_ms.saturating_sub(warned_ms) >= WARNING_PAUSE_MS || warned_ms == 0 {
            self.warned_ms.store(now_ms.max(1), Relaxed);
            let by_ip = "behind a proxy all clients have its address: raise limits.connections_per_ip_max there";
            let hint = if *rejection == FULL_FOR_IP { by_ip } else { "" };
            tracing::warn!(%ip, reason = rejection.body, hint, "connections are refused");
        }
        if self.refusals.len() < REFUSALS_MAX {
            self.refusals.spawn(async move { handshake::refuse(&mut socket, rejection).await });
        }
    }
}

/// Handshake and session of one socket.
async fn serve(node: Arc<Node>, mut socket: TcpStream, seat: Seat, stop: CancellationToken, alive: TaskTrackerToken) {
    let settings = node.settings.load_full();
    let upgrading = Box::pin(stop.run_until_cancelled(handshake::upgrade(&mut socket, &settings.limits))).await;
    let Some(upgraded) = upgrading else { return Box::pin(handshake::refuse(&mut socket, &head::DRAINING)).await };
    let Some(upgraded) = upgraded else { return };
    let id = match SessionId::random(&node.id) {
        Ok(id) => id,
        Err(error) => return tracing::error!(%error, "the system's random source failed; connection dropped"),
    };
    let frame_bytes_max = usize::try_from(settings.limits.frame_in_max.as_u64()).unwrap_or(usize::MAX);
    drop(settings);
    let socket = Socket::open(socket, upgraded.rest, frame_bytes_max).await;
    let session = Arc::new(Session::new(id, seat.ip, Arc::clone(&node.settings), node.now_ms()));
    if !node.roster.admit(Arc::clone(&session)) {
        session.outlet.close(CloseCode::Draining, "this server is going away; connect again");
    }
    SessionTask::new(node, session, upgraded.head, alive).run(socket).await;
}

/// Who sits where, for the limits.
#[derive(Default)]
struct Seats {
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_ip: HashMap<IpAddr, usize>,
}

impl Seats {
    fn take(self: &Arc<Self>, ip: IpAddr, max: usize, per_ip_max: usize) -> Result<Seat, &'static Rejection> {
        let key = network(ip);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.all >= max {
            return Err(&FULL);
        }
        let here = taken.by_ip.entry(key).or_default();
        if *here >= per_ip_max {
            return Err(&FULL_FOR_IP);
        }
        *here += 1;
        taken.all += 1;
        Ok(Seat { seats: Arc::clone(self), ip, key })
    }
}

/// One connection's place within the limits; dropping it gives it back.
struct Seat {
    seats: Arc<Seats>,
    ip: IpAddr,
    key: IpAddr,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.seats.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.all -= 1;
        if let Some(here) = taken.by_ip.get_mut(&self.key) {
            *here -= 1;
            if *here == 0 {
                taken.by_ip.remove(&self.key);
            }
        }
    }
}

/// What counts as one address: all of IPv4, the /64 of IPv6, which one client has to itself.
fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from(u128::from(ip) & (u128::MAX << 64))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_are_limited_in_all_and_per_network() {
        let seats = Arc::new(Seats::default());
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let first = seats.take(ip("2001:db8::1"), 3, 1).unwrap();
        assert_eq!(seats.take(ip("2001:db8::2"), 3, 1).err(), Some(&FULL_FOR_IP), "the same /64");
        let _second = seats.take(ip("10.0.0.1"), 3, 1).unwrap();
        let _third = seats.take(ip("10.0.0.2"), 3, 1).unwrap();
        assert_eq!(seats.take(ip("10.0.0.3"), 3, 1).err(), Some(&FULL));
        drop(first);
        assert!(seats.take(ip("2001:db8::2"), 3, 1).is_ok());
    }

    #[test]
    fn an_idle_socket_has_a_small_task() {
        fn future_bytes<A, B, C, D, E, F>(_: impl Fn(A, B, C, D, E) -> F) -> usize {
            size_of::<F>()
        }
        assert!(future_bytes(serve) <= 1536, "{} bytes, for every connection", future_bytes(serve));
    }
}

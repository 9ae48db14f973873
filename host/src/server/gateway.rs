//! The door: accepts sockets within the limits, turns each into a session, and drains them all at the end.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::handshake::Unanswered;
use super::head::{self, Rejection};
use super::life::{self, Stops};
use super::node::{Current, Node};
use super::seats::{FULL_FOR_IP, Seat, Seats};
use super::socket::Socket;
use super::stream::Stream;
use super::task::SessionTask;
use super::{cleaner, handshake, heartbeat, ticker, upgrade};
use crate::wire::codes::CloseCode;
use crate::wire::ids::SessionId;

/// Pause after a failed accept: most often the process is out of file descriptors, and trying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Most refused sockets that are answered at once; further ones are closed without a word.
const REFUSALS_MAX: usize = 256;

const LOST: Rejection = Rejection::with_headers(
    "lost",
    "503 Service Unavailable",
    "Retry-After: 1\r\n",
    "this server was taken for dead and is coming back as another node; try again",
);

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
    if let Some(tokens) = current.load().tokens.clone() {
        parts.spawn(tokens.follow(stop.child_token()));
    }
    let gate = Gate {
        current: Arc::clone(&current),
        seats: Arc::default(),
        sessions: sessions.clone(),
        refusals: TaskTracker::new(),
        stop: stop.clone(),
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
}

impl Gate {
    fn admit(&self, socket: TcpStream, peer: SocketAddr) {
        metrics::counter!("plugsocket_connections_accepted_total").increment(1);
        let node = self.current.load_full();
        let settings = node.settings.load_full();
        let (limits, ip) = (&settings.limits, peer.ip().to_canonical());
        if node.hold.is_lost() {
            return self.refuse(socket, ip, LOST);
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

    fn refuse(&self, socket: TcpStream, ip: IpAddr, rejection: Rejection) {
        let hint = if rejection.cause == FULL_FOR_IP.cause { "; behind a proxy name it in server.trusted_proxies" } else { "" };
        self.current.load().refusals.note(rejection.cause, ip, &format!("{}{hint}", rejection.body));
        if self.refusals.len() < REFUSALS_MAX {
            self.refusals.spawn(async move { handshake::refuse(&mut Stream::Plain(socket), &rejection).await });
        }
    }
}

/// Handshake and session of one socket.
async fn serve(node: Arc<Node>, socket: TcpStream, seat: Seat, stop: CancellationToken, alive: TaskTrackerToken) {
    // Boxed: what only the handshake needs would be kept for as long as the session lives.
    let Some((task, socket)) = Box::pin(open(node, Stream::Plain(socket), seat.ip, stop, alive)).await else { return };
    task.run(socket).await;
}

/// From a connection to a session; `None` when it was refused, and told so, or its client has left.
async fn open(
    node: Arc<Node>,
    mut stream: Stream,
    ip: IpAddr,
    stop: CancellationToken,
    alive: TaskTrackerToken,
) -> Option<(SessionTask, Socket)> {
    let settings = node.settings.load_full();
    let reading = stop.run_until_cancelled(handshake::read(&mut stream, &settings)).await;
    let mut request = match reading.unwrap_or(Err(Unanswered::Refused(head::DRAINING))) {
        Ok(request) => request,
        Err(Unanswered::Refused(rejection)) => {
            node.refusals.note(rejection.cause, ip, &rejection.body);
            handshake::refuse(&mut stream, &rejection).await;
            return None;
        }
        Err(Unanswered::Gone) => return None,
    };
    let id = SessionId::random(&node.id);
    let id = id.inspect_err(|error| tracing::error!(%error, "the system's random source failed; connection dropped")).ok()?;
    let admitted = match upgrade::admit(&node, &mut request, (id, ip), &stop).await {
        Ok(admitted) => admitted,
        Err(rejection) => {
            node.refusals.note(rejection.cause, ip, &rejection.body);
            handshake::refuse(&mut stream, &rejection).await;
            return None;
        }
    };
    if handshake::accept(&mut stream, &request, settings.limits.handshake_timeout).await.is_err() {
        admitted.leave(&node, CloseCode::Normal);
        return None;
    }
    let frame_bytes_max = usize::try_from(settings.limits.frame_in_max.as_u64()).unwrap_or(usize::MAX);
    let socket = Socket::open(stream, request.rest, frame_bytes_max).await;
    if admitted.registration.is_none() && !node.roster.admit(Arc::clone(&admitted.session)) {
        admitted.session.outlet.close(CloseCode::Draining, "this server is going away; connect again");
    }
    Some((SessionTask::new(node, admitted, request.head, alive), socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_socket_has_a_small_task() {
        fn future_bytes<A, B, C, D, E, F>(_: impl Fn(A, B, C, D, E) -> F) -> usize {
            size_of::<F>()
        }
        assert!(future_bytes(serve) <= 1536, "{} bytes, for every connection", future_bytes(serve));
    }
}

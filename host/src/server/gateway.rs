//! The door: accepts sockets within the limits, turns each into a session, and drains them all at the end.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{SendFlags, send};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::admission::Admission;
use super::handshake::Unanswered;
use super::head::{self, Head, NOT_TLS, Rejection};
use super::life::{self, Stops};
use super::node::{Current, Node};
use super::proxies::{self, Origin};
use super::seats::{FULL_FOR_IP, Seat, Seats};
use super::socket::Socket;
use super::stream::Stream;
use super::task::SessionTask;
use super::tls::{Insecure, TURNED_AWAY, Tls};
use super::{cleaner, drain, handshake, heartbeat, ticker, upgrade};
use crate::config::Settings;
use crate::wire::codes::CloseCode;
use crate::wire::ids::SessionId;

/// Pause after a failed accept: most often the process is out of file descriptors, and trying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Most refused sockets that are kept for a moment so that their clients can read the answer; further ones are closed behind it.
const REFUSALS_MAX: usize = 256;

/// How draining ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Sessions that were still open at the deadline.
    pub cut: usize,
    /// Handler calls (`disconnect` among them) that had not ended at the deadline.
    pub calls_cut: usize,
}

/// Accepts until `stop` fires, then waits at most `server.drain_timeout` for sessions and their `disconnect` calls.
pub(super) async fn run(listener: TcpListener, current: Current, tls: Option<Arc<Tls>>, stop: CancellationToken) -> Drained {
    let (sessions, parts, parts_stop) = (TaskTracker::new(), TaskTracker::new(), CancellationToken::new());
    let retired = TaskTracker::new();
    let stops = Stops { drain: stop.child_token(), end: parts_stop.clone() };
    parts.spawn(life::run(Arc::clone(&current), retired.clone(), stops));
    parts.spawn(heartbeat::run(Arc::clone(&current), parts_stop.clone()));
    parts.spawn(ticker::run(Arc::clone(&current), stop.child_token()));
    parts.spawn(cleaner::run(Arc::clone(&current), stop.child_token()));
    if let Some(tls) = &tls {
        parts.spawn(Arc::clone(tls).follow(parts_stop.clone()));
    }
    if let Some(tokens) = current.load().tokens.clone() {
        parts.spawn(tokens.follow(stop.child_token()));
    }
    let gate = Gate {
        current: Arc::clone(&current),
        tls,
        admission: Admission::default(),
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
    sessions.close();
    retired.close();
    node.alive.close();
    drain::dismiss_all(&node, deadline).await;
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
    tls: Option<Arc<Tls>>,
    admission: Admission,
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
        let (limits, ip) = (&settings.limits, proxies::ip_of(peer));
        if node.hold.is_lost() {
            return self.refuse(socket, ip, &head::LOST);
        }
        let seat = if proxies::is_trusted(ip, &settings.server.trusted_proxies) {
            self.seats.take_for_proxy(ip, limits.connections_max)
        } else {
            self.seats.take(ip, limits.connections_max, limits.connections_per_ip_max)
        };
        // The rate comes last: whoever has no place does not use it up for others.
        match seat.and_then(|seat| self.admission.check(limits).map(|()| seat)) {
            Ok(seat) => {
                if let Some(connections) = self.seats.crowd(ip) {
                    tracing::warn!(%ip, connections, "one address holds most connections: if it is a proxy, name it in server.trusted_proxies");
                }
                // Frames are batched before they are written; waiting for more would only delay them.
                let _ = socket.set_nodelay(true);
                let (alive, stop) = (node.alive.token(), self.stop.clone());
                let arrival = Arrival { socket, tls: self.tls.clone(), at: Instant::now(), node, alive, stop };
                self.sessions.spawn(serve(Box::new(arrival), seat));
            }
            Err(rejection) => self.refuse(socket, ip, &rejection),
        }
    }

    /// Says so at once, without reading what the client wants: to a client that wants TLS by an alert.
    fn refuse(&self, socket: TcpStream, ip: IpAddr, rejection: &Rejection) {
        let hint = if rejection.cause == FULL_FOR_IP.cause { "; behind a proxy name it in server.trusted_proxies" } else { "" };
        self.current.load().refusals.note(rejection.cause, ip, &format!("{}{hint}", rejection.body));
        let response = rejection.response();
        let words = if self.tls.is_some() { &TURNED_AWAY[..] } else { response.as_bytes() };
        // Not by tokio, which writes only once it has been told that the socket takes something.
        let is_told = send(&socket, words, SendFlags::empty()).is_ok();
        if is_told && self.refusals.len() < REFUSALS_MAX {
            self.refusals.spawn(async move { handshake::let_read(&mut Stream::Plain(socket)).await });
        }
    }
}

/// A socket that may come in.
struct Arrival {
    socket: TcpStream,
    tls: Option<Arc<Tls>>,
    at: Instant,
    node: Arc<Node>,
    alive: TaskTrackerToken,
    stop: CancellationToken,
}

/// Handshake and session of one socket.
async fn serve(arrival: Box<Arrival>, mut seat: Seat) {
    // Boxed: what only the handshake needs would be kept for as long as the session lives.
    let Some((task, socket)) = Box::pin(open(arrival, &mut seat)).await else { return };
    task.run(socket).await;
}

/// From a connection to a session; `None` when it was refused, and told so, or its client has left.
async fn open(arrival: Box<Arrival>, seat: &mut Seat) -> Option<(Box<SessionTask>, Box<Socket>)> {
    let Arrival { socket, tls, at, node, alive, stop } = *arrival;
    let settings = node.settings.load_full();
    let deadline = at + settings.limits.handshake_timeout;
    let mut stream = stop.run_until_cancelled(secure(&node, (socket, tls), seat.ip, deadline)).await??;
    let reading = stop.run_until_cancelled(handshake::read(&mut stream, &settings, deadline)).await;
    let reading = reading.unwrap_or(Err(Unanswered::Refused(head::DRAINING)));
    let placed = reading.and_then(|request| {
        let settled = settle(seat, &request.head, &settings).map_err(Unanswered::Refused);
        settled.map(|()| request)
    });
    let ip = seat.ip;
    let mut request = match placed {
        Ok(request) => request,
        Err(Unanswered::Refused(rejection)) => {
            turn_away(&node, &mut stream, ip, &rejection).await;
            return None;
        }
        Err(Unanswered::Gone) => return None,
    };
    let id = SessionId::random(&node.id);
    let id = id.inspect_err(|error| tracing::error!(%error, "the system's random source failed; connection dropped")).ok()?;
    let admitted = match Box::pin(upgrade::admit(&node, &mut request, (id, ip), &stop)).await {
        Ok(admitted) => admitted,
        Err(rejection) => {
            turn_away(&node, &mut stream, ip, &rejection).await;
            return None;
        }
    };
    if handshake::accept(&mut stream, &request, settings.limits.handshake_timeout).await.is_err() {
        admitted.leave(&node, CloseCode::Normal);
        return None;
    }
    metrics::histogram!("plugsocket_handshake_seconds").record(at.elapsed().as_secs_f64());
    let frame_bytes_max = usize::try_from(settings.limits.frame_in_max.as_u64()).unwrap_or(usize::MAX);
    let socket = Socket::open(stream, request.rest, frame_bytes_max, (Arc::clone(&node.backlog), node.now_ms()));
    if admitted.registration.is_none() && !node.roster.admit(Arc::clone(&admitted.session)) {
        drain::dismiss(&admitted.session, &settings);
    }
    Some((Box::new(SessionTask::new(node, admitted, request.head, alive)), Box::new(socket)))
}

/// Tells operator and client why there is no session.
async fn turn_away(node: &Node, stream: &mut Stream, ip: IpAddr, rejection: &Rejection) {
    node.refusals.note(rejection.cause, ip, &rejection.body);
    Box::pin(handshake::refuse(stream, rejection)).await;
}

/// TLS, where it is spoken; `None` when there is none with this client, who has been told then.
async fn secure(node: &Node, (socket, tls): (TcpStream, Option<Arc<Tls>>), ip: IpAddr, deadline: Instant) -> Option<Stream> {
    let Some(tls) = tls else { return Some(Stream::Plain(socket)) };
    match Box::pin(tls.accept(socket, deadline)).await {
        Ok(stream) => return Some(stream),
        Err(Insecure::Plain(socket)) => turn_away(node, &mut Stream::Plain(socket), ip, &NOT_TLS).await,
        Err(Insecure::Failed(why)) => node.refusals.note("tls", ip, &format!("no TLS with this client: {why}")),
        Err(Insecure::TimedOut) => node.refusals.note("timeout", ip, "the TLS handshake did not come to its end in time"),
        Err(Insecure::Gone) => {}
    }
    None
}

/// Behind a trusted proxy: finds the client's address, and lets it take its place.
fn settle(seat: &mut Seat, head: &Head, settings: &Settings) -> Result<(), Rejection> {
    let trusted = &settings.server.trusted_proxies;
    if trusted.is_empty() || !proxies::is_trusted(seat.ip, trusted) {
        return Ok(());
    }
    match proxies::origin(head, seat.ip, trusted)? {
        Origin::Client(ip) => seat.move_to(ip, settings.limits.connections_per_ip_max),
        // Clients that can't be told apart share no limit of their own: one of them would use up the place of all.
        Origin::Hidden(ip) => {
            seat.ip = ip;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_socket_has_a_small_task() {
        fn future_bytes<A, B, F>(_: impl Fn(A, B) -> F) -> usize {
            size_of::<F>()
        }
        let session = future_bytes(SessionTask::run) + size_of::<SessionTask>() + size_of::<Socket>();
        assert!(session <= 640, "{session} bytes, for every session");
        assert!(future_bytes(serve) <= 256, "{} bytes, for every connection", future_bytes(serve));
        assert!(future_bytes(open) <= 2048, "{} bytes, for every one whose request does not come", future_bytes(open));
    }
}

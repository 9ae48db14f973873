//! An echo for testing how the server speaks WebSocket: its own handshake and socket, and neither queue nor plugins behind them.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::backlog::Backlog;
use super::framing::opcode;
use super::handshake::{self, Unanswered};
use super::session::Session;
use super::socket::{Event, Socket};
use super::stream::Stream;
use super::{ServerError, listen};
use crate::config::LiveSettings;
use crate::wire::codes::CloseCode;
use crate::wire::ids::{NodeId, SessionId};

/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long the open sockets may take to close at the end; each has its own bound for the closing handshake.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// Sends every message back as it came, text and binary, until it is told to stop.
pub struct Echo {
    listener: TcpListener,
    address: SocketAddr,
    settings: LiveSettings,
}

impl Echo {
    /// Binds `server.listen`, port 0 included.
    ///
    /// # Errors
    /// [`ServerError`]
    pub async fn bind(settings: LiveSettings) -> Result<Self, ServerError> {
        let listener = listen(&settings).await?;
        let address = listener.local_addr().map_err(ServerError::Passed)?;
        Ok(Self { listener, address, settings })
    }

    /// The address that was bound.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until `stop` fires, at most `limits.connections_max` at once, then closes every socket with 4104.
    ///
    /// Cancel by firing `stop`, not by dropping the future: dropping leaves sockets open.
    pub async fn run(self, stop: CancellationToken) {
        let sockets = TaskTracker::new();
        let started = Instant::now();
        while let Some(accepted) = stop.run_until_cancelled(self.listener.accept()).await {
            match accepted {
                Ok((socket, peer)) if sockets.len() < self.settings.load().limits.connections_max => {
                    let _ = socket.set_nodelay(true);
                    sockets.spawn(serve(socket, peer, Arc::clone(&self.settings), stop.clone(), started));
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        sockets.close();
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, sockets.wait()).await;
    }
}

async fn serve(socket: TcpStream, peer: SocketAddr, settings: LiveSettings, stop: CancellationToken, started: Instant) {
    let mut stream = Stream::Plain(socket);
    let (now, backlog) = (settings.load_full(), Arc::<Backlog>::default());
    let deadline = tokio::time::Instant::now() + now.limits.handshake_timeout;
    let request = match stop.run_until_cancelled(handshake::read(&mut stream, &now, deadline)).await {
        Some(Ok(request)) => request,
        Some(Err(Unanswered::Refused(rejection))) => return handshake::refuse(&mut stream, &rejection).await,
        Some(Err(Unanswered::Gone)) | None => return,
    };
    if handshake::accept(&mut stream, &request, now.limits.handshake_timeout).await.is_err() {
        return;
    }
    let Ok(id) = NodeId::random().and_then(|node| SessionId::random(&node)) else { return };
    let now_ms = || u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let session = Session::new((id, peer.ip().to_canonical()), settings, (Arc::clone(&backlog), <_>::default()), now_ms());
    let frame_bytes_max = usize::try_from(now.limits.frame_in_max.as_u64()).unwrap_or(usize::MAX);
    let mut socket = Socket::open(stream, request.rest, frame_bytes_max, (backlog, now_ms()));
    let ending = loop {
        let turn = stop.run_until_cancelled(poll_fn(|context| socket.poll_event(context, &session, now_ms, true))).await;
        let (opcode, message) = match turn {
            Some(Event::Text) => match socket.text() {
                Ok(text) => (opcode::TEXT, Bytes::copy_from_slice(text.as_bytes())),
                Err(ending) => break ending,
            },
            Some(Event::Binary) => (opcode::BINARY, Bytes::copy_from_slice(socket.bytes())),
            Some(Event::Ended(ending)) => break ending,
            None => {
                session.outlet.close(CloseCode::Draining, "this server is going away");
                match session.outlet.closing() {
                    Some(closing) => break closing.into(),
                    None => return,
                }
            }
        };
        match stop.run_until_cancelled(socket.send(opcode, message)).await {
            Some(Ok(())) | None => {}
            Some(Err(ending)) => break ending,
        }
    };
    session.outlet.end();
    socket.close(ending, None).await;
}

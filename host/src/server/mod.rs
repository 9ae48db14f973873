//! Sockets and sessions: the only room naming `tungstenite`.
//!
//! The way of a message: `gateway` accepts, `handshake` upgrades, `task` reads, `route` decides, the queue or `handler_calls` takes it.
//! The way back: `delivery` receives, `roster` finds the sessions, `outlet` holds the frames, `socket` writes them.

mod admission;
mod announce;
mod backlog;
mod cleaner;
mod counts;
mod delivery;
mod drain;
mod echo;
mod expiry;
mod follow;
mod framing;
mod gateway;
mod handler_calls;
mod handler_work;
mod handshake;
mod head;
mod heartbeat;
mod hold;
mod holders;
mod id_hash;
mod identify;
mod intake;
mod ledger;
mod life;
mod node;
mod outflow;
mod outlet;
mod proxies;
mod rate;
mod refusals;
mod registration;
mod replace;
mod roster;
mod route;
mod seats;
mod session;
mod sink;
mod socket;
mod spare;
mod stream;
mod task;
#[cfg(test)]
mod tests;
mod ticker;
mod tls;
mod token;
mod upgrade;
mod users;

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use self::echo::Echo;
pub use self::gateway::Drained;
use self::node::{Current, Node};
pub use self::tls::{CertificateError, check_certificate};
use self::token::Tokens;
pub use self::token::{KeyError, check_token_keys};
use crate::config::LiveSettings;
use crate::plugin::Plugins;
use crate::queue::Queue;
use crate::wire::ids::NodeId;

/// Why the server can't start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// A socket that was passed to the process can't be used.
    #[error("the socket for clients that was passed to this process can't be used")]
    Passed(#[source] std::io::Error),
    /// The address can't be listened on.
    #[error("can't listen on {address}; choose another address with --set server.listen=127.0.0.1:9000")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The certificate can't be served.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A key of `server.token.keys` can't be used.
    #[error(transparent)]
    Token(#[from] KeyError),
}

/// A server that listens and does not accept yet.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    current: Current,
    tls: Option<Arc<tls::Tls>>,
}

impl Server {
    /// Binds `server.listen`, port 0 included, then as [`Self::listening`].
    ///
    /// # Errors
    /// [`ServerError`]
    pub async fn bind(queue: Queue, plugins: Arc<dyn Plugins>, settings: LiveSettings, node: NodeId) -> Result<Self, ServerError> {
        let listener = listen(&settings).await?;
        Self::listening(listener, queue, plugins, settings, node)
    }

    /// Takes over a socket that is listened on, whatever `server.listen` says, and loads certificate and token keys. Clients may connect from here on; they are served once [`Self::run`] runs.
    ///
    /// # Errors
    /// [`ServerError`], but for `Bind`
    pub fn listening(
        listener: TcpListener,
        queue: Queue,
        plugins: Arc<dyn Plugins>,
        settings: LiveSettings,
        node: NodeId,
    ) -> Result<Self, ServerError> {
        let tls = tls::Tls::open(&settings.load().server.tls)?.map(Arc::new);
        let address = listener.local_addr().map_err(ServerError::Passed)?;
        let tokens = Tokens::open(&settings.load().server.token)?;
        let mut node = Node::new(node, queue, plugins, settings);
        node.tokens = tokens;
        Ok(Self { listener, address, current: Arc::new(ArcSwap::from_pointee(node)), tls })
    }

    /// Where clients connect: `ws://…/`, or `wss://…/` with a certificate.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "wss" } else { "ws" };
        format!("{scheme}://{}/", self.address)
    }

    /// The address that was bound.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What can be asked of the server while it runs.
    #[must_use]
    pub fn sessions(&self) -> Sessions {
        Sessions { current: Arc::clone(&self.current) }
    }

    /// Accepts until `stop` fires, then sends every client away (`draining`, and 4104 once it has its answers), runs their `disconnect` calls and
    /// withdraws the node, within `server.drain_timeout`. A node that others took for dead is replaced by a fresh one meanwhile.
    ///
    /// Cancel by firing `stop`, not by dropping the future: dropping leaves sessions running.
    pub async fn run(self, stop: CancellationToken) -> Drained {
        gateway::run(self.listener, self.current, self.tls, stop).await
    }
}

/// Binds `server.listen`.
async fn listen(settings: &LiveSettings) -> Result<TcpListener, ServerError> {
    let address = settings.load().server.listen;
    TcpListener::bind(address).await.map_err(|source| ServerError::Bind { address, source })
}

/// The server's state, for `/readyz` and the like; cheap to clone.
#[derive(Clone)]
pub struct Sessions {
    current: Current,
}

impl Sessions {
    /// Whether clients can register and be served: handler live, queue up, deliveries arriving, not draining.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.current.load().is_ready()
    }

    /// Whether the server is shutting down.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.current.load().roster.is_draining()
    }

    /// Whether the node was taken for dead and its successor is not announced yet: nobody is admitted until it is.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.current.load().hold.is_lost()
    }

    /// Sessions whose handshake is done.
    #[must_use]
    pub fn open(&self) -> usize {
        self.current.load().roster.counts().0
    }

    /// Sessions that are registered.
    #[must_use]
    pub fn registered(&self) -> usize {
        self.current.load().roster.counts().1
    }

    /// Handler calls that wait or run.
    #[must_use]
    pub fn handler_calls(&self) -> usize {
        self.current.load().calls.open()
    }
}

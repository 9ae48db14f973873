//! Sockets and sessions: the only room naming `tungstenite`.
//!
//! The way of a message: `gateway` accepts, `handshake` upgrades, `task` reads, `route` decides, the queue or `handler_calls` takes it.
//! The way back: `delivery` receives, `roster` finds the sessions, `outlet` holds the frames, `socket` writes them.

mod announce;
mod cleaner;
mod delivery;
mod echo;
mod frame_count;
mod gateway;
mod handler_calls;
mod handler_work;
mod handshake;
mod head;
mod heartbeat;
mod hold;
mod ledger;
mod life;
mod node;
mod outlet;
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
mod stream;
mod task;
#[cfg(test)]
mod tests;
mod ticker;

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use self::echo::Echo;
pub use self::gateway::Drained;
use self::node::{Current, Node};
use crate::config::LiveSettings;
use crate::plugin::Plugins;
use crate::queue::Queue;
use crate::wire::ids::NodeId;

/// Why the server can't start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The address can't be listened on.
    #[error("can't listen on {address}; choose another address with --set server.listen=127.0.0.1:9000")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
}

/// A server that listens and does not accept yet.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    current: Current,
}

impl Server {
    /// Binds `server.listen`, port 0 included. Clients may connect from here on; they are served once [`Self::run`] runs.
    ///
    /// # Errors
    /// [`ServerError::Bind`]
    pub async fn bind(queue: Queue, plugins: Arc<dyn Plugins>, settings: LiveSettings, node: NodeId) -> Result<Self, ServerError> {
        let address = settings.load().server.listen;
        let bind_error = |source| ServerError::Bind { address, source };
        let listener = TcpListener::bind(address).await.map_err(bind_error)?;
        let address = listener.local_addr().map_err(bind_error)?;
        Ok(Self { listener, address, current: Arc::new(ArcSwap::from_pointee(Node::new(node, queue, plugins, settings))) })
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

    /// Accepts until `stop` fires, then closes every session (4104), runs their `disconnect` calls and withdraws the node, within
    /// `server.drain_timeout`. A node that others took for dead is replaced by a fresh one meanwhile.
    ///
    /// Cancel by firing `stop`, not by dropping the future: dropping leaves sessions running.
    pub async fn run(self, stop: CancellationToken) -> Drained {
        gateway::run(self.listener, self.current, stop).await
    }
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

//! The server over real sockets.

mod dying;
mod ending;
mod harness;
mod http;
#[path = "../../../../tests/keys/issuer.rs"]
pub(super) mod issuer;
mod queue;
mod registering;
mod routing;
mod ticking;
mod tokens;
mod upgrading;

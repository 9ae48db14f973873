//! The server over real sockets.

mod door;
mod dying;
mod ending;
mod flat;
mod flat_ids;
mod harness;
mod http;
#[path = "../../../../tests/keys/issuer.rs"]
pub(super) mod issuer;
mod leaving;
mod lists;
mod queue;
mod registering;
mod routing;
mod slow;
mod ticking;
mod tokens;
mod upgrading;

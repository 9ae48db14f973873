//! The server over real sockets.

mod door;
mod dying;
mod ending;
mod harness;
mod http;
mod leaving;
mod queue;
mod registering;
mod routing;
mod slow;
mod ticking;

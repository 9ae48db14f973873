//! What figures are held against: programs that do only the least part of the same.

pub mod echo_server;
pub mod legs;
pub mod nats;

//! Write message handlers for the Plugsocket WebSocket server as native plugins.

pub mod abi;
pub mod call;
mod id;

pub use id::Id;

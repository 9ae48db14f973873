//! This library's side of the border: the frozen types of `plugsocket-abi`, and what lies behind and before them.
#![allow(unsafe_code)] // Raw instance pointers and sink targets cross the border; each use states its reason.

pub mod export;
pub mod link;
mod macros;

pub use plugsocket_abi::{HostServices, PluginModule, PluginModule_Ref, Sink};

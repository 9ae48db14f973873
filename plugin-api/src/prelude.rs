//! Everything a plugin usually names: `use plugsocket_plugin::prelude::*;`.

pub use crate::call::{ConnectionInfo, Meta};
pub use crate::{
    Action, Config, ConfigError, ConnectRequest, Context, ContextError, Failure, Handler, Id, Identity, Message, Outcome, Refusal, Reply, Store,
    Value, export_plugin, json, tracing,
};

//! Plugsocket's host: server, worker and tool. Read in the order of a message: [`wire`], [`server`], [`queue`], [`worker`], [`plugin`].

pub mod config;
pub mod context;
pub mod lanes;
pub mod ops;
pub mod plugin;
pub mod queue;
pub mod run;
pub mod server;
pub mod tool;
pub mod wire;
pub mod worker;

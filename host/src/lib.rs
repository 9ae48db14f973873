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

/// Chosen by measurement: a tenth less CPU for each message than the system's, and less memory for idle connections. A runner's plugin has its own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

//! The `plugsocket` command: one file per subcommand.

pub mod check;
pub mod config;
pub mod new;
pub mod plugins;
mod print;
pub mod queue;
pub mod reach;
pub mod send;

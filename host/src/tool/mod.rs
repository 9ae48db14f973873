//! The `plugsocket` command: one file per subcommand.

pub mod check;
pub mod new;
pub mod queue;
pub mod reach;
pub mod send;

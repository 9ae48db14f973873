//! `plugsocket queue`: what an operator sees of the queue in Redis and does to it; one file per subcommand.

mod dead;
mod peek;
mod print;
mod repartition;
mod status;

use std::io;

use clap::{Args, Subcommand};

use super::reach;
use crate::config::Common;
use crate::queue::QueueOptions;
use crate::queue::redis::admin::Admin;

/// Flags of `queue`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  plugsocket queue status --watch                 # what waits where, refreshed
  plugsocket queue peek --action report           # the next jobs, without taking them
  plugsocket queue dead list --newer 1h           # what was given up in the last hour, and why
  plugsocket queue dead replay --action report    # put it back, once the cause is mended
  plugsocket queue repartition 128                # more partitions, on a drained queue

Exit codes: 0 done, 1 failed or nothing there by that id, 2 the config or a flag is wrong.")]
pub struct QueueArgs {
    #[command(subcommand)]
    command: QueueCommand,
}

#[derive(Debug, Subcommand)]
enum QueueCommand {
    /// Counts what waits, runs and is dead in each partition, and who works on it.
    Status(status::StatusArgs),
    /// Shows the next jobs without taking them.
    Peek(peek::PeekArgs),
    /// Shows dead letters, puts them back or drops them.
    Dead(dead::DeadArgs),
    /// Gives the queue another number of partitions, while nothing runs.
    Repartition(repartition::RepartitionArgs),
}

/// Runs one of them.
///
/// # Errors
/// A bad config or flag; Redis away or refusing; nothing there by an id.
pub async fn run(args: QueueArgs) -> anyhow::Result<()> {
    let result = match args.command {
        QueueCommand::Status(args) => status::run(args).await,
        QueueCommand::Peek(args) => peek::run(args).await,
        QueueCommand::Dead(args) => dead::run(args).await,
        QueueCommand::Repartition(args) => repartition::run(args).await,
    };
    match result {
        // Whoever read our output, such as `head`, has seen enough.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) => Ok(()),
        result => result,
    }
}

async fn connect(common: &Common) -> anyhow::Result<Admin> {
    let settings = reach::settings(common, |_| "`plugsocket queue` is for a queue in Redis; /metrics shows its numbers".to_owned())?;
    Ok(Admin::connect(&settings.queue, &QueueOptions::from_settings(&settings)).await?)
}

//! `plugsocket queue dead`: what was given up, with its reason; back into the queue, or away.

mod drop;
mod list;
mod replay;
mod show;
mod sweep;

use std::time::Duration;

use clap::{Args, Subcommand};

use crate::queue::redis::admin::Filter;

/// Flags of `queue dead`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  plugsocket queue dead list --reason 'database is away' --newer 1h
  plugsocket queue dead show 3/1700000000000-0
  plugsocket queue dead replay --action report --dry-run
  plugsocket queue dead drop --older 30days --yes")]
pub(in crate::tool::queue) struct DeadArgs {
    #[command(subcommand)]
    command: DeadCommand,
}

#[derive(Debug, Subcommand)]
enum DeadCommand {
    /// Lists dead letters with their reasons.
    List(list::ListArgs),
    /// Shows everything of one.
    Show(show::ShowArgs),
    /// Puts dead letters back into the queue.
    Replay(replay::ReplayArgs),
    /// Removes dead letters for good.
    Drop(drop::DropArgs),
}

pub(in crate::tool::queue) async fn run(args: DeadArgs) -> anyhow::Result<()> {
    match args.command {
        DeadCommand::List(args) => list::run(args).await,
        DeadCommand::Show(args) => show::run(args).await,
        DeadCommand::Replay(args) => replay::run(args).await,
        DeadCommand::Drop(args) => drop::run(args).await,
    }
}

/// Which dead letters are meant.
#[derive(Debug, Args)]
struct FilterArgs {
    /// In this partition.
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
    /// With this action.
    #[arg(long, value_name = "NAME")]
    action: Option<String>,
    /// Of this connection: its public id, or its session's.
    #[arg(long, value_name = "ID")]
    connection: Option<String>,
    /// Of this user.
    #[arg(long, value_name = "ID")]
    user: Option<String>,
    /// Whose reason contains this text.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Dead for longer than this ("30days").
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    older: Option<Duration>,
    /// Dead for no longer than this ("1h").
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    newer: Option<Duration>,
}

impl FilterArgs {
    fn filter(&self) -> Filter {
        Filter {
            partition: self.partition,
            action: self.action.clone(),
            connection: self.connection.clone(),
            user: self.user.clone(),
            reason: self.reason.clone(),
            older: self.older,
            newer: self.newer,
        }
    }
}

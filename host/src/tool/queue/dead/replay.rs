//! `plugsocket queue dead replay`: dead letters back into the queue, oldest first.

use clap::Args;

use super::sweep::{Deed, SweepArgs, Tally, sweep};
use crate::queue::QueueError;
use crate::queue::redis::admin::{Admin, Entry};

/// Flags of `queue dead replay`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  plugsocket queue dead replay 3/1700000000000-0
  plugsocket queue dead replay --action report --newer 2h
  plugsocket queue dead replay --all --limit 1000 --yes

Each goes back behind the jobs of its connection, its attempts counted from 0 again; those of one connection keep their order.
What dies again meanwhile is not replayed again by the same command. Interrupted, what was not done yet is still dead.")]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    sweep: SweepArgs,
}

struct Replay;

impl Deed for Replay {
    const VERB: &'static str = "replay";
    const DONE: &'static str = "replayed";
    const TAKES_ALL: bool = false;

    async fn act(admin: &Admin, entries: &[Entry]) -> Result<Tally, QueueError> {
        let replayed = admin.replay(entries).await?;
        Ok(Tally { done: replayed.moved, gone: replayed.gone, not_jobs: replayed.not_jobs })
    }
}

pub(super) async fn run(args: ReplayArgs) -> anyhow::Result<()> {
    sweep::<Replay>(args.sweep).await
}

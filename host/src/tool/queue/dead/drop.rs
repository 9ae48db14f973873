//! `plugsocket queue dead drop`: dead letters away for good.

use clap::Args;

use super::sweep::{Deed, SweepArgs, Tally, sweep};
use crate::queue::QueueError;
use crate::queue::redis::admin::{Admin, Entry, EntryId};

/// Flags of `queue dead drop`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  plugsocket queue dead drop 3/1700000000000-0
  plugsocket queue dead drop --older 30days --yes
  plugsocket queue dead drop --reason 'no plugin' --dry-run")]
pub(super) struct DropArgs {
    #[command(flatten)]
    sweep: SweepArgs,
}

struct Drop;

impl Deed for Drop {
    const VERB: &'static str = "drop";
    const DONE: &'static str = "dropped";
    const TAKES_ALL: bool = true;

    async fn act(admin: &Admin, entries: &[Entry]) -> Result<Tally, QueueError> {
        let ids: Vec<EntryId> = entries.iter().map(|entry| entry.id.clone()).collect();
        let done = admin.drop_dead(&ids).await?;
        Ok(Tally { done, gone: (ids.len() as u64).saturating_sub(done), not_jobs: 0 })
    }
}

pub(super) async fn run(args: DropArgs) -> anyhow::Result<()> {
    sweep::<Drop>(args.sweep).await
}

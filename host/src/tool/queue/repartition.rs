//! `plugsocket queue repartition`: another number of partitions, while nothing runs.

use clap::Args;

use super::{connect, print};
use crate::config::{Common, PARTITIONS_MAX};

/// Flags of `queue repartition`.
#[derive(Debug, Args)]
#[command(after_help = "Example, from a running app:
  stop the servers; wait until `plugsocket queue status` shows nothing waiting and in flight; stop the workers
  plugsocket queue repartition 128
  set queue_options.partitions = 128 in the config, and start workers and servers

Refused while a server or worker lives or a job waits. Jobs for later keep their time, dead letters theirs.
Servers and workers that are started meanwhile wait. If it is interrupted, run it again.")]
pub(super) struct RepartitionArgs {
    #[command(flatten)]
    common: Common,
    /// How many partitions: also the most workers that are useful.
    #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(PARTITIONS_MAX)))]
    partitions: u32,
}

pub(super) async fn run(args: RepartitionArgs) -> anyhow::Result<()> {
    let mut admin = connect(&args.common).await?;
    let target = args.partitions;
    let mut bar = None;
    let done = admin
        .repartition(target, |moved| {
            bar.get_or_insert_with(|| print::bar("moving", moved.total)).set_position(moved.seen);
        })
        .await?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    if done.from == target && done.later + done.dead == 0 {
        return Ok(print::out(&format!("the queue has {target} partitions already\n"))?);
    }
    Ok(print::out(&format!(
        "{} partitions became {target}; moved {} jobs for later and {} dead letters\nset queue_options.partitions = {target} in the config of servers and workers\n",
        done.from, done.later, done.dead
    ))?)
}

//! `plugsocket queue peek`: the next jobs, without taking them.

use clap::Args;

use super::{connect, print};
use crate::config::Common;
use crate::queue::redis::admin::Filter;

const COUNT_MAX: u64 = 100_000;

/// Flags of `queue peek`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  plugsocket queue peek --count 3
  plugsocket queue peek --partition 7 --json
  plugsocket queue peek --connection alice --action chat_text

Shown are jobs that no worker has been given yet, oldest first. A filter passes over those that do not fit, which takes a while in a long queue.")]
pub(super) struct PeekArgs {
    #[command(flatten)]
    common: Common,
    /// Of this partition only.
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
    /// At most so many.
    #[arg(long, value_name = "N", default_value = "10", value_parser = clap::value_parser!(u64).range(1..=COUNT_MAX))]
    count: u64,
    /// Of this connection only: its public id, or its session's.
    #[arg(long, value_name = "ID")]
    connection: Option<String>,
    /// With this action only.
    #[arg(long, value_name = "NAME")]
    action: Option<String>,
    /// One JSON object per line.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: PeekArgs) -> anyhow::Result<()> {
    let admin = connect(&args.common).await?;
    let filter = Filter { partition: args.partition, connection: args.connection, action: args.action, ..Filter::default() };
    let entries = admin.waiting(&filter, usize::try_from(args.count).unwrap_or(usize::MAX)).await?;
    if args.json {
        return print::entries_json(&entries);
    }
    if entries.is_empty() {
        eprintln!("no such job waits");
        return Ok(());
    }
    let now = admin.now_ms().await?;
    let mut rows = vec![["id", "age", "attempts", "action", "connection", "user", "data"].map(ToOwned::to_owned).to_vec()];
    for entry in &entries {
        let mut cells = print::cells(entry, now);
        cells.push(print::short(&entry.field("d").unwrap_or_default()));
        rows.push(cells);
    }
    Ok(print::out(&print::table(&rows, usize::MAX))?)
}

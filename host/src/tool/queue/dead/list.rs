//! `plugsocket queue dead list`: dead letters with their reasons, oldest first.

use clap::Args;

use super::FilterArgs;
use crate::config::Common;
use crate::queue::redis::admin::Entry;
use crate::tool::queue::{connect, print};

const LIMIT_MAX: u64 = 1_000_000;

/// Flags of `queue dead list`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  plugsocket queue dead list
  plugsocket queue dead list --user 7 --newer 1day
  plugsocket queue dead list --json --limit 100000 | jq -r .reason | sort | uniq -c")]
pub(super) struct ListArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    filter: FilterArgs,
    /// At most so many, the oldest.
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u64).range(1..=LIMIT_MAX))]
    limit: u64,
    /// One JSON object per line.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: ListArgs) -> anyhow::Result<()> {
    let admin = connect(&args.common).await?;
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let mut scan = admin.dead(args.filter.filter()).await?;
    let mut found: Vec<Entry> = Vec::new();
    // The oldest of all are among the oldest of each partition; one more than asked for tells that there are more.
    let mut of_partition = 0;
    while let Some(partition) = scan.partition() {
        let Some(page) = scan.next().await? else { break };
        of_partition += page.entries.len();
        found.extend(page.entries);
        if scan.partition() != Some(partition) {
            of_partition = 0;
        } else if of_partition > limit {
            scan.advance();
            of_partition = 0;
        }
        if found.len() > 2 * limit + 2 * crate::queue::redis::admin::PAGE {
            keep_oldest(&mut found, limit + 1);
        }
    }
    keep_oldest(&mut found, limit + 1);
    let has_more = found.len() > limit;
    found.truncate(limit);
    if args.json {
        print::entries_json(&found)?;
    } else if found.is_empty() {
        eprintln!("no such dead letter");
    } else {
        let now = admin.now_ms().await?;
        let mut rows = vec![["id", "age", "attempts", "action", "connection", "user", "reason"].map(ToOwned::to_owned).to_vec()];
        for entry in &found {
            let mut cells = print::cells(entry, now);
            cells.push(print::short(&entry.field("reason").unwrap_or_default()));
            rows.push(cells);
        }
        print::out(&print::table(&rows, usize::MAX))?;
    }
    if has_more {
        eprintln!("there are more: --limit {} shows up to so many", limit.saturating_mul(10));
    }
    Ok(())
}

fn keep_oldest(found: &mut Vec<Entry>, count: usize) {
    found.sort_by_key(|entry| (entry.id.ms, entry.id.sequence, entry.id.partition));
    found.truncate(count);
}

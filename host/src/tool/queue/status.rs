//! `plugsocket queue status`: how much waits where, who works on it, and how Redis is.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use tokio::time;

use super::{connect, print};
use crate::config::Common;
use crate::queue::redis::admin::{Admin, InList, PartitionStatus, QueueStatus};

const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Home, and clear to the end: in place, without the flicker of clearing first.
const REFRESH: &str = "\u{1b}[H\u{1b}[J";

/// Flags of `queue status`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  plugsocket queue status
  plugsocket queue status --watch 500ms
  plugsocket queue status --json | jq .totals.waiting

waiting: not given to a worker yet. in flight: in a worker's hand, or left by one that died. later: put back or scheduled.
oldest: how long the oldest of the waiting and in flight has been there. Its cost does not grow with the number of jobs.")]
pub(super) struct StatusArgs {
    #[command(flatten)]
    common: Common,
    /// One JSON object, described in docs/operations.md.
    #[arg(long)]
    json: bool,
    /// Again and again; in place when standard output is a terminal. Ctrl-C ends it.
    #[arg(long, value_name = "INTERVAL", num_args = 0..=1, default_missing_value = "2s", value_parser = parse_interval)]
    watch: Option<Duration>,
    /// Empty partitions too.
    #[arg(long)]
    all: bool,
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(interval) if interval >= INTERVAL_MIN => Ok(interval),
        Ok(_) => Err("must be at least 100ms".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

pub(super) async fn run(args: StatusArgs) -> anyhow::Result<()> {
    let mut admin = connect(&args.common).await?;
    let Some(interval) = args.watch else {
        return show(&admin.status().await?, &args, "");
    };
    let refresh = if io::stdout().is_terminal() && !args.json { REFRESH } else { "" };
    loop {
        match admin.status().await {
            Ok(status) => show(&status, &args, refresh)?,
            // It is watched because something is wrong: that Redis is away must not end it.
            Err(error) => {
                eprintln!("plugsocket: {error}; tried again");
                admin = reconnect(admin, &args).await;
            }
        }
        time::sleep(interval).await;
    }
}

/// A connection that broke does not mend itself.
async fn reconnect(admin: Admin, args: &StatusArgs) -> Admin {
    connect(&args.common).await.unwrap_or(admin)
}

fn show(status: &QueueStatus, args: &StatusArgs, refresh: &str) -> anyhow::Result<()> {
    let is_shown = |partition: &PartitionStatus| args.all || !partition.is_empty();
    if args.json {
        let partitions = status.partitions.iter().filter(|partition| is_shown(partition)).cloned().collect();
        return print::json(&QueueStatus { partitions, ..status.clone() });
    }
    let partitions: Vec<_> = status.partitions.iter().filter(|partition| is_shown(partition)).collect();
    Ok(print::out(&format!("{refresh}{}\n{}", head(status), rows(status, &partitions)))?)
}

fn head(status: &QueueStatus) -> String {
    let redis = &status.redis;
    let used = ByteSize(redis.used).display().iec();
    let room = if redis.max == 0 { "no limit".to_owned() } else { format!("of {}", ByteSize(redis.max).display().iec()) };
    let state = if redis.full { "FULL: takes no new messages until it has drained" } else { "up" };
    let mut text = format!("{}: Redis {} {state}, {used} {room}, {}\n", status.app, redis.version, redis.policy);
    if !redis.policy.is_empty() && redis.policy != "noeviction" {
        text.push_str("this policy deletes messages silently; run: redis-cli CONFIG SET maxmemory-policy noeviction\n");
    }
    if let Some(target) = status.repartition {
        text.push_str(&format!("unfinished: plugsocket queue repartition {target}; nothing runs until it is run again\n"));
    }
    let servers: Vec<_> = status.servers.iter().map(|server| server.id.clone()).collect();
    let workers: Vec<_> = status.workers.iter().map(|worker| format!("{} ({})", worker.id, worker.partitions)).collect();
    for (what, ids) in [("servers", servers), ("workers (partitions)", workers)] {
        let ids_text = if ids.is_empty() { String::new() } else { format!(": {}", print::clean(&ids.join(", "))) };
        text.push_str(&format!("{what} {}{ids_text}\n", ids.len()));
    }
    if status.php.waiting + status.php.dead > 0 {
        text.push_str(&format!("PHP items: {} waiting, {} set aside\n", status.php.waiting, status.php.dead));
    }
    for InList { list, waiting, problem } in &status.php.in_lists {
        let problem = problem.as_ref().map(|problem| format!("; {problem}")).unwrap_or_default();
        text.push_str(&print::clean(&format!("for PHP in {list}: {waiting} waiting{problem}")));
        text.push('\n');
    }
    text
}

fn rows(status: &QueueStatus, partitions: &[&PartitionStatus]) -> String {
    let oldest = |ms: Option<u64>| ms.map_or_else(|| "-".to_owned(), print::age);
    let row = |name: &str, counts: [u64; 4], age: Option<u64>, worker: &str| {
        let mut cells = vec![name.to_owned()];
        cells.extend(counts.map(|count| count.to_string()));
        cells.extend([oldest(age), worker.to_owned()]);
        cells
    };
    let names = ["partition", "waiting", "in flight", "later", "dead", "oldest", "worker"];
    let mut rows = vec![names.map(ToOwned::to_owned).to_vec()];
    for one in partitions {
        let worker = one.worker.as_deref().unwrap_or("nobody");
        let worker = one.problem.as_ref().map_or_else(|| worker.to_owned(), |problem| format!("{worker}; {problem}"));
        let counts = [one.waiting, one.in_flight, one.later, one.dead];
        rows.push(row(&one.partition.to_string(), counts, one.oldest_ms, &print::clean(&worker)));
    }
    let total = &status.totals;
    let owned = status.partitions.iter().filter(|partition| partition.worker.is_some()).count();
    let counts = [total.waiting, total.in_flight, total.later, total.dead];
    rows.push(row("total", counts, total.oldest_ms, &format!("{owned} of {} partitions owned", status.partitions.len())));
    print::table(&rows, 1)
}

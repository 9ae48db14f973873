//! What `replay` and `drop` share: which dead letters, whether it is really meant, page by page, how far it is.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::{Context as _, bail};
use clap::Args;

use super::FilterArgs;
use crate::config::Common;
use crate::queue::QueueError;
use crate::queue::redis::admin::{Admin, Entry, EntryId};
use crate::tool::queue::{connect, print};
use crate::tool::reach::UsageError;

/// Flags that choose dead letters and say how sure one is.
#[derive(Debug, Args)]
pub(super) struct SweepArgs {
    #[command(flatten)]
    common: Common,
    /// As `dead list` prints them.
    #[arg(value_name = "ID")]
    ids: Vec<EntryId>,
    #[command(flatten)]
    filter: FilterArgs,
    /// At most so many, the oldest of each partition first.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// All of them.
    #[arg(long)]
    all: bool,
    /// Only says what it would do.
    #[arg(long)]
    dry_run: bool,
    /// Does it without asking.
    #[arg(long)]
    yes: bool,
}

/// What one step did.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) done: u64,
    pub(super) gone: u64,
    pub(super) not_jobs: u64,
}

/// Does one of the two.
pub(super) trait Deed {
    /// "replay"
    const VERB: &'static str;
    /// "replayed"
    const DONE: &'static str;
    /// Whether entries that are no jobs can be meant.
    const TAKES_ALL: bool;

    async fn act(admin: &Admin, entries: &[Entry]) -> Result<Tally, QueueError>;
}

/// Chooses, asks, does, tells.
pub(super) async fn sweep<D: Deed>(args: SweepArgs) -> anyhow::Result<()> {
    let filter = args.filter.filter();
    match (args.ids.is_empty(), args.all, filter.is_empty()) {
        (true, false, true) => return usage(format!("say which: ids, filters such as --action NAME, or --all ({} --help)", D::VERB)),
        (false, _, false) | (false, true, _) => return usage("give either ids, or filters, or --all".to_owned()),
        (_, true, false) => return usage("--all and filters exclude each other".to_owned()),
        _ => {}
    }
    if !args.yes && !args.dry_run && !io::stdin().is_terminal() {
        return usage(format!("nobody can be asked here: add --yes to {} them, or --dry-run to see how many", D::VERB));
    }
    let admin = connect(&args.common).await?;
    if args.ids.is_empty() { by_filter::<D>(&admin, &args).await } else { by_id::<D>(&admin, &args).await }
}

async fn by_id<D: Deed>(admin: &Admin, args: &SweepArgs) -> anyhow::Result<()> {
    let mut ids = args.ids.clone();
    ids.sort_by_key(|id| (id.partition, id.ms, id.sequence));
    ids.dedup();
    let mut entries = Vec::new();
    let mut missing = 0_u64;
    for id in &ids {
        match admin.dead_letter(id).await? {
            Some(entry) => entries.push(entry),
            None => {
                missing += 1;
                eprintln!("there is no dead letter {id}");
            }
        }
    }
    let unfit = if D::TAKES_ALL { 0 } else { entries.iter().filter(|entry| entry.job().is_err()).count() as u64 };
    let count = entries.len() as u64 - unfit;
    if count > 0 && confirmed::<D>(args, count, unfit)? {
        let tally = D::act(admin, &entries).await?;
        tell::<D>(&tally)?;
        missing += tally.gone;
    }
    if missing + unfit > 0 {
        bail!("{} of {} were not {}", missing + unfit, ids.len(), D::DONE);
    }
    Ok(())
}

async fn by_filter<D: Deed>(admin: &Admin, args: &SweepArgs) -> anyhow::Result<()> {
    let limit = args.limit.unwrap_or(u64::MAX);
    let total = admin.dead_count(&args.filter.filter()).await?;
    let bar = print::bar("looking", total);
    let mut scan = admin.dead(args.filter.filter()).await?;
    let (mut count, mut unfit) = (0, 0);
    while let Some(page) = scan.next().await? {
        bar.inc(page.scanned);
        let bad = if D::TAKES_ALL { 0 } else { page.entries.iter().filter(|entry| entry.job().is_err()).count() as u64 };
        (count, unfit) = (count + page.entries.len() as u64 - bad, unfit + bad);
        if count >= limit {
            count = limit;
            break;
        }
    }
    bar.finish_and_clear();
    if count == 0 {
        let rest = if unfit > 0 { format!(": {unfit} are no jobs and stay") } else { String::new() };
        return Ok(print::out(&format!("nothing to {}{rest}\n", D::VERB))?);
    }
    if !confirmed::<D>(args, count, unfit)? {
        return Ok(());
    }
    let bar = print::bar(D::VERB, count);
    let mut sum = Tally::default();
    let mut scan = admin.dead(args.filter.filter()).await?;
    while let Some(mut page) = scan.next().await? {
        if !D::TAKES_ALL {
            let all = page.entries.len();
            page.entries.retain(|entry| entry.job().is_ok());
            sum.not_jobs += (all - page.entries.len()) as u64;
        }
        let left = usize::try_from(count - sum.done.min(count)).unwrap_or(usize::MAX);
        page.entries.truncate(left);
        let tally = D::act(admin, &page.entries).await.with_context(|| format!("{} {} before this", sum.done, D::DONE))?;
        (sum.done, sum.gone) = (sum.done + tally.done, sum.gone + tally.gone);
        bar.set_position(sum.done);
        if sum.done >= limit {
            break;
        }
    }
    bar.finish_and_clear();
    tell::<D>(&sum)
}

/// Whether to go on; for a dry run it has been told all there is.
fn confirmed<D: Deed>(args: &SweepArgs, count: u64, unfit: u64) -> anyhow::Result<bool> {
    let rest = if unfit > 0 { format!("; {unfit} are no jobs and stay") } else { String::new() };
    let what = format!("{count} dead letter{}", if count == 1 { "" } else { "s" });
    if args.dry_run {
        print::out(&format!("would {} {what}{rest}\n", D::VERB))?;
        return Ok(false);
    }
    if args.yes {
        return Ok(true);
    }
    eprint!("{} {what}{rest}? [y/N] ", D::VERB);
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    let is_yes = matches!(answer.trim().to_lowercase().as_str(), "y" | "yes");
    if !is_yes {
        eprintln!("nothing was changed");
    }
    Ok(is_yes)
}

fn tell<D: Deed>(tally: &Tally) -> anyhow::Result<()> {
    let mut text = format!("{} {}", D::DONE, tally.done);
    if tally.not_jobs > 0 {
        text.push_str(&format!("; {} are no jobs and stay", tally.not_jobs));
    }
    if tally.gone > 0 {
        text.push_str(&format!("; {} were gone already", tally.gone));
    }
    Ok(print::out(&format!("{text}\n"))?)
}

fn usage<T>(reason: String) -> anyhow::Result<T> {
    Err(UsageError(reason).into())
}

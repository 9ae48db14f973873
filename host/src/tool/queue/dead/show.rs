//! `plugsocket queue dead show`: everything of one dead letter.

use anyhow::bail;
use clap::Args;

use crate::config::Common;
use crate::queue::redis::admin::{Entry, EntryId};
use crate::tool::queue::{connect, print};

/// Flags of `queue dead show`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  plugsocket queue dead show 3/1700000000000-0")]
pub(super) struct ShowArgs {
    #[command(flatten)]
    common: Common,
    /// As `dead list` prints it.
    #[arg(value_name = "ID")]
    id: EntryId,
    /// As one JSON object.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: ShowArgs) -> anyhow::Result<()> {
    let admin = connect(&args.common).await?;
    let Some(entry) = admin.dead_letter(&args.id).await? else { bail!("there is no dead letter {}", args.id) };
    if args.json {
        return print::entries_json(&[entry]);
    }
    Ok(print::out(&text(&entry))?)
}

fn text(entry: &Entry) -> String {
    let mut rows = vec![("id", entry.id.to_string()), ("died", print::moment(entry.id.ms))];
    for (name, field) in [("reason", "reason"), ("attempts", "attempts"), ("plugin version", "version")] {
        let value = entry.field(field).filter(|value| !value.is_empty());
        rows.push((name, value.unwrap_or_else(|| "none".to_owned())));
    }
    let data = match entry.job() {
        Ok(job) => {
            rows.push(("action", job.action.clone()));
            rows.push(("connection", job.connection_id.to_string()));
            rows.push(("user", job.user_id.as_deref().unwrap_or("none").to_owned()));
            rows.push(("session", job.session.to_string()));
            rows.push(("message id", job.message_id()));
            rows.push(("client's id", job.client_id.as_ref().map_or("none", |id| id.as_json()).to_owned()));
            rows.push(("client's address", if job.ip.is_empty() { "none".to_owned() } else { job.ip.clone() }));
            rows.push(("accepted", print::moment(job.time_ms)));
            let value: Result<serde_json::Value, _> = serde_json::from_slice(job.data.as_bytes());
            value.and_then(|value| serde_json::to_string_pretty(&value)).unwrap_or_default()
        }
        Err(error) => {
            rows.push(("no job", error.to_string()));
            entry.fields().map(|(name, value)| format!("{} = {}", print::clean(&name), print::clean(&value))).collect::<Vec<_>>().join("\n")
        }
    };
    let rows: Vec<_> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), print::clean(&value)]).collect();
    let lines: Vec<String> = data.lines().map(|line| format!("  {}\n", print::clean(line))).collect();
    format!("{}data\n{}", print::table(&rows, 1), lines.concat())
}

//! How the subcommands of `queue` print entries, and a bar for what takes long.

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::value::RawValue;

pub(super) use super::super::print::{age, clean, json, moment, out, short, table};
use crate::queue::redis::admin::Entry;

/// A bar for less than this would only flicker.
const BAR_MIN: u64 = 1000;

/// An entry as `--json` prints it; `reason` and `version` of dead letters only.
#[derive(Serialize)]
struct EntryJson<'entry> {
    id: String,
    partition: u32,
    /// When it came into this stream, ms since the Unix epoch.
    time_ms: u64,
    #[serde(flatten)]
    content: Content<'entry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content<'entry> {
    Job {
        action: &'entry str,
        connection_id: &'entry str,
        user_id: Option<&'entry str>,
        session: &'entry str,
        message_id: String,
        client_id: Option<Box<RawValue>>,
        accepted_ms: u64,
        attempts: u32,
        ip: &'entry str,
        data: Box<RawValue>,
    },
    NoJob {
        problem: String,
        fields: std::collections::BTreeMap<String, String>,
    },
}

/// Prints entries as JSON, one per line.
pub(super) fn entries_json(entries: &[Entry]) -> anyhow::Result<()> {
    let raw = |text: &str| RawValue::from_string(text.to_owned());
    for entry in entries {
        let job = entry.job();
        let content = match &job {
            Ok(job) => Content::Job {
                action: &job.action,
                connection_id: &job.connection_id,
                user_id: job.user_id.as_deref(),
                session: job.session.as_str(),
                message_id: job.message_id(),
                client_id: job.client_id.as_ref().map(|id| raw(id.as_json())).transpose()?,
                accepted_ms: job.time_ms,
                attempts: job.attempts,
                ip: &job.ip,
                data: job.data.raw()?.to_owned(),
            },
            Err(error) => Content::NoJob { problem: error.to_string(), fields: entry.fields().collect() },
        };
        json(&EntryJson {
            id: entry.id.to_string(),
            partition: entry.id.partition,
            time_ms: entry.id.ms,
            content,
            reason: entry.field("reason"),
            version: entry.field("version"),
        })?;
    }
    Ok(())
}

/// What of an entry stands in a table: id, age, attempts, action, connection, user.
pub(super) fn cells(entry: &Entry, now_ms: u64) -> Vec<String> {
    let text = |name: &str| clean(&entry.field(name).filter(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned()));
    let attempts = entry.job().map_or_else(|_| "-".to_owned(), |job| job.attempts.to_string());
    vec![entry.id.to_string(), age(now_ms.saturating_sub(entry.id.ms)), attempts, text("a"), text("c"), text("u")]
}

/// A bar on standard error, when that is a terminal and there is much to do.
pub(super) fn bar(what: &'static str, total: u64) -> ProgressBar {
    if total < BAR_MIN {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {eta}").unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style).with_prefix(what)
}

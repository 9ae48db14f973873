//! How the subcommands of `queue` print: ages, tables, entries, a bar for what takes long.

use std::io::{self, Write as _};
use std::time::{Duration, UNIX_EPOCH};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::queue::redis::admin::Entry;

/// Characters of data in a line.
const DATA_CHARS_MAX: usize = 80;
/// A bar for less than this would only flicker.
const BAR_MIN: u64 = 1000;

/// To standard output. A closed one is an error, so that nobody works on for nothing.
pub(super) fn out(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// One JSON document in a line.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    Ok(out(&format!("{}\n", serde_json::to_string(value)?))?)
}

/// A time span in a few characters.
pub(super) fn age(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => format!("{ms}ms"),
        1..60 => format!("{}.{}s", seconds, ms % 1000 / 100),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// A moment, in UTC.
pub(super) fn moment(ms: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

/// What clients and plugins chose must not move the cursor of an operator's terminal.
pub(super) fn clean(text: &str) -> String {
    text.chars().flat_map(|character| if character.is_control() { character.escape_default().collect() } else { vec![character] }).collect()
}

/// Columns, the first `left` of them to the left and the rest to the right; the last one is not padded.
pub(super) fn table(rows: &[Vec<String>], left: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let width = widths[column];
            if column < left || column + 1 == columns { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

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

/// The beginning of a text, as one line.
pub(super) fn short(text: &str) -> String {
    let text = clean(text);
    match text.char_indices().nth(DATA_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// A bar on standard error, when that is a terminal and there is much to do.
pub(super) fn bar(what: &'static str, total: u64) -> ProgressBar {
    if total < BAR_MIN {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {eta}").unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style).with_prefix(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        let ages = [0, 999, 1200, 59_999, 61_000, 3_600_000, 86_400_000 * 3].map(age);
        assert_eq!(ages, ["0ms", "999ms", "1.2s", "59.9s", "1m01s", "1h00m", "3d00h"]);
    }

    #[test]
    fn columns_are_aligned_and_controls_shown() {
        let rows = [vec!["a".to_owned(), "1".to_owned(), "x".to_owned()], vec!["bcd".to_owned(), "23".to_owned(), "yy".to_owned()]];
        assert_eq!(table(&rows, 1), "a     1  x\nbcd  23  yy\n");
        assert_eq!(clean("a\u{1b}[2Jé\n"), "a\\u{1b}[2Jé\\n");
        assert_eq!(short(&"x".repeat(100)).chars().count(), DATA_CHARS_MAX + 1);
    }
}

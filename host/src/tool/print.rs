//! How the subcommands print: ages, tables, JSON.

use std::io::{self, Write as _};
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;

/// Characters of data in a line.
const DATA_CHARS_MAX: usize = 80;

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

/// The beginning of a text, as one line.
pub(super) fn short(text: &str) -> String {
    let text = clean(text);
    match text.char_indices().nth(DATA_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
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

//! What was measured, for people and for machines.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::bench::{Sample, Scale};
use crate::targets;

/// One column of the tables.
struct Column {
    figure: &'static str,
    heading: &'static str,
    /// What the figure is divided by.
    divisor: f64,
    /// Whether the least and the most of the rounds stand beside the median.
    is_ranged: bool,
}

const fn ranged(figure: &'static str, heading: &'static str, divisor: f64) -> Column {
    Column { figure, heading, divisor, is_ranged: true }
}

const fn plain(figure: &'static str, heading: &'static str, divisor: f64) -> Column {
    Column { figure, heading, divisor, is_ranged: false }
}

const MIB: f64 = 1_048_576.0;

const COLUMNS: [Column; 25] = [
    ranged("rate", "per s", 1.0),
    ranged("p50_us", "p50 ms", 1e3),
    ranged("p99_us", "p99 ms", 1e3),
    plain("p999_us", "p99.9 ms", 1e3),
    plain("max_us", "max ms", 1e3),
    plain("last_p50_us", "last p50 ms", 1e3),
    plain("last_p99_us", "last p99 ms", 1e3),
    ranged("cpu_us", "CPU µs", 1.0),
    plain("server_us", "server", 1.0),
    plain("worker_us", "worker", 1.0),
    plain("runners_us", "runners", 1.0),
    plain("redis_us", "Redis", 1.0),
    plain("generator_us", "generator", 1.0),
    ranged("connection_bytes", "B each", 1.0),
    plain("idle_us", "idle µs/s", 1.0),
    ranged("overrun", "× least", 1.0),
    plain("server_rss", "server MiB", MIB),
    plain("worker_rss", "worker MiB", MIB),
    plain("runners_rss", "runners MiB", MIB),
    plain("redis_rss", "Redis MiB", MIB),
    plain("batch", "jobs a read", 1.0),
    plain("redis_commands", "Redis cmds", 1.0),
    plain("redis_xadd", "XADD", 1.0),
    plain("lag_p99_us", "lag p99 ms", 1e3),
    plain("others", "others %", 0.01),
];

/// What a run came to.
pub struct Outcome<'run> {
    pub scale: Scale,
    /// Names of the binaries: one or two.
    pub sides: Vec<&'run str>,
    pub samples: &'run [Sample],
    pub refused: &'run [String],
}

/// One row of one side over all rounds.
struct Row<'samples> {
    scenario: &'static str,
    name: &'samples str,
    side: usize,
    samples: Vec<&'samples Sample>,
}

impl Row<'_> {
    fn values(&self, figure: &str) -> Vec<f64> {
        self.samples.iter().filter_map(|sample| sample.figures.get(figure).copied()).collect()
    }

    fn median(&self, figure: &str) -> Option<f64> {
        median(self.values(figure))
    }
}

/// The middle one, or halfway between the two in the middle.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.get(values.len().checked_sub(1)? / 2)?, values.get(values.len() / 2)?);
    Some(f64::midpoint(*low, *high))
}

fn rows(samples: &[Sample]) -> Vec<Row<'_>> {
    let mut rows: Vec<Row> = Vec::new();
    for sample in samples {
        let same = |row: &&mut Row| row.scenario == sample.scenario && row.name == sample.row && row.side == sample.side;
        match rows.iter_mut().find(same) {
            Some(row) => row.samples.push(sample),
            None => rows.push(Row { scenario: sample.scenario, name: &sample.row, side: sample.side, samples: vec![sample] }),
        }
    }
    rows
}

/// The median of a figure of one side.
fn look_up(rows: &[Row], side: usize, scenario: &str, name: &str, figure: &str) -> Option<f64> {
    rows.iter().find(|row| row.side == side && row.scenario == scenario && row.name == name)?.median(figure)
}

/// The tables: what was to be reached, and then a scenario each.
pub fn to_markdown(outcome: &Outcome) -> String {
    let rows = rows(outcome.samples);
    let mut text = String::new();
    for (side, name) in outcome.sides.iter().enumerate() {
        // References are measured once, for both sides.
        let at =
            |scenario: &str, name: &str, figure: &str| look_up(&rows, if scenario == "refs" { 0 } else { side }, scenario, name, figure);
        let table = targets::to_markdown(&at);
        if outcome.scale != Scale::Smoke && !table.is_empty() {
            let _ = write!(text, "\n## Targets: {name}\n\n{table}");
        }
    }
    let mut scenarios: Vec<&str> = Vec::new();
    for row in &rows {
        if !scenarios.contains(&row.scenario) {
            scenarios.push(row.scenario);
        }
    }
    for scenario in scenarios {
        let of: Vec<&Row> = rows.iter().filter(|row| row.scenario == scenario).collect();
        let _ = write!(text, "\n## {scenario}\n\n{}", figures_of(outcome, &of));
        if outcome.sides.len() > 1 && scenario != "refs" {
            let _ = write!(text, "\n### {scenario}: {} against {} (1.00 = the same)\n\n", outcome.sides[1], outcome.sides[0]);
            text.push_str(&ratios_of(&of));
        }
    }
    for line in outcome.refused {
        let _ = write!(text, "\n**{line}**\n");
    }
    text
}

fn figures_of(outcome: &Outcome, rows: &[&Row]) -> String {
    let is_there = |figure: &str| rows.iter().any(|row| row.median(figure).is_some_and(|value| value != 0.0));
    let columns: Vec<_> = COLUMNS.iter().filter(|column| is_there(column.figure)).collect();
    let mut cells = vec![std::iter::once("").chain(columns.iter().map(|column| column.heading)).map(str::to_owned).collect::<Vec<_>>()];
    for row in rows {
        let side = if outcome.sides.len() > 1 { format!(" [{}]", outcome.sides[row.side]) } else { String::new() };
        let mark = if row.samples.iter().any(|sample| sample.is_disturbed) { " (machine busy)" } else { "" };
        let mut line = vec![format!("{}{side}{mark}", row.name)];
        line.extend(columns.iter().map(|column| cell(column, &row.values(column.figure))));
        cells.push(line);
    }
    table(&cells)
}

/// The median; of figures that matter most also the least and the most.
fn cell(column: &Column, values: &[f64]) -> String {
    let mut values: Vec<f64> = values.iter().map(|value| value / column.divisor).collect();
    values.sort_by(f64::total_cmp);
    match (median(values.clone()), values.first(), values.last()) {
        (Some(middle), Some(least), Some(most)) if values.len() > 1 && column.is_ranged => {
            format!("{} ({}–{})", number(middle), number(*least), number(*most))
        }
        (Some(middle), ..) => number(middle),
        _ => String::new(),
    }
}

/// Each figure of the second side against the first: the median of the rounds' ratios.
fn ratios_of(rows: &[&Row]) -> String {
    let shown = [
        "rate",
        "p50_us",
        "p99_us",
        "cpu_us",
        "server_us",
        "worker_us",
        "runners_us",
        "redis_us",
        "overrun",
        "connection_bytes",
        "idle_us",
    ];
    let pairs: Vec<(&&Row, &&Row)> = rows
        .iter()
        .filter(|row| row.side == 0)
        .filter_map(|first| Some((first, rows.iter().find(|row| row.side == 1 && row.name == first.name)?)))
        .collect();
    let ratio = |first: &Row, second: &Row, figure: &str| {
        let before = |round| first.samples.iter().find(|sample| sample.round == round)?.figures.get(figure).filter(|value| **value > 0.0);
        median(second.samples.iter().filter_map(|sample| Some(sample.figures.get(figure)? / before(sample.round)?)).collect())
    };
    let is_there = |figure: &str| pairs.iter().any(|(first, second)| ratio(first, second, figure).is_some());
    let columns: Vec<_> = COLUMNS.iter().filter(|column| shown.contains(&column.figure) && is_there(column.figure)).collect();
    let heading = |column: &&Column| column.heading.trim_end_matches(" ms").to_owned();
    let mut cells = vec![std::iter::once(String::new()).chain(columns.iter().map(heading)).collect::<Vec<_>>()];
    for (first, second) in &pairs {
        let mut line = vec![first.name.to_owned()];
        let shown = |column: &&Column| ratio(first, second, column.figure).map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        line.extend(columns.iter().map(shown));
        cells.push(line);
    }
    table(&cells)
}

/// A Markdown table whose columns stand below each other in a terminal too; the first line is the heading.
pub fn table(cells: &[Vec<String>]) -> String {
    let columns = cells.first().map_or(0, Vec::len);
    let width = |column: usize| cells.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0).max(2);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (number, line) in cells.iter().enumerate() {
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let _ = if column == 0 { write!(text, "| {cell:<width$} ") } else { write!(text, "| {cell:>width$} ") };
        }
        text.push_str("|\n");
        if number == 0 {
            for (column, width) in widths.iter().enumerate() {
                let _ = if column == 0 { write!(text, "|{}", "-".repeat(width + 2)) } else { write!(text, "|{}:", "-".repeat(width + 1)) };
            }
            text.push_str("|\n");
        }
    }
    text
}

/// Three digits that count, thousands apart.
pub fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 999.5 => thousands(value),
        middle if middle >= 99.5 => format!("{value:.0}"),
        small if small >= 9.95 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Every sample, and what it ran on.
pub fn to_json(outcome: &Outcome, redis: &str) -> Value {
    let rows = rows(outcome.samples);
    let at = |scenario: &str, name: &str, figure: &str| look_up(&rows, 0, scenario, name, figure);
    let sample = |sample: &Sample| {
        json!({
            "scenario": sample.scenario, "row": sample.row, "bins": outcome.sides.get(sample.side), "round": sample.round,
            "disturbed": sample.is_disturbed, "figures": sample.figures,
        })
    };
    json!({
        "scale": format!("{:?}", outcome.scale).to_lowercase(),
        "redis": redis,
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "targets": targets::to_json(&at),
        "samples": outcome.samples.iter().map(sample).collect::<Vec<_>>(),
        "refused": outcome.refused,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Figures;

    fn sample(row: &str, side: usize, round: usize, rate: f64) -> Sample {
        Sample {
            scenario: "trip",
            row: row.to_owned(),
            side,
            round,
            is_disturbed: false,
            figures: Figures::from([("rate", rate), ("cpu_us", 5.0)]),
        }
    }

    #[test]
    fn a_row_has_its_median_the_least_and_the_most() {
        let samples = [sample("W1", 0, 0, 3_000.0), sample("W1", 0, 1, 1_000.0), sample("W1", 0, 2, 2_000.0)];
        let refused = ["idle: refused: lost".to_owned()];
        let text = to_markdown(&Outcome { scale: Scale::Full, sides: vec!["here"], samples: &samples, refused: &refused });
        assert!(text.contains("| W1 | 2 000 (1 000–3 000) | 5.00 (5.00–5.00) |"), "{text}");
        assert!(text.contains("**idle: refused: lost**") && !text.contains("against"), "{text}");
    }

    #[test]
    fn two_sides_are_compared_round_by_round() {
        let samples = [sample("W1", 0, 0, 1_000.0), sample("W1", 1, 0, 1_500.0), sample("W1", 0, 1, 3_000.0), sample("W1", 1, 1, 4_500.0)];
        let text = to_markdown(&Outcome { scale: Scale::Full, sides: vec!["old", "new"], samples: &samples, refused: &[] });
        assert!(text.contains("new against old") && text.contains("| W1 |  1.50 |   1.00 |"), "{text}");
    }

    #[test]
    fn numbers_keep_three_digits() {
        for (value, text) in [(0.123, "0.12"), (9.96, "10.0"), (99.6, "100"), (1_234.5, "1 234"), (1_234_567.0, "1 234 567")] {
            assert_eq!(number(value), text);
        }
        assert_eq!((median(vec![3.0, 1.0, 2.0, 4.0]), median(vec![3.0, 1.0, 2.0])), (Some(2.5), Some(2.0)));
        assert_eq!(median(Vec::new()), None);
    }
}

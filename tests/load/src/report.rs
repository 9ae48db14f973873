//! What was measured, for people and for machines.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use crate::bench::{Bench, Sample, Scale};
use crate::targets;

/// Columns of the tables: what the figure is called, how its column is headed, and by what it is divided.
const COLUMNS: [(&str, &str, f64); 24] = [
    ("rate", "per s", 1.0),
    ("p50_us", "p50 ms", 1e3),
    ("p99_us", "p99 ms", 1e3),
    ("p999_us", "p99.9 ms", 1e3),
    ("max_us", "max ms", 1e3),
    ("last_p50_us", "last p50 ms", 1e3),
    ("last_p99_us", "last p99 ms", 1e3),
    ("cpu_us", "CPU µs", 1.0),
    ("server_us", "server", 1.0),
    ("worker_us", "worker", 1.0),
    ("runners_us", "runners", 1.0),
    ("redis_us", "Redis", 1.0),
    ("generator_us", "generator", 1.0),
    ("connection_bytes", "B each", 1.0),
    ("idle_us", "idle µs/s", 1.0),
    ("server_rss", "server MiB", 1048576.0),
    ("worker_rss", "worker MiB", 1048576.0),
    ("runners_rss", "runners MiB", 1048576.0),
    ("redis_rss", "Redis MiB", 1048576.0),
    ("overrun", "× least", 1.0),
    ("batch", "jobs a read", 1.0),
    ("redis_commands", "Redis cmds", 1.0),
    ("redis_xadd", "XADD", 1.0),
    ("others", "others %", 0.01),
];

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

/// The middle one; the lower of two.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied()
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
pub fn to_markdown(bench: &Bench) -> String {
    let rows = rows(&bench.samples);
    let mut text = String::new();
    for (side, bins) in bench.sides.iter().enumerate() {
        // References are measured once, for both sides.
        let at =
            |scenario: &str, name: &str, figure: &str| look_up(&rows, if scenario == "refs" { 0 } else { side }, scenario, name, figure);
        let table = targets::to_markdown(&at);
        if bench.scale != Scale::Smoke && !table.is_empty() {
            let _ = writeln!(text, "## Targets: {}\n\n{table}", bins.name);
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
        table(&mut text, bench, scenario, &of);
        if bench.sides.len() > 1 {
            compare(&mut text, bench, scenario, &of);
        }
    }
    text
}

fn table(text: &mut String, bench: &Bench, scenario: &str, rows: &[&Row]) {
    let columns: Vec<_> =
        COLUMNS.iter().filter(|(figure, ..)| rows.iter().any(|row| row.median(figure).is_some_and(|value| value != 0.0))).collect();
    let _ = write!(text, "\n## {scenario}\n\n| |");
    for (_, heading, _) in &columns {
        let _ = write!(text, " {heading} |");
    }
    let _ = writeln!(text, "\n|---|{}", "---:|".repeat(columns.len()));
    for row in rows {
        let side = if bench.sides.len() > 1 { format!(" [{}]", bench.sides[row.side].name) } else { String::new() };
        let mark = if row.samples.iter().any(|sample| sample.is_disturbed) { " (machine busy)" } else { "" };
        let _ = write!(text, "| {}{side}{mark} |", row.name);
        for (figure, _, divisor) in &columns {
            let mut values: Vec<f64> = row.values(figure).iter().map(|value| value / divisor).collect();
            values.sort_by(f64::total_cmp);
            let cell = match (median(values.clone()), values.first(), values.last()) {
                (Some(middle), Some(least), Some(most)) if values.len() > 1 && bench.scale != Scale::Smoke => {
                    format!("{} ({}–{})", number(middle), number(*least), number(*most))
                }
                (Some(middle), ..) => number(middle),
                _ => String::new(),
            };
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
    }
}

/// Each figure of the second side against the first, round by round.
fn compare(text: &mut String, bench: &Bench, scenario: &str, rows: &[&Row]) {
    let _ = writeln!(text, "\n### {scenario}: {} against {} (1.00 = the same)\n", bench.sides[1].name, bench.sides[0].name);
    let shown = ["rate", "p50_us", "p99_us", "cpu_us", "server_us", "worker_us", "runners_us", "redis_us", "server_rss"];
    let columns: Vec<_> = COLUMNS.iter().filter(|(figure, ..)| shown.contains(figure)).collect();
    let headings: Vec<&str> = columns.iter().map(|(_, heading, _)| *heading).collect();
    let _ = writeln!(text, "| | {} |\n|---|{}", headings.join(" | "), "---:|".repeat(columns.len()));
    for first in rows.iter().filter(|row| row.side == 0) {
        let Some(second) = rows.iter().find(|row| row.side == 1 && row.name == first.name) else { continue };
        let _ = write!(text, "| {} |", first.name);
        for (figure, ..) in &columns {
            let before: BTreeMap<usize, f64> =
                first.samples.iter().filter_map(|sample| Some((sample.round, *sample.figures.get(figure)?))).collect();
            let ratio = |sample: &&Sample| Some(sample.figures.get(figure)? / before.get(&sample.round).filter(|value| **value > 0.0)?);
            let ratios: Vec<f64> = second.samples.iter().filter_map(ratio).collect();
            let _ = write!(text, " {} |", median(ratios).map_or_else(String::new, |ratio| format!("{ratio:.2}")));
        }
        text.push('\n');
    }
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
pub fn to_json(bench: &Bench, refused: &[String]) -> anyhow::Result<Value> {
    let rows = rows(&bench.samples);
    let at = |scenario: &str, name: &str, figure: &str| look_up(&rows, 0, scenario, name, figure);
    let samples: Vec<Value> = bench
        .samples
        .iter()
        .map(|sample| {
            json!({
                "scenario": sample.scenario, "row": sample.row, "bins": bench.sides.get(sample.side).map(|bins| &bins.name), "round": sample.round,
                "disturbed": sample.is_disturbed, "figures": sample.figures,
            })
        })
        .collect();
    Ok(json!({
        "scale": format!("{:?}", bench.scale).to_lowercase(),
        "redis": bench.redis.version()?,
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "targets": targets::to_json(&at),
        "samples": samples,
        "refused": refused,
    }))
}

//! What was measured: rows, as a Markdown table and as JSON.

use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use crate::Scale;

/// What a row has to reach.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// The ratio must not be lower.
    AtLeast(f64),
    /// The ratio must not be higher.
    AtMost(f64),
    /// Shown for what it is.
    None,
}

/// A figure with its unit.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Figure {
    pub value: f64,
    pub unit: &'static str,
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub what: &'static str,
    pub measured: Figure,
    pub reference: Option<Reference>,
    pub ratio: Option<f64>,
    pub target: Target,
    pub notes: String,
}

/// What a row is measured against, in the same run.
#[derive(Debug, Clone, Serialize)]
pub struct Reference {
    pub what: &'static str,
    pub figure: Figure,
}

impl Figure {
    pub fn new(value: f64, unit: &'static str) -> Self {
        Self { value, unit }
    }

    fn text(self) -> String {
        let Self { value, unit } = self;
        match value.abs() {
            large if large >= 1000.0 => format!("{} {unit}", thousands(value)),
            middle if middle >= 100.0 => format!("{value:.0} {unit}"),
            middle if middle >= 10.0 => format!("{value:.1} {unit}"),
            _ => format!("{value:.2} {unit}"),
        }
    }
}

impl Row {
    /// A row with a ratio; `ratio` is worked out round by round.
    pub fn ratio(what: &'static str, measured: Figure, reference: Reference, ratio: f64, target: Target) -> Self {
        Self { what, measured, reference: Some(reference), ratio: Some(ratio), target, notes: String::new() }
    }

    /// A figure without a reference.
    pub fn figure(what: &'static str, measured: Figure) -> Self {
        Self { what, measured, reference: None, ratio: None, target: Target::None, notes: String::new() }
    }

    /// The same with a remark.
    pub fn noting(mut self, notes: impl Into<String>) -> Self {
        self.notes = notes.into();
        self
    }

    /// Whether the target is reached; `None` without one.
    fn is_met(&self) -> Option<bool> {
        match (self.target, self.ratio?) {
            (Target::AtLeast(least), ratio) => Some(ratio >= least),
            (Target::AtMost(most), ratio) => Some(ratio <= most),
            (Target::None, _) => None,
        }
    }
}

#[derive(Serialize)]
struct Line<'report> {
    scenario: &'static str,
    met: Option<bool>,
    #[serde(flatten)]
    row: &'report Row,
}

/// All rows of a run.
pub struct Report {
    scale: Scale,
    redis: String,
    rows: Vec<(&'static str, Row)>,
}

impl Report {
    pub fn new(scale: Scale, redis: String) -> Self {
        Self { scale, redis, rows: Vec::new() }
    }

    pub fn add(&mut self, scenario: &'static str, rows: Vec<Row>) {
        self.rows.extend(rows.into_iter().map(|row| (scenario, row)));
    }

    pub fn to_markdown(&self) -> String {
        let mut text = String::from("| row | what | measured | reference | ratio | target | |\n|---|---|---|---|---|---|---|\n");
        for (scenario, row) in &self.rows {
            let reference =
                row.reference.as_ref().map_or_else(String::new, |reference| format!("{} {}", reference.figure.text(), reference.what));
            let ratio = row.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
            let target = match row.target {
                Target::AtLeast(least) => format!("≥ {least:.2}"),
                Target::AtMost(most) => format!("≤ {most:.2}"),
                Target::None => String::new(),
            };
            let verdict = match row.is_met() {
                _ if self.scale == Scale::Smoke => "smoke".to_owned(),
                Some(true) => "met".to_owned(),
                Some(false) => "**missed**".to_owned(),
                None => String::new(),
            };
            let last = [verdict, row.notes.clone()].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
            text.push_str(&format!(
                "| {scenario} | {} | {} | {reference} | {ratio} | {target} | {last} |\n",
                row.what,
                row.measured.text()
            ));
        }
        text
    }

    pub fn write_json(&self, path: &Path) -> anyhow::Result<()> {
        let rows: Vec<Line> = self.rows.iter().map(|(scenario, row)| Line { scenario, met: row.is_met(), row }).collect();
        let json = serde_json::json!({
            "scale": format!("{:?}", self.scale).to_lowercase(),
            "redis": self.redis,
            "cpus": std::thread::available_parallelism().map_or(0, usize::from),
            "rows": rows,
        });
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("folder {}", folder.display()))?;
        }
        std::fs::write(path, serde_json::to_vec_pretty(&json)?).with_context(|| format!("writing {}", path.display()))
    }
}

/// The middle one; the lower of two.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

//! What the figures have to reach, and what they should.

use serde_json::{Value, json};

use crate::report::{number, table};

/// Figures by scenario, row and name: the medians of one side.
pub type Lookup<'run> = &'run dyn Fn(&str, &str, &str) -> Option<f64>;

/// One figure and what it has to be; a stretch is what it should be.
struct Target {
    what: &'static str,
    unit: &'static str,
    of: fn(Lookup) -> Option<f64>,
    must: f64,
    stretch: f64,
}

const fn target(what: &'static str, unit: &'static str, of: fn(Lookup) -> Option<f64>, must: f64, stretch: f64) -> Target {
    Target { what, unit, of, must, stretch }
}

/// Where the stretch is lower than what must be, less is better.
const TARGETS: [Target; 20] = [
    target("1 × 1: CPU of everything", "µs", |at| trip(at, "1 × 1", "cpu_us"), 220.0, 170.0),
    target("1 × 1: p50", "µs", |at| trip(at, "1 × 1", "p50_us"), 200.0, 170.0),
    target("W1: CPU of everything", "µs", |at| trip(at, "W1", "cpu_us"), 30.0, 22.0),
    target("W1: messages", "/s", |at| trip(at, "W1", "rate"), 45e3, 60e3),
    target("W16: CPU of everything", "µs", |at| trip(at, "W16", "cpu_us"), 12.0, 5.0),
    target("W16: messages", "/s", |at| trip(at, "W16", "rate"), 100e3, 250e3),
    target("1000/s: p99", "ms", |at| Some(trip(at, "1000/s", "p99_us")? / 1e3), 0.6, 0.4),
    target("10000/s: p99", "ms", |at| Some(trip(at, "10000/s", "p99_us")? / 1e3), 2.0, 0.75),
    target("half of W1: p99", "ms", |at| Some(trip(at, "half of W1", "p99_us")? / 1e3), 4.0, 2.0),
    target("W1: Redis's CPU against its legs in batches as large", "×", |at| against_legs(at, "W1", "redis_us"), 1.25, 1.1),
    target("W16: Redis's CPU against its legs in batches as large", "×", |at| against_legs(at, "W16", "redis_us"), 1.25, 1.1),
    target("W16: messages against Redis's legs in batches as large", "×", |at| against_legs(at, "W16", "rate"), 0.6, 0.9),
    target("W16, memory queue, in-process: messages against a bare echo", "×", against_bare_echo, 1.0, 3.0),
    target("W16: CPU with runners against in-process", "×", against_in_process, 1.25, 1.1),
    target("broadcast: server's CPU for a delivery", "µs", |at| at("broadcast", "all", "server_us"), 7.5, 5.5),
    target("broadcast at 20/s: server's CPU for a delivery", "µs", |at| at("broadcast", "all, 20/s", "server_us"), 7.5, 5.5),
    target("idle: server's memory for a connection", "kB", |at| Some(at("idle", IDLE, "connection_bytes")? / 1e3), 10.0, 6.0),
    target("idle: registrations", "/s", |at| at("idle", IDLE, "rate"), 10e3, 20e3),
    target("slow handlers, 8 slots: time against the least possible", "×", |at| at("slow", "8 slots", "overrun"), 1.05, 1.03),
    target("slow handlers, 64 slots: time against the least possible", "×", |at| at("slow", "64 slots", "overrun"), 1.05, 1.03),
];

const IDLE: &str = "10000 connections";
/// Messages to a pipeline of the legs that are measured.
const LEGS: [f64; 4] = [1.0, 4.0, 16.0, 128.0];

fn trip(at: Lookup, load: &str, figure: &str) -> Option<f64> {
    at("trip", &format!("redis+process {load}"), figure)
}

/// Against the legs between whose batches ours lie, on the line between the two.
fn against_legs(at: Lookup, load: &str, figure: &str) -> Option<f64> {
    let batch = trip(at, load, "batch")?.clamp(LEGS[0], LEGS[LEGS.len() - 1]);
    let legs = |batch: f64| at("refs", &format!("Redis legs × {batch:.0}"), figure);
    let above = LEGS.iter().position(|size| *size >= batch)?.max(1);
    let (small, large) = (LEGS[above - 1], LEGS[above]);
    let share = (batch / small).ln() / (large / small).ln();
    let (of_small, of_large) = (legs(small)?, legs(large)?);
    Some(trip(at, load, figure)? / (of_small + (of_large - of_small) * share))
}

fn against_bare_echo(at: Lookup) -> Option<f64> {
    Some(at("trip", "memory+in-process W16", "rate")? / at("refs", "bare echo W16", "rate")?)
}

fn against_in_process(at: Lookup) -> Option<f64> {
    Some(trip(at, "W16", "cpu_us")? / at("trip", "redis+in-process W16", "cpu_us")?)
}

impl Target {
    fn verdict(&self, value: f64) -> &'static str {
        let reaches = |limit: f64| if self.stretch < self.must { value <= limit } else { value >= limit };
        match (reaches(self.stretch), reaches(self.must)) {
            (true, _) => "met, and the stretch",
            (_, true) => "met",
            _ => "missed",
        }
    }

    fn limit(&self, limit: f64) -> String {
        let sign = if self.stretch < self.must { "≤" } else { "≥" };
        format!("{sign} {}", number(limit))
    }
}

/// The table of those that were measured; empty when there are none.
pub fn to_markdown(at: Lookup) -> String {
    let row = |target: &Target| {
        let value = (target.of)(at)?;
        let verdict = match target.verdict(value) {
            "missed" => "**missed**",
            met => met,
        };
        let measured = format!("{} {}", number(value), target.unit);
        Some(vec![target.what.to_owned(), measured, target.limit(target.must), target.limit(target.stretch), verdict.to_owned()])
    };
    let mut cells = vec![["redis+process, unless it says otherwise", "measured", "must", "should", ""].map(str::to_owned).to_vec()];
    cells.extend(TARGETS.iter().filter_map(row));
    if cells.len() > 1 { table(&cells) } else { String::new() }
}

pub fn to_json(at: Lookup) -> Vec<Value> {
    let of = |target: &Target| {
        let value = (target.of)(at)?;
        let Target { what, unit, must, stretch, .. } = target;
        Some(json!({ "what": what, "unit": unit, "value": value, "must": must, "stretch": stretch, "verdict": target.verdict(value) }))
    };
    TARGETS.iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(_: &str, row: &str, figure: &str) -> Option<f64> {
        match (row, figure) {
            ("redis+process W16", "batch") => Some(64.0),
            ("redis+process W16", "redis_us" | "cpu_us") => Some(6.0),
            ("Redis legs × 16", "redis_us") => Some(6.0),
            ("Redis legs × 128", "redis_us") => Some(3.0),
            ("8 slots", "overrun") => Some(1.06),
            _ => None,
        }
    }

    #[test]
    fn what_was_not_measured_is_left_out() {
        let text = to_markdown(&figures);
        let lines: Vec<String> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert!(lines.contains(&"| W16: CPU of everything | 6.00 µs | ≤ 12.0 | ≤ 5.00 | met |".to_owned()), "{text}");
        assert!(lines.iter().any(|line| line.ends_with("| 1.06 × | ≤ 1.05 | ≤ 1.03 | **missed** |")), "{text}");
        assert!(!text.contains("W1: messages"), "{text}");
        assert_eq!(to_markdown(&|_, _, _| None), "");
    }

    #[test]
    fn legs_between_two_batches_are_on_the_line_between_them() {
        // 64 lies two thirds of the way from 16 to 128, as powers: 6 - 3 * 2/3 = 4.
        let ratio = against_legs(&figures, "W16", "redis_us").unwrap();
        assert!((ratio - 1.5).abs() < 1e-9, "{ratio}");
    }
}

//! What scenarios share: how much is measured, the window that measures, and where figures go.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::bail;

use crate::app::{App, Bins};
use crate::histogram::Histogram;
use crate::redis::Redis;
use crate::usage::{Group, Measured, Start, Used};

/// How often a window is repeated because something else used the machine.
const REPEATS: usize = 2;
/// Share of the machine that others may use in a window: what interrupts and idling itself cost stays below it.
const OTHERS_MAX: f64 = 0.10;

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Only that everything runs and nothing gets lost.
    Smoke,
    Quick,
    Full,
}

/// Figures by name, such as `rate` or `p99_us`.
pub type Figures = BTreeMap<&'static str, f64>;

/// One measurement of one row.
#[derive(Debug, Clone)]
pub struct Sample {
    pub scenario: &'static str,
    pub row: String,
    /// Which binaries: 0, or 1 for those of `--against`.
    pub side: usize,
    pub round: usize,
    /// Something else used the machine, and `--force` was given.
    pub is_disturbed: bool,
    pub figures: Figures,
}

/// One run.
pub struct Bench {
    pub scale: Scale,
    pub rounds: usize,
    pub force: bool,
    pub redis: Redis,
    pub sides: Vec<Bins>,
    pub samples: Vec<Sample>,
    /// What is measured at present.
    pub round: usize,
    pub side: usize,
    is_disturbed: bool,
}

impl Bench {
    pub fn new(scale: Scale, rounds: usize, force: bool, sides: Vec<Bins>) -> anyhow::Result<Self> {
        let redis = Redis::start()?;
        Ok(Self { scale, rounds, force, redis, sides, samples: Vec::new(), round: 0, side: 0, is_disturbed: false })
    }

    /// Picks by scale.
    pub fn pick<T>(&self, smoke: T, quick: T, full: T) -> T {
        match self.scale {
            Scale::Smoke => smoke,
            Scale::Quick => quick,
            Scale::Full => full,
        }
    }

    pub fn warm_up(&self) -> Duration {
        Duration::from_millis(self.pick(50, 300, 500))
    }

    pub fn window(&self) -> Duration {
        Duration::from_millis(self.pick(150, 1_000, 2_500))
    }

    /// The binaries whose turn it is.
    pub fn bins(&self) -> Bins {
        self.sides[self.side].clone()
    }

    pub fn add(&mut self, scenario: &'static str, row: impl Into<String>, figures: Figures) {
        let (row, side, round) = (row.into(), self.side, self.round);
        let is_disturbed = self.is_disturbed;
        let shown =
            ["rate", "p50_us", "p99_us", "cpu_us", "others"].iter().filter_map(|name| Some(format!("{name} {:.2}", figures.get(name)?)));
        eprintln!("{scenario} {row} [{}]: {}", self.sides.get(side).map_or("", |bins| &bins.name), shown.collect::<Vec<_>>().join(", "));
        self.samples.push(Sample { scenario, row, side, round, is_disturbed, figures });
    }

    /// Measures until nothing else used the machine meanwhile.
    ///
    /// # Errors
    /// Whatever `measure` says, and a machine that was busy each time.
    pub fn undisturbed<T>(&mut self, mut measure: impl FnMut(&Self) -> anyhow::Result<(T, f64)>) -> anyhow::Result<T> {
        let mut shares = Vec::new();
        self.is_disturbed = false;
        for _ in 0..=REPEATS {
            let (measured, others) = measure(self)?;
            if others <= OTHERS_MAX || self.scale == Scale::Smoke {
                return Ok(measured);
            }
            shares.push(format!("{:.0} %", others * 100.0));
            if self.force {
                self.is_disturbed = true;
                return Ok(measured);
            }
        }
        bail!("the machine was busy: others used {} of it; try again, or take the figures all the same with --force", shares.join(", "))
    }
}

/// One window: what everything that is measured used, and what Redis was asked.
pub struct Window {
    start: Start,
    measured: Measured,
    calls: Option<HashMap<String, u64>>,
}

impl Window {
    pub fn open(redis: Option<&Redis>, measured: Measured) -> anyhow::Result<Self> {
        let calls = redis.map(Redis::calls).transpose()?;
        Ok(Self { start: Start::now(&measured)?, measured, calls })
    }

    pub fn of(bench: &Bench, app: &App) -> anyhow::Result<Self> {
        Self::open(Some(&bench.redis), app.measured())
    }

    /// The figures for so many messages, and the share of the machine that others used.
    pub fn close(self, redis: Option<&Redis>, messages: u64) -> anyhow::Result<(Figures, f64)> {
        let used = self.start.end()?;
        let mut figures = cpu_figures(&used, messages);
        for (name, group) in
            [("server_rss", Group::Server), ("worker_rss", Group::Worker), ("runners_rss", Group::Runners), ("redis_rss", Group::Redis)]
        {
            figures.insert(name, self.measured.peak(group) as f64);
        }
        if let (Some(before), Some(redis)) = (self.calls, redis) {
            let after = redis.calls()?;
            let of = |name: &str| after.get(name).unwrap_or(&0) - before.get(name).unwrap_or(&0);
            let all: u64 = after.keys().map(|name| of(name)).sum();
            figures.insert("redis_commands", all.saturating_sub(of("info")) as f64 / per(messages));
            figures.insert("redis_xadd", of("xadd") as f64 / per(messages));
            if of("xreadgroup") > 0 {
                figures.insert("batch", messages as f64 / of("xreadgroup") as f64);
            }
        }
        Ok((figures, used.others))
    }
}

/// Rate, and CPU for each message in microseconds.
fn cpu_figures(used: &Used, messages: u64) -> Figures {
    let each = |nanoseconds: u64| nanoseconds as f64 / 1e3 / per(messages);
    Figures::from([
        ("rate", messages as f64 / (used.elapsed as f64 / 1e9)),
        ("cpu_us", each(used.all())),
        ("server_us", each(used.group(Group::Server))),
        ("worker_us", each(used.group(Group::Worker))),
        ("runners_us", each(used.group(Group::Runners))),
        ("redis_us", each(used.group(Group::Redis))),
        ("generator_us", each(used.own)),
        ("others", used.others),
    ])
}

/// Adds p50, p99, p99.9 and the longest.
pub fn add_latency(figures: &mut Figures, latency: &Histogram) {
    for (name, share) in [("p50_us", 0.5), ("p99_us", 0.99), ("p999_us", 0.999)] {
        figures.insert(name, latency.quantile_us(share));
    }
    figures.insert("max_us", latency.max_us());
}

/// A count to divide by.
pub fn per(count: u64) -> f64 {
    count.max(1) as f64
}

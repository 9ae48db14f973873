//! `sweep`: open loops of rising rates until they saturate, for the plot.

use anyhow::Context;

use crate::app::{App, Kind, Setup};
use crate::bench::Bench;
use crate::open::Saturated;
use crate::scenario::trip::open;

/// Each rate is so many times the one before.
const STEP: f64 = 1.5;
const FIRST: f64 = 500.0;
/// A p99 beyond this is saturation, in microseconds.
const SATURATED_US: f64 = 500e3;
/// How its rows begin; the rate follows.
pub const KINDS: [Kind; 4] = [Kind::RedisRunners, Kind::RedisInside, Kind::MemoryInside, Kind::MemoryRunners];

pub fn run(bench: &mut Bench) -> anyhow::Result<()> {
    for kind in KINDS {
        let mut rate = FIRST;
        loop {
            // Each on an app of its own: what a saturated one has left to do is not the next one's.
            let app = App::start(&bench.bins(), &bench.redis, Setup::of(kind))?;
            let figures = match open(bench, &app, rate) {
                Err(error) if error.is::<Saturated>() => break,
                other => other.with_context(|| format!("{} at {rate:.0}/s", kind.name()))?,
            };
            let is_saturated = figures.get("p99_us").is_some_and(|p99| *p99 > SATURATED_US);
            bench.add("sweep", format!("{} {rate:.0}/s", kind.name()), figures);
            drop(app);
            bench.redis.flush()?;
            if is_saturated || rate > bench.pick(FIRST, f64::MAX, f64::MAX) {
                break;
            }
            rate *= STEP;
        }
        bench.redis.flush()?;
    }
    Ok(())
}

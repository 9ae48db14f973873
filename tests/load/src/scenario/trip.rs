//! `trip`: a message from a client through everything and its answer back, closed and open loops, for each way it can go.

use std::time::Duration;

use anyhow::Context;

use crate::app::{App, Kind, Setup};
use crate::bench::{Bench, Figures, Scale, Window, add_latency};
use crate::closed::Closed;
use crate::net::Net;
use crate::open::{BEHIND_SECONDS_MAX, Open, Saturated, Span};
use crate::register::Register;

/// One load.
#[derive(Debug, Clone, Copy)]
pub enum Load {
    /// Connections, and unanswered messages of each.
    Closed(usize, usize),
    /// Messages a second over 100 connections.
    Open(f64),
    /// Half of what `W1` reached.
    Half,
}

/// 100 connections with one message each on its way.
pub const W1: Load = Load::Closed(100, 1);
/// 100 connections with 16 messages each on their way.
pub const W16: Load = Load::Closed(100, 16);
const ALL: [Load; 7] = [Load::Closed(1, 1), W1, W16, Load::Closed(50, 32), Load::Open(1_000.0), Load::Open(10_000.0), Load::Half];
const QUICK: [Load; 6] = [Load::Closed(1, 1), W1, W16, Load::Open(1_000.0), Load::Open(10_000.0), Load::Half];
/// For the ways that are only compared.
const FEW: [Load; 3] = [Load::Closed(1, 1), W1, W16];
/// To look at all processes takes some milliseconds, which count for no latency.
pub const OPENING: Duration = Duration::from_millis(50);
/// For answers that are still on their way.
const CLOSING: Duration = Duration::from_millis(50);
/// Connections of the open loops.
const CONNECTIONS: usize = 100;

impl Load {
    pub fn name(self) -> String {
        match self {
            Self::Closed(100, in_flight) => format!("W{in_flight}"),
            Self::Closed(connections, in_flight) => format!("{connections} × {in_flight}"),
            Self::Open(rate) => format!("{rate:.0}/s"),
            Self::Half => "half of W1".to_owned(),
        }
    }
}

pub fn run(bench: &mut Bench) -> anyhow::Result<()> {
    for kind in [Kind::RedisRunners, Kind::RedisInside, Kind::MemoryInside, Kind::MemoryRunners] {
        let loads: &[Load] = match (bench.scale, kind) {
            (Scale::Full, _) => &ALL,
            (Scale::Quick, Kind::RedisRunners) => &QUICK,
            _ => &FEW,
        };
        let loads = if bench.scale == Scale::Smoke && kind == Kind::RedisRunners { &QUICK } else { loads };
        measure(bench, kind, loads).with_context(|| kind.name().to_owned())?;
    }
    Ok(())
}

fn measure(bench: &mut Bench, kind: Kind, loads: &[Load]) -> anyhow::Result<()> {
    let mut app = App::start(&bench.bins(), &bench.redis, Setup::of(kind))?;
    let mut of_w1 = 0.0;
    for load in loads {
        let figures = match load {
            Load::Closed(connections, in_flight) => closed(bench, &app, *connections, *in_flight),
            Load::Open(rate) => open(bench, &app, bench.pick(rate.min(1_000.0), *rate, *rate)),
            Load::Half => open(bench, &app, of_w1 / 2.0),
        };
        let figures = match figures {
            Err(error) if error.is::<Saturated>() => {
                eprintln!("{} {}: {error:#}", kind.name(), load.name());
                // It has much to do yet, which is not the next load's.
                app = App::start(&bench.bins(), &bench.redis, Setup::of(kind))?;
                Figures::from([("p99_us", BEHIND_SECONDS_MAX * 1e6)])
            }
            other => other.with_context(|| load.name())?,
        };
        if matches!(load, Load::Closed(100, 1)) {
            of_w1 = figures.get("rate").copied().unwrap_or(0.0);
        }
        bench.add("trip", format!("{} {}", kind.name(), load.name()), figures);
    }
    drop(app);
    bench.redis.flush()
}

/// One closed loop against a running app.
pub fn closed(bench: &mut Bench, app: &App, connections: usize, in_flight: usize) -> anyhow::Result<Figures> {
    let mut net = clients(app, connections)?;
    let mut load = Closed::new(connections, in_flight);
    load.start(&mut net)?;
    load.run(&mut net, bench.warm_up())?;
    let figures = bench.undisturbed(|bench| {
        let window = Window::of(bench, app)?;
        load.clear();
        // What came while the window was opened waited for that.
        load.run(&mut net, OPENING)?;
        load.latency.clear();
        load.run(&mut net, bench.window())?;
        let (mut figures, others) = window.close(Some(&bench.redis), load.answers)?;
        add_latency(&mut figures, &load.latency);
        Ok((figures, others))
    })?;
    load.finish(&mut net)?;
    Ok(figures)
}

/// One open loop against a running app.
pub fn open(bench: &mut Bench, app: &App, rate: f64) -> anyhow::Result<Figures> {
    let mut net = clients(app, CONNECTIONS)?;
    let mut load = Open::new(CONNECTIONS, rate);
    let mut until = load.start + nanoseconds(bench.warm_up());
    load.run(&mut net, until)?;
    let figures = bench.undisturbed(|bench| {
        let window = Window::of(bench, app)?;
        let before = load.answers;
        load.run(&mut net, until + nanoseconds(OPENING))?;
        let from = until + nanoseconds(OPENING);
        until = from + nanoseconds(bench.window());
        load.spans = vec![Span::new(from, until)];
        load.lag.clear();
        load.run(&mut net, until)?;
        let (figures, others) = window.close(Some(&bench.redis), load.answers - before)?;
        // What was sent last in the window may still be on its way.
        until += nanoseconds(CLOSING);
        load.run(&mut net, until)?;
        let mut figures = figures;
        if let Some(span) = load.spans.first() {
            add_latency(&mut figures, &span.latency);
        }
        figures.insert("lag_p99_us", load.lag.quantile_us(0.99));
        Ok((figures, others))
    })?;
    load.finish(&mut net)?;
    Ok(figures)
}

/// Registered clients, spread over the servers.
pub fn clients(app: &App, count: usize) -> anyhow::Result<Net> {
    let (mut net, mut register) = (Net::new()?, Register::new());
    let servers = app.addresses.len();
    for (number, address) in app.addresses.iter().enumerate() {
        register.connect(&mut net, *address, (count + servers - 1 - number) / servers)?;
    }
    Ok(net)
}

fn nanoseconds(time: Duration) -> u64 {
    time.as_nanos() as u64
}

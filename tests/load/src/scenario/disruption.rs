//! `reload` and `crash`: an even load, and meanwhile the plugin's library is replaced, or its runner killed. Nothing may be lost, and the second it happens in is shown.

use std::fs;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::Signal;

use crate::app::{App, Kind, Setup};
use crate::bench::{Bench, Figures, add_latency};
use crate::clock::{self, SECOND};
use crate::histogram::Histogram;
use crate::open::{Open, Span};
use crate::procs::signal;
use crate::scenario::trip::{OPENING, clients};

const RATE: f64 = 2_000.0;
const CONNECTIONS: usize = 100;
/// Until the new runner must be there.
const PATIENCE: Duration = Duration::from_secs(30);

/// What happens, made ready beforehand so that it takes the generator no time.
type Act = Box<dyn FnOnce() -> anyhow::Result<()>>;

pub fn reload(bench: &mut Bench) -> anyhow::Result<()> {
    disrupt(bench, "reload", |app, number| {
        // Bytes behind its end make another library of it, with the same code.
        let mut bytes = fs::read(app.library())?;
        bytes.extend_from_slice(format!("build {number}").as_bytes());
        let (new, library) = (app.library().with_extension("new"), app.library());
        fs::write(&new, bytes)?;
        Ok(Box::new(move || fs::rename(&new, &library).context("replacing the library")))
    })
}

pub fn crash(bench: &mut Bench) -> anyhow::Result<()> {
    disrupt(bench, "crash", |app, _| {
        let runner = *app.worker_runners().first().context("the worker has no runner")?;
        Ok(Box::new(move || signal(runner, Signal::KILL)))
    })
}

fn disrupt(bench: &mut Bench, scenario: &'static str, prepare: fn(&App, usize) -> anyhow::Result<Act>) -> anyhow::Result<()> {
    let times = bench.pick(1, 2, 5);
    let (steady, affected) = bench.undisturbed(|bench| measure(bench, times, prepare))?;
    bench.add(scenario, "steady", steady);
    bench.add(scenario, "the second it happens in", affected);
    bench.redis.flush()
}

fn measure(bench: &Bench, times: usize, prepare: fn(&App, usize) -> anyhow::Result<Act>) -> anyhow::Result<((Figures, Figures), f64)> {
    let app = App::start(&bench.bins(), &bench.redis, Setup::of(Kind::RedisRunners))?;
    let mut net = clients(&app, CONNECTIONS)?;
    let mut load = Open::new(CONNECTIONS, RATE);
    let mut until = load.start + bench.warm_up().as_nanos() as u64;
    load.run(&mut net, until)?;
    let start = crate::usage::Start::now(&app.measured())?;
    let (mut steady, mut affected) = (Histogram::new(), Histogram::new());
    for number in 0..times {
        let (before, act) = (app.worker_runners(), prepare(&app, number)?);
        until = clock::now() + OPENING.as_nanos() as u64;
        load.run(&mut net, until)?;
        load.spans = vec![Span::new(until, until + SECOND), Span::new(until + SECOND, until + 2 * SECOND)];
        until += SECOND;
        load.run(&mut net, until)?;
        act()?;
        until += SECOND;
        load.run(&mut net, until)?;
        let end = clock::now() + PATIENCE.as_nanos() as u64;
        while app.worker_runners().iter().all(|runner| before.contains(runner)) {
            ensure!(clock::now() < end, "no new runner came within {PATIENCE:?}");
            until += SECOND / 10;
            load.run(&mut net, until)?;
        }
        // What belongs to the second may be answered after it.
        until += SECOND / 2;
        load.run(&mut net, until)?;
        steady.merge(&load.spans[0].latency);
        affected.merge(&load.spans[1].latency);
    }
    let others = start.end()?.others;
    load.finish(&mut net)?;
    let figures = |latency: &Histogram| {
        let mut figures = Figures::new();
        add_latency(&mut figures, latency);
        figures
    };
    Ok(((figures(&steady), figures(&affected)), others_without_new_runners(others)))
}

/// Runners that come and go are not among those whose CPU is known; at this load they use less than this of the machine.
fn others_without_new_runners(others: f64) -> f64 {
    (others - 0.1).max(0.0)
}

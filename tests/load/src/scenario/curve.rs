//! `curve`: how rate and CPU change with workers, servers, connections, and messages that wait already.

use anyhow::Context;

use crate::app::{App, Kind, Setup};
use crate::backlog::Backlog;
use crate::bench::{Bench, Figures, Window};
use crate::clock;
use crate::scenario::trip::{clients, closed};

/// Connections, and unanswered messages of all of them together.
const CONNECTIONS: usize = 100;
const UNANSWERED: usize = 1_600;

pub fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let processes = [(1, 1), (1, 2), (1, 4), (2, 1), (2, 2)];
    for (servers, workers) in processes {
        let setup = Setup { servers, workers, ..Setup::of(Kind::RedisRunners) };
        row(bench, format!("{}, {}, W16", counted(servers, "server"), counted(workers, "worker")), setup, CONNECTIONS)?;
    }
    for connections in bench.pick(vec![10, 50], vec![10, 100, 1_000], vec![10, 100, 1_000, 10_000]) {
        row(bench, format!("{connections} × {}", in_flight(connections)), Setup::of(Kind::RedisRunners), connections)?;
    }
    for jobs in bench.pick(vec![500], vec![1_000, 10_000, 100_000], vec![1_000, 10_000, 100_000, 1_000_000]) {
        let figures = bench.undisturbed(|bench| drain(bench, jobs)).with_context(|| format!("{jobs} queued"))?;
        bench.add("curve", format!("{jobs} queued, then a worker"), figures);
        bench.redis.flush()?;
    }
    Ok(())
}

fn row(bench: &mut Bench, name: String, setup: Setup, connections: usize) -> anyhow::Result<()> {
    let app = App::start(&bench.bins(), &bench.redis, setup)?;
    let figures = closed(bench, &app, connections, in_flight(connections)).with_context(|| name.clone())?;
    bench.add("curve", name, figures);
    drop(app);
    bench.redis.flush()
}

fn in_flight(connections: usize) -> usize {
    (UNANSWERED / connections).max(1)
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Everything is stored first; from the worker's start on it is worked off.
fn drain(bench: &Bench, jobs: usize) -> anyhow::Result<(Figures, f64)> {
    let mut app = App::start(&bench.bins(), &bench.redis, Setup { workers: 0, ..Setup::of(Kind::RedisRunners) })?;
    let mut net = clients(&app, CONNECTIONS)?;
    let mut backlog = Backlog::new(CONNECTIONS, jobs);
    backlog.store(&mut net)?;
    app.start_worker()?;
    let (window, started) = (Window::of(bench, &app)?, clock::now());
    backlog.drain(&mut net)?;
    let seconds = (clock::now() - started) as f64 / 1e9;
    let (mut figures, others) = window.close(Some(&bench.redis), backlog.count())?;
    figures.insert("rate", backlog.count() as f64 / seconds);
    Ok((figures, others))
}

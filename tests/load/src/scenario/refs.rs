//! `refs`: what figures are held against: a bare echo server, Redis by itself, and `redis-benchmark`, and NATS JetStream doing the same.

use std::process::Command;

use anyhow::{Context, ensure};

use crate::bench::{Bench, Figures, Window, add_latency};
use crate::closed::Closed;
use crate::net::Net;
use crate::reference::{echo_server, legs, nats};
use crate::register::Register;
use crate::scenario::trip::OPENING;
use crate::usage::{Group, Measured};

/// Messages in one pipeline.
const BATCHES: [usize; 4] = [1, 4, 16, 128];
/// Connections, unanswered messages of each, and what that is called.
const LOADS: [(usize, usize, &str); 3] = [(1, 1, "1 × 1"), (100, 1, "W1"), (100, 16, "W16")];

pub fn run(bench: &mut Bench) -> anyhow::Result<()> {
    if bench.side > 0 {
        return Ok(()); // They are the same for both.
    }
    for (connections, in_flight, name) in LOADS {
        bare_echo(bench, connections, in_flight, format!("bare echo {name}"), false)?;
    }
    bare_echo(bench, 100, 16, "bare echo W16, TCP_NODELAY".to_owned(), true)?;
    for batch in BATCHES {
        let figures = bench.undisturbed(|bench| {
            let time = bench.window();
            legs::run(&bench.redis.socket(), batch, time / 5)?;
            let window = Window::open(None, Measured(vec![(Group::Redis, bench.redis.pid())]))?;
            let done = legs::run(&bench.redis.socket(), batch, time)?;
            window.close(None, done)
        })?;
        bench.add("refs", format!("Redis legs × {batch}"), figures);
        bench.redis.flush()?;
    }
    for pipeline in [1, 128] {
        let figures = bench.undisturbed(|bench| redis_benchmark(bench, pipeline))?;
        bench.add("refs", format!("redis-benchmark XADD -P {pipeline}"), figures);
        bench.redis.flush()?;
    }
    if nats::is_there() {
        through_nats(bench).context("NATS JetStream")
    } else {
        eprintln!("refs: no NATS JetStream: there is no nats-server (install the package nats-server to have it)");
        Ok(())
    }
}

fn bare_echo(bench: &mut Bench, connections: usize, in_flight: usize, name: String, no_delay: bool) -> anyhow::Result<()> {
    let (process, address) = echo_server::start(no_delay)?;
    let mut net = Net::new()?;
    Register::nowhere().connect(&mut net, address, connections)?;
    let load = Closed::new(connections, in_flight);
    let measured = &Measured(vec![(Group::Server, process.pid())]);
    let figures = drive(bench, &mut net, load, measured).with_context(|| name.clone())?;
    bench.add("refs", name, figures);
    Ok(())
}

/// Server and responder stand where ours have server and worker.
fn through_nats(bench: &mut Bench) -> anyhow::Result<()> {
    for (connections, in_flight, name) in LOADS {
        let nats = nats::start()?;
        let mut net = Net::new()?;
        Register::at_nats().connect(&mut net, nats.address, connections)?;
        let load = Closed::to_nats(connections, in_flight);
        let measured = &Measured(vec![(Group::Server, nats.server.pid()), (Group::Worker, nats.responder.pid())]);
        let figures = drive(bench, &mut net, load, measured).with_context(|| name.to_owned())?;
        bench.add("refs", format!("NATS JetStream {name}"), figures);
    }
    Ok(())
}

fn drive(bench: &mut Bench, net: &mut Net, mut load: Closed, measured: &Measured) -> anyhow::Result<Figures> {
    load.start(net)?;
    load.run(net, bench.warm_up())?;
    let figures = bench.undisturbed(|bench| {
        let window = Window::open(None, measured.clone())?;
        load.clear();
        load.run(net, OPENING)?;
        load.latency.clear();
        load.run(net, bench.window())?;
        let (mut figures, others) = window.close(None, load.answers)?;
        add_latency(&mut figures, &load.latency);
        Ok((figures, others))
    })?;
    load.finish(net)?;
    Ok(figures)
}

/// XADD of as many bytes as a queued message has. Its own CPU counts as the generator's.
fn redis_benchmark(bench: &Bench, pipeline: usize) -> anyhow::Result<(Figures, f64)> {
    let count: u64 = bench.pick(2_000, 50_000, 200_000) * if pipeline == 1 { 1 } else { 4 };
    let data = "x".repeat(320);
    let window = Window::open(None, Measured(vec![(Group::Redis, bench.redis.pid())]))?;
    let output = Command::new("redis-benchmark")
        .arg("-s")
        .arg(bench.redis.socket())
        .args(["-P", &pipeline.to_string(), "-n", &count.to_string(), "--csv", "XADD", "benchmark", "*", "j", &data])
        .output()
        .context("install redis-benchmark (package redis-tools) with your package manager")?;
    ensure!(output.status.success(), "redis-benchmark failed: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    // "test","rps","avg_latency_ms","min","p50","p95","p99","max"; the test's name may hold anything.
    let rate = text.lines().last().and_then(|line| line.rsplit("\",\"").nth(6)).and_then(|rate| rate.parse::<f64>().ok());
    let rate = rate.with_context(|| format!("redis-benchmark said: {text}"))?;
    let (mut figures, others) = window.close(None, count)?;
    figures.insert("rate", rate);
    // The benchmark itself is none of those that are measured; it has one thread.
    let cpus = std::thread::available_parallelism().map_or(1.0, |cpus| cpus.get() as f64);
    Ok((figures, (others - 1.0 / cpus).max(0.0)))
}

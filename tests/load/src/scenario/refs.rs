//! `refs`: what figures are held against: a bare echo server, Redis by itself, and `redis-benchmark`.

use std::process::Command;

use anyhow::{Context, ensure};

use crate::bench::{Bench, Window, add_latency};
use crate::closed::Closed;
use crate::net::Net;
use crate::reference::{echo_server, legs};
use crate::register::Register;
use crate::usage::{Group, Measured};

/// Messages in one pipeline.
const BATCHES: [usize; 4] = [1, 4, 16, 128];

pub fn run(bench: &mut Bench) -> anyhow::Result<()> {
    if bench.side > 0 {
        return Ok(()); // They are the same for both.
    }
    for (connections, in_flight, name) in [(1, 1, "1 × 1"), (100, 1, "W1"), (100, 16, "W16")] {
        bare_echo(bench, connections, in_flight, name).with_context(|| format!("bare echo {name}"))?;
    }
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
    Ok(())
}

fn bare_echo(bench: &mut Bench, connections: usize, in_flight: usize, name: &str) -> anyhow::Result<()> {
    let (process, address) = echo_server::start()?;
    let mut net = Net::new()?;
    Register::nowhere().connect(&mut net, address, connections)?;
    let mut load = Closed::new(connections, in_flight);
    load.start(&mut net)?;
    load.run(&mut net, bench.warm_up())?;
    let figures = bench.undisturbed(|bench| {
        let window = Window::open(None, Measured(vec![(Group::Server, process.pid())]))?;
        load.clear();
        load.run(&mut net, bench.window())?;
        let (mut figures, others) = window.close(None, load.answers)?;
        add_latency(&mut figures, &load.latency);
        Ok((figures, others))
    })?;
    load.finish(&mut net)?;
    bench.add("refs", format!("bare echo {name}"), figures);
    Ok(())
}

/// XADD of as many bytes as a queued message has. Its own CPU counts as the generator's.
fn redis_benchmark(bench: &Bench, pipeline: usize) -> anyhow::Result<(crate::bench::Figures, f64)> {
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

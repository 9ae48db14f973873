//! `idle`: connections that register and then say nothing: how fast they come, what each costs in memory, and what it costs to keep them.

use std::time::Duration;

use anyhow::ensure;

use crate::app::{App, Kind, Setup};
use crate::bench::{Bench, Figures, Window, per};
use crate::clock;
use crate::net::Net;
use crate::register::Register;
use crate::usage::{Group, Measured, memory};

/// A server allocates much of what it needs for the first ones only.
const FIRST: usize = 100;
/// For what the server does after a registration.
const SETTLE: Duration = Duration::from_millis(1_000);

pub fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let count = bench.pick(200, 10_000, 10_000);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    ensure!(limit > count as u64 + 200, "{count} connections need `ulimit -n {}`; it is {limit}", count + 200);
    let figures = bench.undisturbed(|bench| measure(bench, count))?;
    bench.add("idle", format!("{count} connections"), figures);
    bench.redis.flush()
}

fn measure(bench: &Bench, count: usize) -> anyhow::Result<(Figures, f64)> {
    let app = App::start(&bench.bins(), &bench.redis, Setup::of(Kind::RedisRunners))?;
    let (mut net, mut register) = (Net::new()?, Register::new());
    register.connect(&mut net, app.addresses[0], FIRST)?;
    idle_for(&mut net, &mut register, SETTLE / 2)?;
    let before = resident(&app.measured());
    let window = Window::of(bench, &app)?;
    let started = clock::now();
    register.connect(&mut net, app.addresses[0], count)?;
    let seconds = (clock::now() - started) as f64 / 1e9;
    let (mut figures, others) = window.close(Some(&bench.redis), count as u64)?;
    figures.insert("rate", count as f64 / seconds);
    figures.remove("batch");
    idle_for(&mut net, &mut register, SETTLE)?;
    figures.insert("connection_bytes", resident(&app.measured()).saturating_sub(before) as f64 / per(count as u64));
    let window = Window::of(bench, &app)?;
    let time = bench.window();
    idle_for(&mut net, &mut register, time)?;
    let (idle, others_idle) = window.close(Some(&bench.redis), count as u64)?;
    let idle_us = idle.get("cpu_us").copied().unwrap_or(0.0) / time.as_secs_f64();
    figures.insert("idle_us", idle_us);
    Ok((figures, others.max(others_idle)))
}

fn resident(measured: &Measured) -> u64 {
    measured.pids(Group::Server).map(|pid| memory(pid, "VmRSS")).sum()
}

fn idle_for(net: &mut Net, register: &mut Register, time: Duration) -> anyhow::Result<()> {
    let end = clock::now() + time.as_nanos() as u64;
    while clock::now() < end {
        net.turn(Some(Duration::from_millis(20)), register)?;
    }
    Ok(())
}

//! The whole life of a job (stored, taken, acknowledged) in one process: CPU of Redis and of our side, and what 64 partitions cost over one.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use plugsocket::wire::ids::NodeId;

use crate::Bench;
use crate::batcher::xadd;
use crate::load::{Order, SESSIONS, Setup, Source, Window, nothing_left, offer_all, own_cpu_us, runtime, take_all};
use crate::redis::per;
use crate::report::{Figure, Reference, Row, Target, median};

const MANY: u32 = 64;
const COMMANDS: [&str; 4] = ["xadd", "xreadgroup", "xdel", "xack"];

struct Cycle {
    rate: f64,
    redis_us: f64,
    own_us: f64,
    /// Commands that Redis got with one read.
    batch: f64,
    /// Calls of each of [`COMMANDS`] and microseconds inside them, per job.
    commands: Vec<(f64, f64)>,
}

pub fn against_xadd(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let count = bench.pick(5_000, 100_000, 200_000);
    let (mut cycles, mut references) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds() {
        cycles.push(measure(bench, MANY, count)?);
        references.push(xadd(bench, count)?.redis_us);
        bench.redis.flush()?;
    }
    let ratio = median(cycles.iter().zip(&references).map(|(cycle, reference)| cycle.redis_us / reference).collect());
    let redis_us = median(cycles.iter().map(|cycle| cycle.redis_us).collect());
    let notes = format!(
        "{:.0} jobs/s, {:.0} commands per read of Redis; inside {}",
        median(cycles.iter().map(|cycle| cycle.rate).collect()),
        median(cycles.iter().map(|cycle| cycle.batch).collect()),
        inside(&cycles)
    );
    Ok(vec![
        Row::ratio(
            "stored, taken, acknowledged: CPU of Redis",
            Figure::new(redis_us, "µs"),
            Reference { what: "one XADD of redis-benchmark -P 128", figure: Figure::new(median(references), "µs") },
            ratio,
            Target::AtMost(3.0),
        )
        .noting(notes),
        Row::ratio(
            "the same: CPU of our side",
            Figure::new(median(cycles.iter().map(|cycle| cycle.own_us).collect()), "µs"),
            Reference { what: "Redis's for the same", figure: Figure::new(redis_us, "µs") },
            median(cycles.iter().map(|cycle| cycle.own_us / cycle.redis_us).collect()),
            Target::AtMost(1.0),
        ),
    ])
}

/// What the commands themselves take of Redis's CPU, and how many jobs share a call.
fn inside(cycles: &[Cycle]) -> String {
    let of = |index: usize, figure: fn(&(f64, f64)) -> f64| {
        median(cycles.iter().filter_map(|cycle| cycle.commands.get(index).map(figure)).collect())
    };
    let text =
        |(index, name): (usize, &&str)| format!("{name} {:.2} µs ({:.1} jobs a call)", of(index, |it| it.1), 1.0 / of(index, |it| it.0));
    COMMANDS.iter().enumerate().map(text).collect::<Vec<_>>().join(", ")
}

pub fn partitions(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let count = bench.pick(5_000, 100_000, 200_000);
    let (mut many, mut one) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds() {
        many.push(measure(bench, MANY, count)?);
        one.push(measure(bench, 1, count)?);
    }
    let of = |all: &[Cycle], figure: fn(&Cycle) -> f64| median(all.iter().map(figure).collect());
    let ratio = |figure: fn(&Cycle) -> f64| median(many.iter().zip(&one).map(|(many, one)| figure(many) / figure(one)).collect());
    let row = |what, unit, figure: fn(&Cycle) -> f64| {
        let reference = Reference { what: "with 1 partition", figure: Figure::new(of(&one, figure), unit) };
        Row::ratio(what, Figure::new(of(&many, figure), unit), reference, ratio(figure), Target::AtMost(1.15))
    };
    Ok(vec![
        row("64 partitions: CPU of Redis per job", "µs", |cycle| cycle.redis_us),
        row("64 partitions: time per job", "µs", |cycle| 1e6 / cycle.rate).noting(format!(
            "CPU of our side {:.2} µs, with 1 partition {:.2} µs; inside {}; with 1 partition {}",
            of(&many, |cycle| cycle.own_us),
            of(&one, |cycle| cycle.own_us),
            inside(&many),
            inside(&one)
        )),
    ])
}

fn measure(bench: &Bench, partitions: u32, count: usize) -> anyhow::Result<Cycle> {
    let cycle = runtime()?.block_on(run(bench, partitions, count))?;
    bench.redis.flush()?;
    Ok(cycle)
}

async fn run(bench: &Bench, partitions: u32, count: usize) -> anyhow::Result<Cycle> {
    let setup = Setup::open(bench, partitions, |_| {}).await?;
    let consumer = setup.queue.inbox.consume(&NodeId::random()?).await?;
    let (mut source, mut order) = (Source::new(SESSIONS)?, Order::default());
    let warm = count / 10;
    let window = Arc::new(Window::of(bench.window));
    let mut marks = None;
    for count in [warm, count] {
        let stats = |name| bench.redis.info("stats", name);
        let counts = (stats("total_commands_processed")?, stats("total_reads_processed")?, bench.redis.calls(&COMMANDS)?);
        marks = Some((counts, bench.redis.cpu_us()?, own_cpu_us(), Instant::now()));
        let (queue, offers) = (setup.queue.clone(), Arc::clone(&window));
        let offering = async move {
            let stores = offer_all(&queue, &mut source, count, &offers).await?;
            stores.wait(count).await?;
            anyhow::Ok(source)
        };
        let tracker = tokio_util::task::TaskTracker::new();
        let offering = tracker.spawn(offering);
        take_all(&*consumer, count, &window, &mut order, |_| {}).await?;
        source = offering.await??;
    }
    let ((commands, reads, inside), redis, own, started) = marks.context("no run")?;
    let seconds = started.elapsed().as_secs_f64();
    let cycle = Cycle {
        rate: per(count) / seconds,
        redis_us: (bench.redis.cpu_us()? - redis) / per(count),
        own_us: (own_cpu_us() - own) / per(count),
        batch: (bench.redis.info("stats", "total_commands_processed")? - commands)
            / (bench.redis.info("stats", "total_reads_processed")? - reads).max(1.0),
        commands: bench
            .redis
            .calls(&COMMANDS)?
            .iter()
            .zip(&inside)
            .map(|(after, before)| ((after.0 - before.0) / per(count), (after.1 - before.1) / per(count)))
            .collect(),
    };
    consumer.leave().await;
    nothing_left(bench, &setup.app, partitions)?;
    setup.close().await?;
    Ok(cycle)
}

//! Storing jobs from one process, as a server does, against `redis-benchmark -P 128` XADD with the same bytes.

use std::time::Instant;

use crate::Bench;
use crate::load::{Setup, Source, Window, offer_all, own_cpu_us, runtime};
use crate::redis::{Measured, per};
use crate::report::{Figure, Reference, Row, Target, median};

const PARTITIONS: u32 = 64;

pub fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let count = bench.pick(5_000, 200_000, 400_000);
    let (mut ours, mut theirs, mut own_us) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.rounds() {
        let (measured, own) = runtime()?.block_on(store(bench, count))?;
        ours.push(measured);
        own_us.push(own);
        bench.redis.flush()?;
        theirs.push(xadd(bench, count)?);
        bench.redis.flush()?;
    }
    let rates = |all: &[Measured]| all.iter().map(|measured| measured.rate).collect::<Vec<_>>();
    let ratio = median(ours.iter().zip(&theirs).map(|(ours, theirs)| ours.rate / theirs.rate).collect());
    let redis_us = |all: &[Measured]| median(all.iter().map(|measured| measured.redis_us).collect());
    Ok(vec![
        Row::ratio(
            "jobs stored by one process",
            Figure::new(median(rates(&ours)), "/s"),
            Reference { what: "redis-benchmark -P 128 XADD", figure: Figure::new(median(rates(&theirs)), "/s") },
            ratio,
            Target::AtLeast(0.6),
        )
        .noting(format!(
            "CPU per job: ours {:.2} µs, Redis {:.2} µs (reference {:.2} µs)",
            median(own_us),
            redis_us(&ours),
            redis_us(&theirs)
        )),
    ])
}

/// `redis-benchmark` storing the same bytes.
pub fn xadd(bench: &Bench, count: usize) -> anyhow::Result<Measured> {
    let command = Source::new(1)?.xadd();
    bench.redis.benchmark(count, &command.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

async fn store(bench: &Bench, count: usize) -> anyhow::Result<(Measured, f64)> {
    let setup = Setup::open(bench, PARTITIONS, |_| {}).await?;
    let mut source = Source::new(crate::load::SESSIONS)?;
    let window = Window::unbounded();
    offer_all(&setup.queue, &mut source, count / 20, &window).await?.wait(count / 20).await?;
    let (redis, own, started) = (bench.redis.cpu_us()?, own_cpu_us(), Instant::now());
    offer_all(&setup.queue, &mut source, count, &window).await?.wait(count).await?;
    let seconds = started.elapsed().as_secs_f64();
    let (redis_us, own_us) = ((bench.redis.cpu_us()? - redis) / per(count), (own_cpu_us() - own) / per(count));
    setup.close().await?;
    Ok((Measured { rate: per(count) / seconds, redis_us }, own_us))
}

//! A million queued jobs: what each takes in Redis, whether the drain is as fast at its end as at its beginning, and our memory meanwhile.

use std::time::Instant;

use anyhow::bail;
use plugsocket::wire::ids::NodeId;

use crate::Bench;
use crate::load::{Order, SESSIONS, Setup, Source, Window, nothing_left, offer_all, own_cpu_us, runtime, take_all};
use crate::redis::per;
use crate::report::{Figure, Reference, Row, Target};

const PARTITIONS: u32 = 64;

pub fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let count = bench.pick(10_000, 200_000, 1_000_000);
    runtime()?.block_on(drain(bench, count))
}

async fn drain(bench: &Bench, count: usize) -> anyhow::Result<Vec<Row>> {
    let setup = Setup::open(bench, PARTITIONS, |_| {}).await?;
    let mut source = Source::new(SESSIONS)?;
    let (memory, resident) = (bench.redis.info("memory", "used_memory")?, resident_mib()?);
    offer_all(&setup.queue, &mut source, count, &Window::unbounded()).await?.wait(count).await?;
    let per_job = (bench.redis.info("memory", "used_memory")? - memory) / per(count);
    let stored = resident_mib()?;

    let consumer = setup.queue.inbox.consume(&NodeId::random()?).await?;
    let now = || anyhow::Ok(Mark { at: Instant::now(), redis_us: bench.redis.cpu_us()?, own_us: own_cpu_us() });
    let (mut order, mut most, mut ticks) = (Order::default(), stored, 0_usize);
    let mut marks = vec![(0, now()?)];
    take_all(&*consumer, count, &Window::unbounded(), &mut order, |done| {
        ticks += 1;
        if ticks % 64 == 0 {
            most = most.max(resident_mib().unwrap_or(0.0));
        }
        let tenths = [1, 9, 10].map(|tenth| count / 10 * tenth);
        if tenths.get(marks.len() - 1).is_some_and(|next| done >= *next) {
            marks.extend(now().ok().map(|mark| (done, mark)));
        }
    })
    .await?;
    consumer.leave().await;
    nothing_left(bench, &setup.app, PARTITIONS)?;
    setup.close().await?;

    let [start, first, ninth, end] = &marks[..] else { bail!("the drain could not be measured") };
    let cost = |from: &(usize, Mark), to: &(usize, Mark), of: fn(&Mark) -> f64| (of(&to.1) - of(&from.1)) / per(to.0 - from.0);
    let redis = (cost(start, first, |mark| mark.redis_us), cost(ninth, end, |mark| mark.redis_us));
    let rate = |from: &(usize, Mark), to: &(usize, Mark)| per(to.0 - from.0) / (to.1.at - from.1.at).as_secs_f64();
    Ok(vec![
        Row::figure("Redis memory per queued job", Figure::new(per_job, "bytes"))
            .noting(format!("{count} jobs with 100 bytes of data each")),
        Row::ratio(
            "taken and acknowledged in the last tenth of the drain: CPU of Redis per job",
            Figure::new(redis.1, "µs"),
            Reference { what: "in the first tenth", figure: Figure::new(redis.0, "µs") },
            redis.1 / redis.0,
            Target::None,
        )
        .noting(format!(
            "our CPU {:.2} and {:.2} µs; {:.0} jobs/s at first, {:.0} at last",
            cost(ninth, end, |mark| mark.own_us),
            cost(start, first, |mark| mark.own_us),
            rate(start, first),
            rate(ninth, end)
        )),
        Row::figure("most memory of our process while draining", Figure::new(most, "MiB"))
            .noting(format!("{resident:.0} MiB before, {stored:.0} MiB when all were stored")),
    ])
}

/// A moment of the drain.
struct Mark {
    at: Instant,
    redis_us: f64,
    own_us: f64,
}

/// Memory of this process.
fn resident_mib() -> anyhow::Result<f64> {
    let output = std::process::Command::new("ps").args(["-o", "rss=", "-p", &std::process::id().to_string()]).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse::<f64>()? / 1024.0)
}

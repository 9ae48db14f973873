//! What one message takes to an idle worker when nothing else is on its way.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use plugsocket::queue::Verdict;
use plugsocket::wire::ids::NodeId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time;
use tokio_util::task::TaskTracker;

use crate::Bench;
use crate::load::{PATIENCE, Setup, Source, TAKE_MAX, runtime};
use crate::report::{Figure, Reference, Row, Target, median};

/// Long enough for every task and thread to fall asleep.
pub const IDLE: Duration = Duration::from_millis(2);

pub fn wakeup(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let count = bench.pick(20, 400, 2_000);
    let times = runtime()?.block_on(wake(bench, 64, count))?;
    let one = median(runtime()?.block_on(wake(bench, 1, count))?.ours);
    let (ours, theirs, blocking) = (median(times.ours), median(times.theirs), median(times.blocking));
    Ok(vec![
        Row::ratio(
            "from offered to taken by an idle worker, p50",
            Figure::new(ours, "µs"),
            Reference { what: "one XADD round trip in the same runtime", figure: Figure::new(theirs, "µs") },
            ours / theirs,
            Target::AtMost(2.0),
        )
        .noting(format!("{one:.0} µs with 1 partition; an XADD of a blocking thread: {blocking:.0} µs")),
    ])
}

fn micros(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}

/// Taken in turn, in microseconds.
#[derive(Default)]
struct Times {
    /// Jobs, from offer to take.
    ours: Vec<f64>,
    /// XADDs of a task of the runtime.
    theirs: Vec<f64>,
    /// XADDs of a thread that waits in the socket.
    blocking: Vec<f64>,
}

async fn wake(bench: &Bench, partitions: u32, count: usize) -> anyhow::Result<Times> {
    let setup = Setup::open(bench, partitions, |_| {}).await?;
    let consumer = setup.queue.inbox.consume(&NodeId::random()?).await?;
    let (sender, mut taken) = tokio::sync::mpsc::unbounded_channel();
    let tracker = TaskTracker::new();
    let worker = consumer.clone();
    let taking = tracker.spawn(async move {
        let mut left = count;
        while left > 0 {
            for job in worker.take(TAKE_MAX).await? {
                let now = Instant::now();
                left -= 1;
                sender.send((job.job.message_id(), now))?;
                worker.settle(job.receipt, Verdict::Done).await?;
            }
        }
        anyhow::Ok(())
    });
    let command = Source::new(1)?.xadd();
    let command = crate::wire::packed(&command.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let (mut source, queue, socket) = (Source::new(count)?, setup.queue.clone(), bench.redis.socket());
    // In a task, as the sessions of a server are.
    let offering = tracker.spawn(async move {
        let (mut asynchronous, mut blocking) =
            (tokio::net::UnixStream::connect(&socket).await?, std::os::unix::net::UnixStream::connect(&socket)?);
        let (mut times, mut answer) = (Times::default(), [0; 256]);
        for _ in 0..count {
            time::sleep(IDLE).await;
            let started = Instant::now();
            asynchronous.write_all(&command).await?;
            let read = asynchronous.read(&mut answer).await?;
            times.theirs.push(micros(started));
            ensure!(answer[..read].starts_with(b"$"), "XADD answered {:?}", String::from_utf8_lossy(&answer[..read]));
            time::sleep(IDLE).await;
            let started = Instant::now();
            std::io::Write::write_all(&mut blocking, &command)?;
            let read = std::io::Read::read(&mut blocking, &mut answer)?;
            times.blocking.push(micros(started));
            ensure!(answer[..read].starts_with(b"$"), "XADD answered {:?}", String::from_utf8_lossy(&answer[..read]));
            time::sleep(IDLE).await;
            let job = source.job();
            let id = job.message_id();
            let started = Instant::now();
            ensure!(queue.inbox.offer(job, Box::new(|_| {})).is_ok(), "no room for a single job");
            let (came, at) = time::timeout(PATIENCE, taken.recv()).await?.context("taking ended")?;
            ensure!(came == id, "another job came: {came} instead of {id}");
            times.ours.push(at.duration_since(started).as_secs_f64() * 1e6);
        }
        anyhow::Ok(times)
    });
    let times = offering.await??;
    taking.await??;
    consumer.leave().await;
    setup.close().await?;
    Ok(times)
}

//! Deliveries to the connections of one server, packed by the batcher, against PUBLISH of the same bytes to one subscriber.

use std::time::Instant;

use anyhow::ensure;
use plugsocket::queue::NodeFeed;
use plugsocket::wire::delivery::{Address, Body, Delivery};
use plugsocket::wire::ids::{NodeId, SessionId};
use plugsocket::wire::json::Json;
use plugsocket::wire::packed::{DELIVERIES_HEAD, put_delivery};
use tokio::time;

use crate::Bench;
use crate::load::{PATIENCE, Setup, own_cpu_us, runtime};
use crate::redis::{Measured, per};
use crate::report::{Figure, Reference, Row, Target, median};
use crate::wire::drain;

const SESSIONS: usize = 100;

pub fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let count = bench.pick(5_000, 100_000, 300_000);
    let (mut ours, mut own_us, mut heard, mut unheard) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..bench.rounds() {
        let (measured, own) = runtime()?.block_on(send(bench, count))?;
        ours.push(measured);
        own_us.push(own);
        bench.redis.flush()?;
        let payload = payload()?;
        let command: [&[u8]; 3] = [b"PUBLISH", b"bench", &payload];
        unheard.push(bench.redis.benchmark(count, &command)?);
        let subscriber = drain(&bench.redis.socket(), &[b"SUBSCRIBE", b"bench"])?;
        heard.push(bench.redis.benchmark(count, &command)?);
        bench.redis.wire()?.call(&[b"CLIENT", b"KILL", b"TYPE", b"pubsub"])?;
        ensure!(subscriber.join().is_ok(), "the subscriber failed");
    }
    let redis_us = |all: &[Measured]| median(all.iter().map(|measured| measured.redis_us).collect());
    Ok(vec![
        Row::ratio(
            "deliveries sent and received: CPU of Redis",
            Figure::new(redis_us(&ours), "µs"),
            Reference { what: "PUBLISH of redis-benchmark -P 128, one subscriber", figure: Figure::new(redis_us(&heard), "µs") },
            median(ours.iter().zip(&heard).map(|(ours, heard)| ours.redis_us / heard.redis_us).collect()),
            Target::AtMost(1.1),
        )
        .noting(format!(
            "{:.0}/s, our CPU {:.2} µs; PUBLISH that nobody hears {:.2} µs",
            median(ours.iter().map(|measured| measured.rate).collect()),
            median(own_us),
            redis_us(&unheard)
        )),
    ])
}

fn delivery(session: &SessionId, number: usize) -> anyhow::Result<Delivery> {
    let text = format!("{:>83}", "x");
    let data = Json::encode(&serde_json::json!({ "n": number, "text": text }))?;
    Ok(Delivery::message(Address::Session(session.clone()), "chat_text", data))
}

/// As many bytes as one delivery has, none of them zero, which no argument of `redis-benchmark` can have.
fn payload() -> anyhow::Result<Vec<u8>> {
    let mut packed = DELIVERIES_HEAD.to_vec();
    put_delivery(&mut packed, &delivery(&SessionId::random(&NodeId::random()?)?, 12_345)?);
    Ok(vec![b'x'; packed.len()])
}

async fn send(bench: &Bench, count: usize) -> anyhow::Result<(Measured, f64)> {
    let setup = Setup::open(bench, 1, |_| {}).await?;
    let node = NodeId::random()?;
    let mut feed = setup.queue.presence.open(&node).await?;
    let sessions = (0..SESSIONS).map(|_| SessionId::random(&node)).collect::<Result<Vec<_>, _>>()?;
    let tracker = tokio_util::task::TaskTracker::new();
    let mut result = None;
    for count in [count / 10, count] {
        let (outbox, sessions) = (setup.queue.outbox.clone(), sessions.clone());
        let (redis, own, started) = (bench.redis.cpu_us()?, own_cpu_us(), Instant::now());
        let sending = tracker.spawn(async move {
            for number in 0..count {
                outbox.send(delivery(&sessions[number % SESSIONS], number)?).await?;
            }
            anyhow::Ok(())
        });
        receive(&mut *feed, count).await?;
        sending.await??;
        let seconds = started.elapsed().as_secs_f64();
        let redis_us = (bench.redis.cpu_us()? - redis) / per(count);
        result = Some((Measured { rate: per(count) / seconds, redis_us }, (own_cpu_us() - own) / per(count)));
    }
    feed.close().await;
    setup.close().await?;
    result.ok_or_else(|| anyhow::anyhow!("no run"))
}

/// Receives `count` deliveries, numbered from 0 in this order.
async fn receive(feed: &mut dyn NodeFeed, count: usize) -> anyhow::Result<()> {
    let mut expected = 0;
    while expected < count {
        let deliveries = time::timeout(PATIENCE, feed.receive()).await?;
        for delivery in deliveries.ok_or_else(|| anyhow::anyhow!("the feed ended"))? {
            let Body::Message { data, .. } = &delivery.body else { anyhow::bail!("not what was sent: {delivery:?}") };
            let start = format!("{{\"n\":{expected},");
            ensure!(data.as_bytes().starts_with(start.as_bytes()), "delivery {expected} is missing or late: {delivery:?}");
            expected += 1;
        }
    }
    Ok(())
}

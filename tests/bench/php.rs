//! What one item of PHP takes from its list to its server when nothing else is on its way, against a delivery of our own.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use plugsocket::queue::{Entry, NodeFeed, Queue};
use plugsocket::wire::delivery::{Address, Delivery};
use plugsocket::wire::ids::{NodeId, SessionId};
use plugsocket::wire::json::Json;
use tokio::sync::mpsc;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Bench;
use crate::latency::IDLE;
use crate::load::{PATIENCE, Setup, runtime};
use crate::report::{Figure, Reference, Row, Target, median};

const LIST: &str = "queues:bench_out";
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/bench/push.php");

pub fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let count = bench.pick(20, 400, 2_000);
    let (lists, sends) = runtime()?.block_on(push(bench, count))?;
    let (from_php, beside) = runtime()?.block_on(push_from_php(bench, count))?;
    let row = |what, lists, sends| {
        let (lists, sends) = (median(lists), median(sends));
        let reference = Reference { what: "our own send to received", figure: Figure::new(sends, "µs") };
        Row::ratio(what, Figure::new(lists, "µs"), reference, lists / sends, Target::AtMost(3.0))
    };
    Ok(vec![
        row("from RPUSH to received by its server, p50", lists, sends),
        row("from rPush in a PHP process to received by one of two servers, p50", from_php, beside).noting("from before PHP's json_encode"),
    ])
}

/// Times of PHP items from RPUSH to receipt, and of our own sends in turn with them.
async fn push(bench: &Bench, count: usize) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
    let setup = Setup::open(bench, 1, |options| options.php_lists = vec![LIST.to_owned()]).await?;
    let (session, mut feed) = server(&setup.queue).await?;
    let data = Json::encode(&serde_json::json!({ "text": "x".repeat(80) }))?;
    let item = format!(
        r#"{{"to":{{"connection_id":"{session}"}},"action":"chat_text","data":{},"meta":{{"time":1700000000}}}}"#,
        String::from_utf8_lossy(data.as_bytes())
    );
    let (sender, mut received) = mpsc::unbounded_channel();
    let tracker = TaskTracker::new();
    let receiving = tracker.spawn(async move {
        let mut left = count * 2;
        while left > 0 {
            let deliveries = feed.receive().await.context("the feed ended")?;
            let now = Instant::now();
            left -= deliveries.len();
            sender.send((deliveries.len(), now))?;
        }
        anyhow::Ok(feed)
    });
    let mut wire = bench.redis.wire()?;
    let (mut lists, mut sends) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for number in 0..count * 2 {
        time::sleep(IDLE).await;
        let is_ours = number % 2 == 0;
        let delivery = Delivery::message(Address::Session(session.clone()), "chat_text", data.clone());
        let started = Instant::now();
        if is_ours {
            setup.queue.outbox.send(delivery).await?;
        } else {
            wire.call(&[b"RPUSH", LIST.as_bytes(), item.as_bytes()])?;
        }
        let (came, at) = time::timeout(PATIENCE, received.recv()).await?.context("receiving ended")?;
        ensure!(came == 1, "{came} deliveries came for one");
        let times = if is_ours { &mut sends } else { &mut lists };
        times.push(at.duration_since(started).as_secs_f64() * 1e6);
    }
    receiving.await??.close().await;
    setup.close().await?;
    Ok((lists, sends))
}

/// The system's monotonic clock, which PHP's `hrtime` reads as well.
fn now_ns() -> i128 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn micros_between(began: i128, ended: i128) -> f64 {
    (ended - began) as f64 / 1e3
}

/// A PHP process that pushes when it is told to. Ends with this.
struct Php {
    child: Child,
    orders: ChildStdin,
    said: BufReader<ChildStdout>,
}

impl Php {
    fn start(bench: &Bench, sessions: &[SessionId]) -> anyhow::Result<Self> {
        const MISSING: &str = "php with its Redis extension must be installed (packages php-cli and php-redis)";
        let mut command = Command::new("php");
        command.arg(SCRIPT).arg(bench.redis.socket()).arg(LIST).args(sessions.iter().map(SessionId::as_str));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context(MISSING)?;
        let (orders, said) = (child.stdin.take().context("no pipe to PHP")?, child.stdout.take().context("no pipe from PHP")?);
        let mut php = Self { child, orders, said: BufReader::new(said) };
        let line = php.line()?;
        ensure!(line == "ready", "{MISSING}; it said: {line}");
        Ok(php)
    }

    fn push(&mut self, session: usize) -> anyhow::Result<()> {
        Ok(self.orders.write_all(format!("{session}\n").as_bytes())?)
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        if self.said.read_line(&mut line)? == 0 {
            bail!("PHP has ended: {}", self.child.wait()?);
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Php {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A node with one connection.
async fn server(queue: &Queue) -> anyhow::Result<(SessionId, Box<dyn NodeFeed>)> {
    let node = NodeId::random()?;
    let feed = queue.presence.open(&node).await?;
    let session = SessionId::random(&node)?;
    let entry =
        Entry { session: session.clone(), connection_id: session.to_string(), user_id: None, groups: Vec::new(), identity: "{}".into() };
    queue.presence.enter(&entry, None).await?;
    Ok((session, feed))
}

/// Times of items of a PHP process to two servers in turn, which both serve its list, and of our own sends in turn with them.
async fn push_from_php(bench: &Bench, count: usize) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
    let first = Setup::open(bench, 1, |options| options.php_lists = vec![LIST.to_owned()]).await?;
    let second = Setup::open(bench, 1, |options| (options.app, options.php_lists) = (first.app.clone(), vec![LIST.to_owned()])).await?;
    let (sender, mut received) = mpsc::unbounded_channel();
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let (mut sessions, mut receiving) = (Vec::new(), Vec::new());
    for (index, setup) in [&first, &second].into_iter().enumerate() {
        let (session, mut feed) = server(&setup.queue).await?;
        sessions.push(session);
        let (sender, stop) = (sender.clone(), stop.clone());
        receiving.push(tracker.spawn(async move {
            while let Some(deliveries) = stop.run_until_cancelled(feed.receive()).await {
                let now = now_ns();
                sender.send((index, deliveries.context("the feed ended")?.len(), now))?;
            }
            feed.close().await;
            anyhow::Ok(())
        }));
    }
    let mut php = Php::start(bench, &sessions)?;
    let data = Json::encode(&serde_json::json!({ "text": "x".repeat(80) }))?;
    let (mut lists, mut sends) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for number in 0..count * 2 {
        time::sleep(IDLE).await;
        let (is_ours, server) = (number % 2 == 0, number / 2 % sessions.len());
        let delivery = Delivery::message(Address::Session(sessions[server].clone()), "chat_text", data.clone());
        let asked = now_ns();
        if is_ours {
            first.queue.outbox.send(delivery).await?;
        } else {
            php.push(server)?;
        }
        let (came_to, came, at) = time::timeout(PATIENCE, received.recv()).await?.context("receiving ended")?;
        ensure!((came_to, came) == (server, 1), "{came} deliveries came to server {came_to} for one to server {server}");
        if is_ours {
            sends.push(micros_between(asked, at));
            continue;
        }
        let began: i128 = php.line()?.parse()?;
        ensure!((asked..at).contains(&began), "PHP's clock is another one: {began} is not between {asked} and {at}");
        lists.push(micros_between(began, at));
    }
    stop.cancel();
    for receiving in receiving {
        receiving.await??;
    }
    second.close().await?;
    first.close().await?;
    Ok((lists, sends))
}

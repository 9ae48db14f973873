//! What runners cost end to end: CPU of everything for one round trip from a client through Redis and back, with them and without.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tokio_util::task::TaskTracker;

use crate::call::chat_library;
use crate::load::{PATIENCE, runtime};
use crate::redis::per;
use crate::report::{Figure, Reference, Row, Target, median};
use crate::{Bench, processes};

const CONNECTIONS: usize = 100;
/// Unanswered messages of each.
const IN_FLIGHT: usize = 16;
/// Bytes of data in a message.
const DATA_BYTES: usize = 100;

pub fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let count = bench.pick(CONNECTIONS * IN_FLIGHT * 2, 30_000, 150_000);
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..bench.pick(1, 2, 5) {
        without.push(measure(bench, "in-process", count)?);
        with.push(measure(bench, "process", count)?);
    }
    let of = |trips: &[Trip], figure: fn(&Trip) -> f64| median(trips.iter().map(figure).collect());
    let ratio = median(with.iter().zip(&without).map(|(with, without)| with.cpu() / without.cpu()).collect());
    let (with_us, without_us) = (of(&with, Trip::cpu), of(&without, Trip::cpu));
    let parts = |trips: &[Trip]| {
        format!(
            "server {:.1}, worker {:.1}, runners {:.1}, Redis {:.1} µs; {:.0} a second",
            of(trips, |trip| trip.server),
            of(trips, |trip| trip.worker),
            of(trips, |trip| trip.runners),
            of(trips, |trip| trip.redis),
            of(trips, |trip| trip.rate),
        )
    };
    Ok(vec![
        Row::ratio(
            "a round trip through Redis with runners: CPU of all processes",
            Figure::new(with_us, "µs"),
            Reference { what: "the same in-process", figure: Figure::new(without_us, "µs") },
            ratio,
            Target::None,
        )
        .noting(format!("{}; in-process: {}", parts(&with), parts(&without))),
    ])
}

/// CPU of one round trip in microseconds, by process, and round trips per second.
struct Trip {
    server: f64,
    worker: f64,
    runners: f64,
    redis: f64,
    rate: f64,
}

impl Trip {
    fn cpu(&self) -> f64 {
        self.server + self.worker + self.runners + self.redis
    }
}

/// A server or a worker; ends with this.
struct Host {
    child: Child,
    /// What follows `listening on ` or `worker ready` in its first lines.
    ready: String,
}

impl Host {
    fn start(program: &str, config: &str, ready: &str) -> anyhow::Result<Self> {
        let mut child = Command::new(program).args(["--config", config]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let out = child.stdout.take().context("no output")?;
        let mut host = Self { child, ready: String::new() };
        // Its log and its ready line share the output; it says little afterwards, and nobody waits for what it says.
        for line in BufReader::new(out).lines() {
            let line = line?;
            if let Some((_, rest)) = line.split_once(ready) {
                rest.trim().clone_into(&mut host.ready);
                return Ok(host);
            }
        }
        anyhow::bail!("{program} ended before it was ready")
    }

    fn cpu_us(&self) -> f64 {
        processes::cpu_us(self.child.id())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct App {
    server: Host,
    worker: Host,
    _folder: TempDir,
}

impl App {
    fn start(bench: &Bench, isolation: &str) -> anyhow::Result<Self> {
        static APPS: AtomicU32 = AtomicU32::new(0);
        let folder = tempfile::tempdir()?;
        let plugins = folder.path().join("plugins");
        fs::create_dir(&plugins)?;
        let library = chat_library()?;
        fs::copy(&library, plugins.join(library.file_name().context("no name")?))?;
        let config = folder.path().join("plugsocket.toml");
        let text = format!(
            "app = \"trips{}\"\nqueue = \"{}\"\nplugins_dir = \"plugins\"\nstate_dir = \"var\"\nlog_level = \"error\"\n\
             [server]\nlisten = \"127.0.0.1:0\"\nhandler = \"chat\"\n[ops]\nlisten = \"\"\nworker_listen = \"\"\n\
             [limits]\nmessages_per_second = 0\n[actions]\necho = \"chat\"\n[plugins.chat]\nisolation = \"{isolation}\"\n",
            APPS.fetch_add(1, Ordering::Relaxed),
            bench.redis.url(),
        );
        fs::write(&config, text)?;
        let config = config.to_str().context("a path that is no text")?;
        let server = Host::start(env!("CARGO_BIN_EXE_plugsocket-server"), config, "listening on ")?;
        let worker = Host::start(env!("CARGO_BIN_EXE_plugsocket-worker"), config, "worker ready")?;
        Ok(Self { server, worker, _folder: folder })
    }

    fn runners_us(&self) -> f64 {
        let hosts = [self.server.child.id(), self.worker.child.id()];
        hosts.into_iter().flat_map(processes::runners).map(processes::cpu_us).sum()
    }
}

fn measure(bench: &Bench, isolation: &str, count: usize) -> anyhow::Result<Trip> {
    let app = App::start(bench, isolation)?;
    let trip = runtime()?.block_on(async {
        let mut sockets = Vec::new();
        for number in 0..CONNECTIONS {
            sockets.push(register(&app.server.ready, number).await?);
        }
        sockets = round_trips(sockets, count / 10).await?;
        let redis = bench.redis.cpu_us()?;
        let (server, worker, runners) = (app.server.cpu_us(), app.worker.cpu_us(), app.runners_us());
        let started = Instant::now();
        let sockets = round_trips(sockets, count).await?;
        let made = per(count.div_ceil(CONNECTIONS) * CONNECTIONS);
        let trip = Trip {
            server: (app.server.cpu_us() - server) / made,
            worker: (app.worker.cpu_us() - worker) / made,
            runners: (app.runners_us() - runners) / made,
            redis: (bench.redis.cpu_us()? - redis) / made,
            rate: made / started.elapsed().as_secs_f64(),
        };
        drop(sockets);
        anyhow::Ok(trip)
    })?;
    ensure!((isolation == "process") == (trip.runners > 0.0), "{isolation}: its runners used {} µs", trip.runners);
    drop(app);
    bench.redis.flush()?;
    Ok(trip)
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn register(url: &str, number: usize) -> anyhow::Result<Socket> {
    let (mut socket, _) = connect_async(url).await?;
    socket.send(Message::text(json!({"action": "register", "data": {"nickname": format!("client-{number}")}}).to_string())).await?;
    let registered = receive(&mut socket).await?;
    ensure!(registered["action"] == "registered", "a registration was answered {registered}");
    Ok(socket)
}

/// The next frame that is no heartbeat.
async fn receive(socket: &mut Socket) -> anyhow::Result<Value> {
    loop {
        let message = timeout(PATIENCE, socket.next()).await?.context("the connection ended")??;
        let Message::Text(text) = message else { continue };
        let frame: Value = serde_json::from_str(&text)?;
        if frame["action"] != "heartbeat" {
            return Ok(frame);
        }
    }
}

/// `count` echoes over all of them, each with as many in flight as it may have.
async fn round_trips(sockets: Vec<Socket>, count: usize) -> anyhow::Result<Vec<Socket>> {
    let tracker = TaskTracker::new();
    let each = count.div_ceil(CONNECTIONS);
    let going = sockets.into_iter().map(|socket| tracker.spawn(trips_of(socket, each))).collect::<Vec<_>>();
    let mut sockets = Vec::new();
    for trips in going {
        sockets.push(timeout(Duration::from_secs(300), trips).await???);
    }
    Ok(sockets)
}

async fn trips_of(mut socket: Socket, count: usize) -> anyhow::Result<Socket> {
    let text = "x".repeat(DATA_BYTES);
    let (mut asked, mut answered) = (0, 0);
    while answered < count {
        while asked < count && asked - answered < IN_FLIGHT {
            socket.feed(Message::text(json!({"action": "echo", "id": asked, "data": text}).to_string())).await?;
            asked += 1;
        }
        socket.flush().await?;
        let answer = receive(&mut socket).await?;
        ensure!(answer["action"] == "echo" && answer["id"] == answered, "answer {answered} is {answer}");
        answered += 1;
    }
    Ok(socket)
}

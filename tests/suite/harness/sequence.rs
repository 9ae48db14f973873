//! The sequence checker: many connections that send numbered messages at a steady rate, and what became of every one of them.
//!
//! What ran, and in which order, is told by a plugin that appends a line per run to a file; the rest by the frames that come back.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::config::Config;
use super::plugin;
use super::report::{Push, Report};
use super::{START_PATIENCE, eventually};

const TRACER: &str = include_str!("../faults/tracer.rs.txt");

/// What to send.
#[derive(Clone)]
pub struct Plan {
    /// Servers, used in turn.
    pub urls: Vec<String>,
    pub connections: usize,
    /// Pause between two messages of a connection.
    pub interval: Duration,
    /// How long the action works on each message, in milliseconds.
    pub milliseconds: u64,
    /// Whether the action sends something to its connection before it ends.
    pub push: bool,
    /// Bytes of data in each message beyond the numbers.
    pub padding: usize,
    /// `trace`, or any other for the handler's fallback.
    pub action: &'static str,
    /// One message in so many crashes its plugin; 0 = none.
    pub poison_every: usize,
    /// How long after the last answer the rest counts as lost.
    pub patience: Duration,
    /// Where the plugin writes what runs.
    pub trace: PathBuf,
}

impl Plan {
    /// Two hundred connections, each with five messages a second.
    pub fn new(urls: Vec<String>, config: &Config) -> Self {
        Self {
            urls,
            connections: 200,
            interval: Duration::from_millis(200),
            milliseconds: 0,
            push: false,
            padding: 0,
            action: "trace",
            poison_every: 0,
            patience: Duration::from_secs(8),
            trace: trace_file(config),
        }
    }
}

impl Plan {
    /// Spread over connections and time alike.
    fn is_poison(&self, index: usize, number: usize) -> bool {
        self.poison_every > 0 && (number * (self.connections + 1) + index) % self.poison_every == self.poison_every - 1
    }
}

fn trace_file(config: &Config) -> PathBuf {
    config.state_dir().join("trace")
}

/// The plugin that tells what ran.
pub fn tracer() -> Vec<u8> {
    plugin::from_source("tracer", TRACER)
}

/// A build of it that is bad: so many of a hundred calls fail, or the call of this number crashes.
pub fn bad_tracer(failing_percent: u64, crashing_call: u64) -> Vec<u8> {
    let source = TRACER
        .replace("FAILING_PERCENT: u64 = 0", &format!("FAILING_PERCENT: u64 = {failing_percent}"))
        .replace("CRASHING_CALL: u64 = 0", &format!("CRASHING_CALL: u64 = {crashing_call}"));
    assert_ne!(source, TRACER, "the same build");
    plugin::from_source(&format!("tracer_{failing_percent}_{crashing_call}"), &source)
}

/// A config with the plugin that tells what ran, as the action `trace`; limits are no part of what is tried.
pub fn with_tracer(config: Config) -> Config {
    plugin::install_bytes(&tracer(), &config.plugins_dir(), "tracer");
    let file = trace_file(&config).to_str().unwrap().to_owned();
    config
        .with("limits.messages_per_second", 0)
        .with("limits.unanswered_max", 10_000)
        .with("plugins.tracer.config.file", file)
        .with("plugins.tracer.threads", 64)
        .with("actions.trace", "tracer")
}

/// Started connections.
pub struct Running {
    plan: Plan,
    shared: Arc<Shared>,
    connections: JoinSet<Tally>,
}

struct Shared {
    stop: AtomicBool,
    /// Nobody sends before all are registered: that is work of its own.
    registered: Barrier,
    accepted: AtomicU64,
    answered: AtomicU64,
    refused: AtomicU64,
}

impl Running {
    /// Connects everybody; answers when all are registered and sending.
    pub async fn start(plan: Plan) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            registered: Barrier::new(plan.connections + 1),
            accepted: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        let mut connections = JoinSet::new();
        for index in 0..plan.connections {
            connections.spawn(connection(plan.clone(), index, Arc::clone(&shared)));
        }
        tokio::time::timeout(START_PATIENCE, shared.registered.wait()).await.expect("everybody registers in time");
        Self { plan, shared, connections }
    }

    /// Answers so far, errors too.
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Answers with an error so far.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Messages known to be stored so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::Relaxed)
    }

    /// Waits for `count` more messages to be handled.
    pub async fn go_on(&self, count: u64) {
        let target = self.answered() - self.refused() + count;
        let what = format!("{count} more messages");
        eventually(&what, START_PATIENCE, async || self.answered() - self.refused() >= target).await;
    }

    /// Stops sending, waits for what is still to come, and tells how it went.
    pub async fn finish(mut self, fault: &str) -> Report {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut report = Report { fault: fault.to_owned(), connections: self.plan.connections, ..Report::default() };
        let mut tallies = HashMap::new();
        while let Some(tally) = self.connections.join_next().await {
            let tally = tally.unwrap();
            report.count(&tally);
            tallies.insert(tally.index, tally);
        }
        report.compare(&tallies, &self.plan.trace);
        report
    }
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// One message's fate, as its sender sees it.
pub struct Sent {
    pub at: Instant,
    /// Whether it crashes its plugin.
    pub is_poison: bool,
    pub accepted: bool,
    /// How long the answer took, and its error's code.
    pub answer: Option<(Duration, Option<String>)>,
}

/// What one connection saw.
pub struct Tally {
    pub index: usize,
    /// Its connection id.
    pub id: String,
    pub sent: Vec<Sent>,
    pub pushes: Vec<Push>,
    pub answered_twice: u64,
    waiting: usize,
    /// Why it ended before its time.
    pub closed: Option<String>,
    shared: Arc<Shared>,
}

/// The socket and its connection id.
async fn register(url: &str, index: usize) -> (Socket, String) {
    let (mut socket, _) = connect_async(url).await.unwrap();
    let hello = json!({"action": "register", "id": "register", "data": {"nickname": format!("sequence-{index}")}});
    socket.send(Message::text(hello.to_string())).await.unwrap();
    loop {
        let text = tokio::time::timeout(START_PATIENCE, socket.next()).await.unwrap().unwrap().unwrap().into_text().unwrap();
        let answer: Value = serde_json::from_str(&text).unwrap();
        if answer["id"] == "register" {
            assert_eq!(answer["action"], "registered", "{answer}");
            return (socket, answer["data"]["connection_id"].as_str().unwrap().to_owned());
        }
    }
}

async fn connection(plan: Plan, index: usize, shared: Arc<Shared>) -> Tally {
    let (mut socket, id) = register(&plan.urls[index % plan.urls.len()], index).await;
    shared.registered.wait().await;
    let mut tally = Tally { index, id, sent: Vec::new(), pushes: Vec::new(), answered_twice: 0, waiting: 0, closed: None, shared };
    let padding = "x".repeat(plan.padding);
    // Spread over the interval: a steady rate, no waves.
    let mut next = tokio::time::Instant::now() + plan.interval.mul_f64(index as f64 / plan.connections as f64);
    let mut last_answer = tokio::time::Instant::now();
    loop {
        let sending = !tally.shared.stop.load(Ordering::Relaxed);
        if !sending && tally.waiting == 0 {
            break;
        }
        tokio::select! {
            biased;
            frame = socket.next() => match frame {
                Some(Ok(Message::Text(text))) => {
                    if tally.receive(&serde_json::from_str(&text).unwrap()) {
                        last_answer = tokio::time::Instant::now();
                    }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => {
                    tally.closed = Some(format!("{other:?}"));
                    break;
                }
            },
            () = tokio::time::sleep_until(next), if sending => {
                let number = tally.sent.len();
                let is_poison = plan.is_poison(index, number);
                let data = json!({
                    "connection": index, "number": number, "milliseconds": plan.milliseconds, "push": plan.push, "padding": padding,
                    "poison": is_poison,
                });
                tally.sent.push(Sent { at: Instant::now(), is_poison, accepted: false, answer: None });
                tally.waiting += 1;
                let frame = json!({"action": plan.action, "id": number, "receipt": true, "data": data});
                if let Err(error) = socket.send(Message::text(frame.to_string())).await {
                    tally.closed = Some(error.to_string());
                    break;
                }
                next += plan.interval;
            }
            () = tokio::time::sleep_until(last_answer.max(next) + plan.patience), if !sending => break,
        }
    }
    let _ = tokio::time::timeout(plan.patience, socket.close(None)).await;
    tally
}

impl Tally {
    /// Whether it was an answer: what comes unasked must not keep the wait alive.
    fn receive(&mut self, frame: &Value) -> bool {
        if frame["action"] == "traced" {
            self.pushes.push(serde_json::from_value(frame["data"].clone()).unwrap());
        }
        let Some(sent) = frame["id"].as_u64().and_then(|number| self.sent.get_mut(usize::try_from(number).unwrap())) else { return false };
        if frame["action"] == "accepted" {
            sent.accepted = true;
            self.shared.accepted.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        if sent.answer.is_some() {
            self.answered_twice += 1;
            return true;
        }
        let code = (frame["action"] == "error").then(|| frame["data"]["code"].as_str().unwrap_or("none").to_owned());
        self.shared.answered.fetch_add(1, Ordering::Relaxed);
        self.shared.refused.fetch_add(u64::from(code.is_some()), Ordering::Relaxed);
        sent.answer = Some((sent.at.elapsed(), code));
        self.waiting -= 1;
        true
    }
}

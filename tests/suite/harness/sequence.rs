//! The sequence checker: many connections that send numbered messages at a steady rate, and what became of every one of them.
//!
//! What ran, and in which order, is told by a plugin that appends a line per run to a file; the rest by the frames that come back.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
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
            patience: Duration::from_secs(8),
            trace: trace_file(config),
        }
    }
}

fn trace_file(config: &Config) -> PathBuf {
    config.state_dir().join("trace")
}

/// A config with the plugin that tells what ran, as the action `trace`; limits are no part of what is tried.
pub fn with_tracer(config: Config) -> Config {
    plugin::install_bytes(&plugin::from_source("tracer", TRACER), &config.plugins_dir(), "tracer");
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
struct Sent {
    at: Instant,
    accepted: bool,
    /// How long the answer took, and its error's code.
    answer: Option<(Duration, Option<String>)>,
}

/// What the action sends to its connection.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct Push {
    pub number: u64,
    /// The worker that ran the action.
    pub process: u64,
    /// That worker's clock, milliseconds since the Unix epoch.
    pub time: u64,
    /// Milliseconds until the call's deadline, at its start.
    pub left: u64,
}

struct Tally {
    index: usize,
    id: String,
    sent: Vec<Sent>,
    pushes: Vec<Push>,
    answered_twice: u64,
    waiting: usize,
    closed: Option<String>,
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
                let data = json!({"connection": index, "number": number, "milliseconds": plan.milliseconds, "push": plan.push, "padding": padding});
                tally.sent.push(Sent { at: Instant::now(), accepted: false, answer: None });
                tally.waiting += 1;
                let frame = json!({"action": "trace", "id": number, "receipt": true, "data": data});
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

/// One run of a message.
#[derive(Debug, Clone)]
pub struct Run {
    pub connection: u64,
    pub number: u64,
    /// The worker that ran it.
    pub process: u64,
    /// That worker's clock, milliseconds since the Unix epoch.
    pub time: u64,
}

/// How it went. Each count is of messages unless said otherwise.
#[derive(Debug, Default)]
pub struct Report {
    pub fault: String,
    pub connections: usize,
    /// The connections' ids, by number.
    pub ids: HashMap<usize, String>,
    pub sent: u64,
    pub accepted: u64,
    /// Handled, with an answer that is no error.
    pub done: u64,
    /// Stored and never answered: whose it was, and when it was sent.
    pub lost: Vec<(usize, Instant)>,
    /// Neither stored nor answered, on a connection that stayed open.
    pub silent: u64,
    pub answered_twice: u64,
    /// Runs beyond the first.
    pub ran_twice: u64,
    /// First runs behind the first run of a later message of the same connection.
    pub out_of_order: u64,
    /// Answered `busy`, which says "not stored", and run all the same.
    pub busy_and_ran: u64,
    /// Sockets that ended before their time, and why.
    pub closed: Vec<String>,
    /// Error codes, by count.
    pub errors: BTreeMap<String, u64>,
    /// The longest wait for an answer that is no error.
    pub worst: Duration,
    /// Half of the answers came faster.
    pub median: Duration,
    /// Runs in their order.
    pub runs: Vec<Run>,
    /// What the action sent, as each connection got it.
    pub pushes: HashMap<usize, Vec<Push>>,
}

impl Report {
    fn count(&mut self, tally: &Tally) {
        for sent in &tally.sent {
            self.sent += 1;
            // The answer may come before the receipt, and be the last thing that is waited for.
            self.accepted += u64::from(sent.accepted || matches!(sent.answer, Some((_, None))));
            match &sent.answer {
                Some((_, Some(code))) => *self.errors.entry(code.clone()).or_default() += 1,
                Some(_) => self.done += 1,
                None if sent.accepted && tally.closed.is_none() => self.lost.push((tally.index, sent.at)),
                None => self.silent += u64::from(tally.closed.is_none()),
            }
        }
        self.answered_twice += tally.answered_twice;
        self.closed.extend(tally.closed.clone());
        self.ids.insert(tally.index, tally.id.clone());
        self.pushes.insert(tally.index, tally.pushes.clone());
    }

    fn compare(&mut self, tallies: &HashMap<usize, Tally>, trace: &Path) {
        let mut delays: Vec<Duration> = tallies.values().flat_map(|tally| &tally.sent).filter_map(done_after).collect();
        delays.sort();
        (self.worst, self.median) = (delays.last().copied().unwrap_or_default(), delays.get(delays.len() / 2).copied().unwrap_or_default());
        let text = std::fs::read_to_string(trace).unwrap_or_default();
        let mut ran: HashSet<(u64, u64)> = HashSet::new();
        let mut newest: HashMap<u64, u64> = HashMap::new();
        for line in text.lines() {
            let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
            let (connection, number) = (numbers[0], numbers[1]);
            self.runs.push(Run { connection, number, process: numbers[2], time: numbers[3] });
            if !ran.insert((connection, number)) {
                self.ran_twice += 1;
                continue;
            }
            let newest = newest.entry(connection).or_insert(number);
            self.out_of_order += u64::from(number < *newest);
            *newest = number.max(*newest);
            let sent = &tallies[&usize::try_from(connection).unwrap()].sent[usize::try_from(number).unwrap()];
            let is_busy = matches!(&sent.answer, Some((_, Some(code))) if code == "busy");
            self.busy_and_ran += u64::from(is_busy);
        }
    }

    /// Stored and never answered, of those sent from `begin` on.
    pub fn lost_since(&self, begin: Instant) -> usize {
        self.lost.iter().filter(|(_, sent)| *sent >= begin).count()
    }

    /// What must hold through every fault: nobody cut off, nothing answered twice, nothing out of order, `busy` means not stored.
    ///
    /// # Panics
    /// When one of these does not hold.
    pub fn assert_sound(&self) {
        let bad = self.answered_twice + self.out_of_order + self.busy_and_ran;
        assert!(bad == 0 && self.silent == 0 && self.closed.is_empty() && self.done > 0, "{self}");
    }

    /// As [`Self::assert_sound`], and nothing that was accepted is lost.
    ///
    /// # Panics
    /// When that does not hold.
    pub fn assert_nothing_lost(&self) {
        self.assert_sound();
        assert!(self.lost.is_empty(), "{self}");
    }
}

fn done_after(sent: &Sent) -> Option<Duration> {
    sent.answer.as_ref().and_then(|(after, code)| code.is_none().then_some(*after))
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}: {} connections, {} sent, {} accepted, {} done, lost {}, silent {}, ran twice {}, first runs out of order {}, answered twice {}, \
             busy and ran {}, closed {:?}, errors {:?}, worst delay {:.0?}, median {:.1?}",
            self.fault,
            self.connections,
            self.sent,
            self.accepted,
            self.done,
            self.lost.len(),
            self.silent,
            self.ran_twice,
            self.out_of_order,
            self.answered_twice,
            self.busy_and_ran,
            self.closed,
            self.errors,
            self.worst,
            self.median
        )
    }
}

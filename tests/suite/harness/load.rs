//! Many connections that send numbered messages and check every answer: lost, out of order, twice.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use super::START_PATIENCE;

/// What to send.
#[derive(Clone)]
pub struct Plan {
    /// Servers, used in turn.
    pub urls: Vec<String>,
    pub connections: usize,
    /// Messages of each connection; with `stop`, the most.
    pub messages: u64,
    /// Unanswered messages of one connection at the most.
    pub window: usize,
    /// Pause between messages of one connection; none = as fast as the window lets.
    pub interval: Option<Duration>,
    /// `echo`, or `chat_text` into a room of the connection's own, whose copies show which messages ran twice.
    pub action: &'static str,
    /// How long an answer may take.
    pub patience: Duration,
}

/// What can be seen and done from outside while it runs.
#[derive(Default)]
pub struct Watch {
    stop: AtomicBool,
    answered: std::sync::atomic::AtomicU64,
    /// The version waited for, and when its first answer came.
    version: Mutex<(String, Option<Instant>)>,
}

impl Watch {
    /// Lets every connection stop sending; answers are still awaited.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Answers so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// From now on notes the first answer that carries `version`.
    pub fn expect_version(&self, version: &str) {
        *self.version.lock().unwrap() = (version.to_owned(), None);
    }

    /// When the first answer of the expected version came.
    pub fn version_seen(&self) -> Option<Instant> {
        self.version.lock().unwrap().1
    }
}

/// What came back.
#[derive(Debug, Default, Clone)]
pub struct Report {
    pub sent: u64,
    pub answered: u64,
    pub errors: Vec<String>,
    pub out_of_order: u64,
    /// Answers to one message beyond the first; never right.
    pub answered_twice: u64,
    /// Messages that ran more than once (`chat_text` only).
    pub ran_twice: u64,
    /// Connections that ended before their time.
    pub closed: u64,
    /// Of every answer: when it came, and how long it took.
    pub latencies: Vec<(Instant, Duration)>,
}

impl Report {
    /// Messages without an answer.
    pub fn lost(&self) -> u64 {
        self.sent - self.answered
    }

    /// The latency that `share` of all answers kept to.
    pub fn percentile(&self, share: f64) -> Duration {
        self.percentile_where(share, |_| true)
    }

    /// As [`Self::percentile`], of the answers that came when `wanted` says.
    pub fn percentile_where(&self, share: f64, wanted: impl Fn(Instant) -> bool) -> Duration {
        let mut latencies: Vec<_> = self.latencies.iter().filter(|(at, _)| wanted(*at)).map(|(_, latency)| *latency).collect();
        latencies.sort();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let index = ((latencies.len() as f64 * share) as usize).min(latencies.len().saturating_sub(1));
        latencies.get(index).copied().unwrap_or_default()
    }

    /// Nothing lost, reordered, refused, answered twice; nobody cut off.
    ///
    /// # Panics
    /// When that is not so.
    pub fn assert_clean(&self) {
        assert!(
            self.lost() == 0 && self.out_of_order == 0 && self.answered_twice == 0 && self.closed == 0 && self.errors.is_empty(),
            "sent {}, lost {}, out of order {}, answered twice {}, closed {}, errors {:?}",
            self.sent,
            self.lost(),
            self.out_of_order,
            self.answered_twice,
            self.closed,
            &self.errors[..self.errors.len().min(5)]
        );
    }
}

/// Runs the plan to its end.
pub async fn run(plan: Plan, watch: Arc<Watch>) -> Report {
    let mut connections = JoinSet::new();
    for index in 0..plan.connections {
        connections.spawn(connection(plan.clone(), index, Arc::clone(&watch)));
    }
    let mut total = Report::default();
    while let Some(report) = connections.join_next().await {
        let report = report.unwrap();
        total.sent += report.sent;
        total.answered += report.answered;
        total.errors.extend(report.errors);
        total.out_of_order += report.out_of_order;
        total.answered_twice += report.answered_twice;
        total.ran_twice += report.ran_twice;
        total.closed += report.closed;
        total.latencies.extend(report.latencies);
    }
    total
}

async fn connection(plan: Plan, index: usize, watch: Arc<Watch>) -> Report {
    let (mut socket, _) = connect_async(&plan.urls[index % plan.urls.len()]).await.unwrap();
    let room = format!("load-{index}");
    let hello = [
        json!({"action": "register", "id": "register", "data": {"nickname": format!("load-{index}")}}),
        json!({"action": "join", "id": "join", "data": {"room": room}}),
    ];
    for frame in hello {
        socket.send(Message::text(frame.to_string())).await.unwrap();
        loop {
            let text = tokio::time::timeout(START_PATIENCE, socket.next()).await.unwrap().unwrap().unwrap().into_text().unwrap();
            let answer: Value = serde_json::from_str(&text).unwrap();
            if answer["id"] == frame["id"] {
                assert_ne!(answer["action"], "error", "{answer}");
                break;
            }
        }
    }

    let mut tally = Tally { report: Report::default(), pending: VecDeque::new(), ran: HashSet::new(), watch: Arc::clone(&watch) };
    let mut next_send = tokio::time::Instant::now();
    let mut last_answer = tokio::time::Instant::now();
    let mut sending = true;
    loop {
        sending = sending && tally.report.sent < plan.messages && !watch.stop.load(Ordering::Relaxed);
        if !sending && tally.pending.is_empty() {
            break;
        }
        let may_send = sending && tally.pending.len() < plan.window;
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
                    tally.report.closed += 1;
                    tally.report.errors.push(format!("connection ended: {other:?}"));
                    break;
                }
            },
            () = tokio::time::sleep_until(next_send), if may_send => {
                let number = tally.report.sent;
                let data = json!({"n": number, "room": room, "text": format!("message {number}")});
                tally.pending.push_back((number, Instant::now()));
                tally.report.sent += 1;
                socket.send(Message::text(json!({"action": plan.action, "id": number, "data": data}).to_string())).await.unwrap();
                if let Some(interval) = plan.interval {
                    next_send += interval;
                }
            }
            () = tokio::time::sleep_until(last_answer.max(next_send) + plan.patience) => break,
        }
    }
    let _ = socket.close(None).await;
    tally.report
}

struct Tally {
    report: Report,
    pending: VecDeque<(u64, Instant)>,
    ran: HashSet<String>,
    watch: Arc<Watch>,
}

impl Tally {
    /// Whether it was an answer: what comes unasked, such as heartbeats, must not keep the wait alive.
    fn receive(&mut self, frame: &Value) -> bool {
        let Some(number) = frame["id"].as_u64() else {
            if frame["action"] == "chat_text" && !self.ran.insert(frame["data"]["message_id"].as_str().unwrap().to_owned()) {
                self.report.ran_twice += 1;
            }
            return false;
        };
        let Some(place) = self.pending.iter().position(|(pending, _)| *pending == number) else {
            self.report.answered_twice += 1;
            return true;
        };
        if place > 0 {
            self.report.out_of_order += 1;
        }
        let (_, sent) = self.pending.remove(place).unwrap();
        self.report.latencies.push((Instant::now(), sent.elapsed()));
        self.report.answered += 1;
        self.watch.answered.fetch_add(1, Ordering::Relaxed);
        if frame["action"] == "error" {
            self.report.errors.push(frame.to_string());
        } else if let Some(version) = frame["data"]["version"].as_str() {
            let mut expected = self.watch.version.lock().unwrap();
            if expected.1.is_none() && expected.0 == version {
                expected.1 = Some(Instant::now());
            }
        }
        true
    }
}

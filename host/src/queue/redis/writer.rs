//! The single ordered writer: whatever waits goes out as one pipeline, two of them in flight, and nothing overtakes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{self, Instant};

use super::batch::Batch;
use super::batcher::Queued;
use super::connect::{CALL_TIMEOUT, Connector, Fence};
use super::encode::{Encoder, Gathered};
use super::line::{Line, Reply};
use super::link::Link;
use super::pauses::{Backoff, Complaint};

/// Most writes in one pipeline.
const BATCH_WRITES_MAX: usize = 512;
const FLIGHTS_MAX: usize = 2;
/// A second pipeline goes out only with so many writes; fewer wait for the one on its way: small pipelines cost both sides more.
const SECOND_WRITES_MIN: usize = 128;
/// After so long without a connection, offers are refused at once.
const REFUSE_AFTER: Duration = Duration::from_secs(1);
/// After a refusal for want of memory, deliveries go by script for so long.
const FULL_FOR: Duration = Duration::from_secs(5);
const EXPIRE_INTERVAL: Duration = Duration::from_millis(100);
/// How long the writer goes on after the stop, for what still waits.
const FINISH_TIMEOUT: Duration = Duration::from_secs(3);
/// Deliveries that Redis could not be told for so long are dropped: those they are for have most likely gone.
const DELIVERY_AGE_MAX: Duration = Duration::from_secs(60);

struct Flight {
    batch: Batch,
    /// Its place among what was sent on the present connection; `None` when there is nothing to send in it, or it is not sent yet.
    ticket: Option<u64>,
}

/// The writer's task.
pub(super) struct Writer {
    connector: Arc<Connector>,
    queue: mpsc::Receiver<Queued>,
    budget: Arc<Semaphore>,
    refuse: watch::Sender<bool>,
    confirm_timeout: Duration,
    line: Option<Line>,
    fence: Option<Fence>,
    flights: VecDeque<Flight>,
    /// Taken from the queue while there was no connection.
    held: VecDeque<Queued>,
    items_max: usize,
    incoming: Vec<Queued>,
    gathered: Gathered,
    full_until: Option<Instant>,
    backoff: Backoff,
    /// Something was answered on the present connection, or it is the first one.
    is_steady: bool,
    complaint: Complaint,
}

/// What the writer's handle shares with it.
pub(super) struct Intake {
    pub(super) queue: mpsc::Receiver<Queued>,
    pub(super) budget: Arc<Semaphore>,
    pub(super) refuse: watch::Sender<bool>,
    pub(super) items_max: usize,
}

impl Writer {
    pub(super) fn new(connector: Arc<Connector>, intake: Intake, confirm_timeout: Duration) -> Self {
        let Intake { queue, budget, refuse, items_max } = intake;
        Self {
            connector,
            queue,
            budget,
            refuse,
            confirm_timeout,
            line: None,
            fence: None,
            flights: VecDeque::new(),
            held: VecDeque::new(),
            items_max,
            incoming: Vec::with_capacity(BATCH_WRITES_MAX),
            gathered: Gathered::default(),
            full_until: None,
            backoff: Backoff::new(),
            is_steady: true,
            complaint: Complaint::default(),
        }
    }

    /// Writes until the queue's stop, then finishes what waits, within bounds.
    pub(super) async fn run(mut self) {
        let stop = self.connector.stop().clone();
        tokio::select! {
            () = self.write() => return,
            () = stop.cancelled() => {}
        }
        self.queue.close();
        let is_idle = self.is_done() && self.queue.is_empty();
        if !is_idle && time::timeout(FINISH_TIMEOUT, self.write()).await.is_err() {
            tracing::warn!(waiting = self.held.len() + self.queue.len(), "queue closed with writes that were never stored");
        }
        self.abandon();
    }

    /// Answers all who still wait: nobody else will.
    fn abandon(&mut self) {
        while let Some(mut flight) = self.flights.pop_front() {
            flight.batch.abandon();
        }
        while let Ok(queued) = self.queue.try_recv() {
            self.held.push_back(queued);
        }
        for queued in self.held.drain(..) {
            queued.write.abandon();
        }
        self.gathered.abandon();
    }

    /// Nothing is on its way, and nothing taken from the queue waits.
    fn is_done(&self) -> bool {
        self.flights.is_empty() && self.held.is_empty() && self.gathered.is_empty()
    }

    /// Ends when the queue is closed and everything has been written. Cancel-safe: state is in `self`.
    async fn write(&mut self) {
        loop {
            if self.line.is_none() {
                self.reconnect().await;
            }
            self.dispatch();
            let is_over = self.queue.is_closed() && self.queue.is_empty();
            if is_over && self.is_done() {
                return;
            }
            let is_worth_it = self.flights.is_empty() || (self.flights.len() < FLIGHTS_MAX && self.queue.len() >= SECOND_WRITES_MIN);
            let may_take = is_worth_it && self.held.is_empty() && !is_over;
            let ticket = self.flights.front().and_then(|flight| flight.ticket);
            let reply = tokio::select! {
                biased;
                reply = landed(ticket, &mut self.line), if !self.flights.is_empty() => Some(reply),
                _ = self.queue.recv_many(&mut self.incoming, BATCH_WRITES_MAX), if may_take => None,
            };
            self.held.extend(self.incoming.drain(..));
            if let Some(reply) = reply
                && self.settle(reply)
            {
                self.launch(0);
            }
        }
    }

    /// Makes pipelines of what is held, while there may be another one in flight.
    fn dispatch(&mut self) {
        while self.line.is_some() && self.flights.len() < FLIGHTS_MAX {
            let is_last = self.flights.is_empty() && !self.gathered.is_empty();
            if self.held.is_empty() && !is_last {
                return;
            }
            let full = self.full_until.is_some_and(|until| until > Instant::now());
            let mut encoder = Encoder::new(self.connector.keys(), &mut self.gathered, full);
            let (mut writes, mut bytes) = (0, 0);
            while writes < BATCH_WRITES_MAX && !encoder.is_full() {
                let Some(queued) = self.held.pop_front() else { break };
                bytes += queued.bytes;
                encoder.push(queued.write);
                writes += 1;
            }
            self.budget.add_permits(bytes);
            metrics::histogram!("plugsocket_queue_batch_writes").record(f64::from(u32::try_from(writes).unwrap_or(u32::MAX)));
            let batch = encoder.finish();
            if batch.is_empty() {
                continue;
            }
            self.flights.push_back(Flight { batch, ticket: None });
            self.launch(self.flights.len() - 1);
        }
    }

    /// Puts a flight on its way, behind all that was before.
    fn launch(&mut self, index: usize) {
        let (Some(line), Some(flight)) = (&mut self.line, self.flights.get_mut(index)) else { return };
        flight.ticket = line.send(&flight.batch.commands, flight.batch.wanted().collect());
        if flight.ticket.is_some() {
            flight.batch.sent.get_or_insert_with(Instant::now);
        }
    }

    /// Gives out the answers of the oldest flight. True when some of it is to be sent again on the same connection.
    fn settle(&mut self, reply: Reply) -> bool {
        match reply {
            Ok(answers) => {
                let Some(flight) = self.flights.pop_front() else { return false };
                let again = flight.batch.settle(answers);
                if again.full {
                    self.full_until = Some(Instant::now() + FULL_FOR);
                    metrics::counter!("plugsocket_queue_full_total").increment(1);
                }
                if again.batch.slots.is_empty() && !again.reconnect {
                    (self.is_steady, self.backoff) = (true, Backoff::new());
                    return false;
                }
                if !again.batch.slots.is_empty() {
                    self.flights.push_front(Flight { batch: again.batch, ticket: None });
                }
                if again.reconnect {
                    // Everything behind it is sent again too: order comes before economy in this rare case.
                    self.disconnect(&again.reason);
                }
                !again.reconnect
            }
            Err(error) => {
                self.disconnect(&error.to_string());
                false
            }
        }
    }

    fn disconnect(&mut self, reason: &str) {
        if self.complaint.is_due() {
            tracing::warn!(reason, unconfirmed = self.flights.len(), "queue connection of the writer is made anew");
        }
        metrics::counter!("plugsocket_queue_writer_reconnects_total").increment(1);
        self.line = None;
        for flight in &mut self.flights {
            if flight.ticket.take().is_some() {
                flight.batch.doubt();
            }
        }
        self.flights.retain(|flight| !flight.batch.is_empty());
        self.connector.report_broken();
    }

    /// Returns with a connection on which everything unconfirmed has been sent again, in order.
    async fn reconnect(&mut self) {
        let since = Instant::now();
        if !std::mem::take(&mut self.is_steady) {
            // The last one was good for nothing: a server that answers and refuses must not be tried in a tight loop.
            time::sleep(self.backoff.next().min(EXPIRE_INTERVAL)).await;
        }
        let link = loop {
            let mut attempt = std::pin::pin!(attempt(Arc::clone(&self.connector), self.fence.clone()));
            let result = loop {
                tokio::select! {
                    result = &mut attempt => break result,
                    () = time::sleep(EXPIRE_INTERVAL) => self.expire(since),
                }
            };
            if let Some((link, fence)) = result {
                self.fence = fence;
                break link;
            }
            self.expire(since);
            time::sleep(self.backoff.next().min(EXPIRE_INTERVAL)).await;
        };
        self.line = Some(Line::new(link, CALL_TIMEOUT));
        self.refuse.send_replace(true);
        for index in 0..self.flights.len() {
            self.launch(index);
        }
    }

    /// While there is no connection: takes what waits into view and gives up on what has waited too long.
    fn expire(&mut self, since: Instant) {
        if since.elapsed() > REFUSE_AFTER {
            self.refuse.send_replace(false);
        }
        while self.held.len() < self.items_max {
            let Ok(queued) = self.queue.try_recv() else { break };
            self.held.push_back(queued);
        }
        let limit = self.confirm_timeout;
        for flight in &mut self.flights {
            if flight.batch.sent.is_some_and(|sent| sent.elapsed() > limit) {
                flight.batch.give_up();
            }
        }
        if self.held.front().is_some_and(|queued| queued.born.elapsed() > limit) {
            let mut freed = 0;
            let held = std::mem::take(&mut self.held);
            for Queued { write, born, bytes } in held {
                let age = born.elapsed();
                let kept = if age > limit { write.expire(age > DELIVERY_AGE_MAX) } else { Some(write) };
                match kept {
                    Some(write) => self.held.push_back(Queued { write, born, bytes }),
                    None => freed += bytes,
                }
            }
            self.budget.add_permits(freed);
        }
    }
}

async fn attempt(connector: Arc<Connector>, mut fence: Option<Fence>) -> Option<(Link, Option<Fence>)> {
    // A refusal is mended by somebody else: the supervisor tells.
    connector.ready().await.ok()?;
    let mut link = connector.link(&mut fence).await.ok()?;
    connector.load_scripts_by(&mut link).await.ok()?;
    Some((link, fence))
}

/// The oldest flight's answers. Cancel-safe: those that have come are kept.
async fn landed(ticket: Option<u64>, line: &mut Option<Line>) -> Reply {
    match (ticket, line) {
        (Some(ticket), Some(line)) => line.answers(ticket).await,
        // Only marks, no commands: everything before it is stored, because it is the oldest.
        _ => Ok(Vec::new()),
    }
}

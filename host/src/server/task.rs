//! The task of one session: a single loop over its socket, its outlet and the one thing it may be waiting for.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::task::coop;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::handler_calls::Afterwards;
use super::head::Head;
use super::node::Node;
use super::rate::Bucket;
use super::registration::Registration;
use super::session::Session;
use super::socket::{Ending, Event, Socket};
use super::token::Verified;
use super::upgrade::Admitted;

/// What the session waits for; nothing is read meanwhile, so that a client's frames keep their order. Boxed: most sessions wait for nothing.
pub(super) type Pending = Pin<Box<dyn Future<Output = Resolved> + Send>>;

/// How the waiting ended.
pub(super) enum Resolved {
    /// The registration that holds now.
    Registration(Option<Registration>),
    /// The job was handed over, or answered `busy`.
    Offered,
}

/// The session's own half.
pub(crate) struct SessionTask {
    pub(super) node: Arc<Node>,
    pub(super) session: Arc<Session>,
    pub(super) head: Head,
    pub(super) ip: Box<str>,
    pub(super) bucket: Bucket,
    pub(super) sequence: u64,
    pub(super) registration: Option<Registration>,
    /// What the token of its upgrade says.
    pub(super) verified: Option<Arc<Verified>>,
    pub(super) pending: Option<Pending>,
    alive: Option<TaskTrackerToken>,
}

impl SessionTask {
    /// The session of a client that has its WebSocket. `alive` is given back when its `disconnect` is queued.
    pub fn new(node: Arc<Node>, admitted: Admitted, head: Head, alive: TaskTrackerToken) -> Self {
        let Admitted { session, verified, registration } = admitted;
        let bucket = Bucket::new(node.settings.load().limits.messages_burst, node.now_ms());
        let ip = session.ip.to_string().into();
        Self { node, session, head, ip, bucket, sequence: 0, registration, verified, pending: None, alive: Some(alive) }
    }

    /// Serves the socket until either side ends it. `disconnect` is queued on every way out; it does not wait for it.
    ///
    /// Dropping the future queues `disconnect` with reason `lost`. Both are boxed: a future has room for its arguments twice.
    pub async fn run(mut self: Box<Self>, mut socket: Box<Socket>) {
        self.session.set_waiting(self.pending.is_some());
        let ending = loop {
            match poll_fn(|context| self.poll_turn(context, &mut socket)).await {
                Turn::Text => {
                    match socket.text() {
                        Ok(text) => self.on_text(text, socket.read_ms()),
                        Err(ending) => break ending,
                    }
                    if self.pending.is_some() {
                        self.session.pause();
                        self.session.set_waiting(true);
                    }
                }
                Turn::Resolved(resolved) => self.on_resolved(resolved),
                Turn::Ended(ending) => break ending,
            }
        };
        // Boxed: what only the end needs would be kept for as long as the session lives.
        Box::pin(self.end(socket, ending)).await;
    }

    async fn end(mut self: Box<Self>, socket: Box<Socket>, ending: Ending) {
        let has_rest = self.session.outlet.stop();
        // Closing has time limits of its own.
        self.session.flows();
        if let Some(pending) = self.pending.take() {
            // A registration that is being decided is waited for: when it is granted, its end has to be told.
            let resolved = pending.await;
            self.on_resolved(resolved);
        }
        self.finish(&ending);
        socket.close(ending, has_rest.then_some(&self.session.outlet)).await;
        self.session.outlet.end();
    }

    fn poll_turn(&mut self, context: &mut Context<'_>, socket: &mut Socket) -> Poll<Turn> {
        if let Some(pending) = &mut self.pending
            && let Poll::Ready(resolved) = pending.as_mut().poll(context)
        {
            self.pending = None;
            return Poll::Ready(Turn::Resolved(resolved));
        }
        // Dozens of frames may be in one read, and thousands in a turn; other sessions of this thread want theirs.
        let budget = ready!(coop::poll_proceed(context));
        let node = &self.node;
        let turn = socket.poll_event(context, &self.session, || node.now_ms(), self.pending.is_none()).map(|event| match event {
            Event::Text => Turn::Text,
            Event::Binary => Turn::Ended(Ending::BINARY),
            Event::Ended(ending) => Turn::Ended(ending),
        });
        if turn.is_ready() {
            budget.made_progress();
        }
        turn
    }

    fn on_resolved(&mut self, resolved: Resolved) {
        self.session.heard(self.node.now_ms());
        if let Resolved::Registration(registration) = resolved {
            self.registration = registration;
            self.session.expiry.resume(&self.node.settings.load().server.token);
            if self.registration.is_some() {
                self.session.stop_awaiting_registration();
            } else {
                self.session.await_registration(self.node.now_ms());
            }
        }
        self.session.set_waiting(self.pending.is_some());
    }

    fn finish(&mut self, ending: &Ending) {
        let reason = ending.code.reason();
        metrics::counter!("plugsocket_sessions_ended_total", "reason" => reason).increment(1);
        if let Some(text) = &ending.text
            && ending.code.is_refusal()
        {
            self.node.refusals.note(reason, self.session.ip, text);
        }
        match self.registration.take() {
            Some(registration) => drop(registration.end(reason, Afterwards::Gone)),
            None => drop(self.node.roster.remove(&self.session.id)),
        }
        self.alive = None;
    }
}

/// Normally all is done by then; this is for a task that panics or is cut: it leaves nothing behind.
impl Drop for SessionTask {
    fn drop(&mut self) {
        if self.alive.is_none() {
            return;
        }
        self.session.outlet.end();
        drop(self.pending.take());
        drop(self.registration.take());
        if self.node.roster.announced(&self.session.id).is_none() {
            drop(self.node.roster.remove(&self.session.id));
        }
    }
}

enum Turn {
    Text,
    Resolved(Resolved),
    Ended(Ending),
}

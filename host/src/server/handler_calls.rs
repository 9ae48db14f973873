//! All calls of the handler for sessions: one after another per session, a bounded number at once, off the sockets' tasks.

use std::sync::atomic::{AtomicBool, Ordering::AcqRel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use plugsocket_plugin::call::{ConnectCall, IdentityWire, RefusalWire};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::handler_work;
use super::node::Node;
use super::registration::Registration;
use super::session::Session;
use crate::lanes::Lanes;
use crate::wire::envelope::ClientId;
use crate::wire::ids::SessionId;
use crate::wire::json::Json;

/// What the handler is asked, in the order of the session.
pub(crate) enum Work {
    /// May it register?
    Connect(Connect),
    /// A message that no action serves.
    Fallback(Box<Fallback>),
    /// It has ended.
    Disconnect(Box<Disconnect>),
}

/// A registration to decide.
pub(crate) struct Connect {
    /// The handler's input.
    pub call: Box<ConnectCall>,
    /// Taken when the handler is asked, or when nobody waits for that any more; whoever comes second does nothing.
    pub claim: Claim,
    /// Where the decision goes; when nobody waits any more, a granted registration ends at once.
    pub answer: oneshot::Sender<Admission>,
}

/// Taken once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Claim(Arc<AtomicBool>);

impl Claim {
    /// Whether this is the first to take it.
    pub fn take(&self) -> bool {
        !self.0.swap(true, AcqRel)
    }
}

/// How a registration was decided.
pub(crate) enum Admission {
    /// It holds; dropping it ends it.
    Granted(Registration),
    /// The handler said no.
    Refused(RefusalWire),
    /// The handler could not decide; the client may try again.
    Busy(String),
}

/// A message for the handler's own action.
pub(crate) struct Fallback {
    /// The action's name.
    pub action: String,
    /// The client's data.
    pub data: Json,
    /// The frame's `id`.
    pub client_id: Option<ClientId>,
    /// Its number in the session.
    pub sequence: u64,
    /// When the server accepted it, milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// The sender's public id.
    pub connection_id: Arc<str>,
    /// The sender's user.
    pub user_id: Option<Arc<str>>,
}

/// What follows a `disconnect` call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Afterwards {
    /// Nothing: another identity takes its place.
    Stay,
    /// The session is no member any more, and may register again.
    Leave,
    /// The session is gone.
    Gone,
}

/// The end of an identity.
pub(crate) struct Disconnect {
    /// What `connect` granted, the connection id filled in.
    pub identity: IdentityWire,
    /// Why.
    pub reason: &'static str,
    /// What follows the call.
    pub afterwards: Afterwards,
    /// Dropped when all of it is done.
    pub done: oneshot::Sender<()>,
}

/// The lanes, and the tasks that empty them: started when there is work, at most `server.handler_calls_max`, gone when there is none.
pub(crate) struct HandlerCalls {
    state: Mutex<State>,
    runners: TaskTracker,
}

type Item = (Arc<Session>, Work);

struct State {
    lanes: Lanes<SessionId, Item>,
    running: usize,
}

impl HandlerCalls {
    /// Nothing to do.
    pub fn new() -> Self {
        Self { state: Mutex::new(State { lanes: Lanes::new(), running: 0 }), runners: TaskTracker::new() }
    }

    /// Queues work. Never refused: what comes here is bounded by the number of sessions.
    pub fn push(&self, node: &Arc<Node>, session: &Arc<Session>, work: Work) {
        let calls_max = node.settings.load().server.handler_calls_max.max(1);
        let mut state = self.lock();
        state.lanes.push(session.id.clone(), (Arc::clone(session), work));
        if state.running < calls_max
            && let Some((key, item)) = state.lanes.start()
        {
            state.running += 1;
            drop(state);
            self.runners.spawn(run(Arc::clone(node), key, item));
        }
    }

    /// Queues a message, unless too many of its session wait.
    ///
    /// # Errors
    /// The message comes back.
    pub fn offer(&self, node: &Arc<Node>, session: &Arc<Session>, fallback: Box<Fallback>) -> Result<(), Box<Fallback>> {
        let waiting_max = node.settings.load().server.fallback_waiting_max;
        if self.lock().lanes.waiting_in(&session.id) >= waiting_max {
            return Err(fallback);
        }
        self.push(node, session, Work::Fallback(fallback));
        Ok(())
    }

    /// Runs what the queue is told of a session beside the calls: when the queue is slow to hear it, the handler's calls go on.
    pub fn run_beside(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runners.spawn(work);
    }

    /// Resolves when all work is done. Call it when nothing is pushed any more.
    pub async fn finish(&self) {
        self.runners.close();
        self.runners.wait().await;
    }

    /// How many calls wait or run.
    pub fn open(&self) -> usize {
        let state = self.lock();
        state.lanes.waiting() + state.running
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends an item and takes the next one; without a next one the runner ends.
    fn advance(&self, ended: &SessionId) -> Option<(SessionId, Item)> {
        let mut state = self.lock();
        state.lanes.finish(ended);
        let next = state.lanes.start();
        if next.is_none() {
            state.running -= 1;
        }
        next
    }
}

async fn run(node: Arc<Node>, key: SessionId, item: Item) {
    let mut next = Some((key, item));
    while let Some((key, (session, work))) = next {
        match work {
            Work::Connect(connect) => handler_work::connect(&node, &session, connect).await,
            Work::Fallback(fallback) => handler_work::fallback(&node, &session, &fallback).await,
            Work::Disconnect(disconnect) => handler_work::disconnect(&node, &session, *disconnect).await,
        }
        next = node.calls.advance(&key);
    }
}

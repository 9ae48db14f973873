//! All calls of the handler for sessions: one after another per session, a bounded number at once, off the sockets' tasks.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::AcqRel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use plugsocket_plugin::call::{ConnectCall, IdentityWire, RefusalWire};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::handler_work;
use super::node::Node;
use super::registration::Registration;
use super::session::Session;
use crate::lanes::Lanes;
use crate::queue::{Entry, Estate};
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
    /// It holds, as this identity; dropping it ends it.
    Granted(Registration, Box<IdentityWire>),
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
    /// The sender's public id; `None` when it has not registered.
    pub connection_id: Option<Arc<str>>,
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
    /// What `connect` granted, the connection id filled in: an `IdentityWire` as JSON.
    pub identity: Bytes,
    /// The queue knows of the connection: when the node's lease is lost, others make the call.
    pub is_announced: bool,
    /// Why.
    pub reason: &'static str,
    /// What follows the call.
    pub afterwards: Afterwards,
    /// Dropped when all of it is done.
    pub done: oneshot::Sender<()>,
}

/// A connection that a dead node left behind.
pub(crate) struct Orphan {
    /// What the dead node had announced.
    pub entry: Entry,
    /// What it belongs to.
    pub estate: Arc<dyn Estate>,
    /// Told how it went; dropped when the call was not made.
    pub done: oneshot::Sender<Told>,
}

/// How the call for an orphan ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// Made, and the queue has removed the connection; `given_up` when the handler failed at every attempt.
    Buried { given_up: bool },
    /// Made, and the queue did not confirm that yet.
    Unburied { given_up: bool },
    /// There was no handler.
    NoHandler,
}

/// The lanes, and the tasks that empty them: started when there is work, at most `server.handler_calls_max`, gone when there is none.
pub(crate) struct HandlerCalls {
    state: Mutex<State>,
    runners: TaskTracker,
    cut: CancellationToken,
}

enum Item {
    Session(Arc<Session>, Work),
    Orphan(Box<Orphan>),
}

/// What a runner has done with its item.
#[derive(Clone, Copy)]
enum Ended<'item> {
    InLane(&'item SessionId),
    Orphan,
    Parked,
}

#[derive(Default)]
struct State {
    lanes: Lanes<SessionId, Item>,
    /// Of dead nodes: they have no lanes, and half of the runners.
    orphans: VecDeque<Box<Orphan>>,
    running: usize,
    orphans_running: usize,
    /// Their lanes are busy; they wait until it is known whether the node is still ours, and hold no runner up.
    parked: usize,
    /// That is known, and they come first.
    resumed: VecDeque<(SessionId, Item)>,
}

impl State {
    fn open(&self) -> usize {
        self.lanes.waiting() + self.orphans.len() + self.running + self.parked + self.resumed.len()
    }

    /// Orphans come first while they have less than their half: neither they nor sessions, however many, keep the others waiting for ever.
    fn next(&mut self, calls_max: usize) -> Option<(SessionId, Item)> {
        if self.orphans_running < (calls_max / 2).max(1)
            && let Some(orphan) = self.orphans.pop_front()
        {
            self.orphans_running += 1;
            return Some((orphan.entry.session.clone(), Item::Orphan(orphan)));
        }
        self.resumed.pop_front().or_else(|| self.lanes.start())
    }
}

impl HandlerCalls {
    /// Nothing to do.
    pub fn new() -> Self {
        Self { state: Mutex::default(), runners: TaskTracker::new(), cut: CancellationToken::new() }
    }

    /// Queues work. Never refused: what comes here is bounded by the number of sessions.
    pub fn push(&self, node: &Arc<Node>, session: &Arc<Session>, work: Work) {
        let mut state = self.lock();
        state.lanes.push(session.id.clone(), Item::Session(Arc::clone(session), work));
        self.start(node, state);
    }

    /// Queues the `disconnect` of a dead node's connection; the caller bounds how many wait.
    pub fn push_orphan(&self, node: &Arc<Node>, orphan: Orphan) {
        let mut state = self.lock();
        state.orphans.push_back(Box::new(orphan));
        self.start(node, state);
    }

    /// Starts a runner when there is work and there may be another one.
    fn start(&self, node: &Arc<Node>, mut state: MutexGuard<'_, State>) {
        let calls_max = calls_max(node);
        if state.running < calls_max
            && let Some((key, item)) = state.next(calls_max)
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

    /// Starts nothing from here on: what the queue knows of is left to others. Answers how many calls waited or ran.
    pub fn cut(&self) -> usize {
        self.cut.cancel();
        let mut state = self.lock();
        let open = state.open();
        // Dropped without the lock: a registration in it would come back here.
        let dropped = (std::mem::take(&mut state.lanes), std::mem::take(&mut state.resumed), std::mem::take(&mut state.orphans));
        drop(state);
        drop(dropped);
        open
    }

    /// How many calls wait or run.
    pub fn open(&self) -> usize {
        self.lock().open()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends an item and takes the next one; without a next one the runner ends.
    fn advance(&self, node: &Node, ended: Ended<'_>) -> Option<(SessionId, Item)> {
        let mut state = self.lock();
        match ended {
            Ended::InLane(key) => state.lanes.finish(key),
            Ended::Orphan => state.orphans_running -= 1,
            Ended::Parked => {}
        }
        let next = state.next(calls_max(node));
        if next.is_none() {
            state.running -= 1;
        }
        next
    }

    /// Has a `disconnect` wait, without a runner, until it is known whose it is.
    fn park(&self, node: &Arc<Node>, key: SessionId, session: Arc<Session>, disconnect: Box<Disconnect>) {
        self.lock().parked += 1;
        let node = Arc::clone(node);
        self.runners.spawn(async move {
            let calls = &node.calls;
            let Some(is_ours) = calls.cut.run_until_cancelled(node.hold.is_ours()).await else { return };
            if !is_ours {
                handler_work::forget(&node, &session, *disconnect);
            } else {
                let mut state = calls.lock();
                state.parked -= 1;
                state.resumed.push_back((key, Item::Session(session, Work::Disconnect(disconnect))));
                return calls.start(&node, state);
            }
            let mut state = calls.lock();
            state.parked -= 1;
            state.lanes.finish(&key);
            calls.start(&node, state);
        });
    }
}

fn calls_max(node: &Node) -> usize {
    node.settings.load().server.handler_calls_max.max(1)
}

async fn run(node: Arc<Node>, key: SessionId, item: Item) {
    let mut next = Some((key, item));
    while let Some((key, item)) = next {
        if node.calls.cut.is_cancelled() {
            return;
        }
        match item {
            Item::Session(session, Work::Connect(connect)) => handler_work::connect(&node, &session, connect).await,
            Item::Session(session, Work::Fallback(fallback)) => handler_work::fallback(&node, &session, &fallback).await,
            Item::Session(session, Work::Disconnect(disconnect)) => {
                if let Err(disconnect) = handler_work::disconnect(&node, &session, disconnect).await {
                    node.calls.park(&node, key, session, disconnect);
                    next = node.calls.advance(&node, Ended::Parked);
                    continue;
                }
            }
            Item::Orphan(orphan) => {
                handler_work::orphan(&node, *orphan).await;
                next = node.calls.advance(&node, Ended::Orphan);
                continue;
            }
        }
        next = node.calls.advance(&node, Ended::InLane(&key));
    }
}

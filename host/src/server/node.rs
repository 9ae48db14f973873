//! One node of the running server, as all its parts share it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use tokio_util::task::TaskTracker;

use super::announce::Gates;
use super::backlog::Backlog;
use super::counts::Counts;
use super::handler_calls::HandlerCalls;
use super::hold::Hold;
use super::refusals::Refusals;
use super::roster::Roster;
use super::token::Tokens;
use super::users::Users;
use crate::config::LiveSettings;
use crate::plugin::Plugins;
use crate::queue::{Health, Queue};
use crate::wire::ids::NodeId;

/// What sessions, deliveries and handler calls need of the server.
pub(crate) struct Node {
    /// Its id.
    pub id: NodeId,
    /// The queue.
    pub queue: Queue,
    /// Who serves what.
    pub plugins: Arc<dyn Plugins>,
    /// The settings in force.
    pub settings: LiveSettings,
    /// Who is here.
    pub roster: Arc<Roster>,
    /// Order of presence changes.
    pub gates: Gates,
    /// Calls of the handler.
    pub calls: HandlerCalls,
    /// A token for each socket whose session has not ended yet.
    pub alive: TaskTracker,
    /// Whether it is surely ours.
    pub hold: Hold,
    /// Who was not let in, or sent away, and why.
    pub refusals: Arc<Refusals>,
    /// How fast each user sends.
    pub users: Users,
    /// What waits for its clients and has passed, with those of the nodes before it.
    pub backlog: Arc<Backlog>,
    /// What checks clients' tokens; `None` when they need none.
    pub tokens: Option<Arc<Tokens>>,
    /// What happens with every message.
    pub counts: Counts,
    started: Instant,
    is_receiving: AtomicBool,
}

/// The server's present node: another takes its place when its lease is lost.
pub(crate) type Current = Arc<ArcSwap<Node>>;

impl Node {
    /// A node without sessions, which asks for no tokens.
    pub fn new(id: NodeId, queue: Queue, plugins: Arc<dyn Plugins>, settings: LiveSettings) -> Self {
        Self {
            roster: Arc::new(Roster::new(id.clone())),
            id,
            queue,
            plugins,
            settings,
            gates: Gates::new(),
            calls: HandlerCalls::new(),
            alive: TaskTracker::new(),
            hold: Hold::default(),
            refusals: Arc::default(),
            users: Users::default(),
            backlog: Arc::default(),
            tokens: None,
            counts: Counts::new(),
            started: Instant::now(),
            is_receiving: AtomicBool::new(false),
        }
    }

    /// A node without sessions that takes this one's place.
    ///
    /// # Errors
    /// When the system's random source fails.
    pub fn successor(&self) -> Result<Self, getrandom::Error> {
        let fresh = Self::new(NodeId::random()?, self.queue.clone(), Arc::clone(&self.plugins), Arc::clone(&self.settings));
        Ok(Self { started: self.started, backlog: Arc::clone(&self.backlog), tokens: self.tokens.clone(), ..fresh })
    }

    /// Milliseconds of the server's own clock, which never jumps.
    pub fn now_ms(&self) -> u64 {
        ms(self.started.elapsed())
    }

    /// Notes whether deliveries reach this node.
    pub fn set_receiving(&self, is_receiving: bool) {
        self.is_receiving.store(is_receiving, Relaxed);
    }

    /// Whether clients can register and be served: handler live, queue up, deliveries arriving, neither draining nor lost.
    pub fn is_ready(&self) -> bool {
        let is_up = *self.queue.health.borrow() == Health::Up;
        is_up && self.is_receiving.load(Relaxed) && self.plugins.handler().is_some() && !self.roster.is_draining()
    }
}

/// A duration as the server's clocks count.
pub(crate) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since the Unix epoch.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

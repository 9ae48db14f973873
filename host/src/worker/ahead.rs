//! Calls that are with a plugin before it is their turn: jobs of one lane that go there in one trip.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::poll;
use tokio::sync::OwnedSemaphorePermit;

use super::dispatch::Dispatcher;
use super::gates::{Following, Passed};
use super::lease::Leased;
use super::lines::Lane;
use super::routes::Route;
use super::take::Held;
use crate::plugin::{Answer, CallError, Chain, LiveVersion};

/// Most jobs of one lane on one trip.
const CHAIN_MAX: usize = 32;
/// Most bytes of data that one with others behind it brings along: what is large gains nothing by company.
const CHAIN_BYTES_MAX: usize = 64 * 1024;
/// No call with less time goes along with others: the deadline that a plugin is told of is set when all of them are handed over.
const CHAIN_TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// A job that has been taken out of its lane behind others.
pub(super) struct Ahead {
    pub(super) held: Held,
    /// Its call; without one, it takes its turn like any other.
    pub(super) begun: Option<Begun>,
}

/// A call that was made, and what with.
pub(super) struct Begun {
    pub(super) answer: Pin<Box<dyn Future<Output = Result<Answer, CallError>> + Send>>,
    pub(super) made: Made,
    pub(super) following: Following,
}

/// What a call is made with.
pub(super) struct Made {
    pub(super) version: Arc<LiveVersion>,
    pub(super) leased: Arc<Leased>,
    pub(super) route: Arc<Route>,
}

/// A place among the calls of a plugin, and a slot of the worker: of a call and those behind it, of which one runs at a time.
pub(super) struct Seat {
    passed: Passed,
    slot: Option<OwnedSemaphorePermit>,
}

impl Seat {
    pub(super) fn new(mut passed: Passed, slot: OwnedSemaphorePermit) -> Self {
        passed.occupy();
        Self { passed, slot: Some(slot) }
    }

    pub(super) fn is_quick(&self) -> bool {
        self.passed.is_quick()
    }

    pub(super) fn may_be_ahead(&self) -> bool {
        self.passed.may_be_ahead()
    }

    /// The plugin hangs: what only waits for a thread of it must not sit in slots that others could use.
    pub(super) fn step_aside(&mut self) {
        if self.slot.is_some() && self.passed.step_aside() {
            self.slot = None;
        }
    }
}

impl Dispatcher {
    /// Whether jobs behind this one may go to the plugin together with it: there the first that does not go well and quickly ends it for them.
    pub(super) fn may_lead(&self, held: &Held, made: &Made, lane: &Lane) -> bool {
        lane.seat.as_ref().is_some_and(Seat::is_quick)
            && lane.ahead.is_empty()
            && made.version.callee.ends_calls()
            && held.interruptions.suspicions() == 0
            && made.route.action_gate.is_none()
            && made.route.timeout >= CHAIN_TIMEOUT_MIN
    }

    /// Whether this job may go behind those of its lane that are with the plugin; those behind the first have `bytes` of data.
    pub(super) fn may_follow(&self, next: &Held, made: &Made, bytes: usize) -> bool {
        let job = &next.taken.job;
        if next.taken.suspect || next.taken.crashes > 0 || bytes + job.data.as_bytes().len() > CHAIN_BYTES_MAX {
            return false;
        }
        if *job.action == *made.route.action {
            return true;
        }
        let Some(version) = self.plugins.action(&job.action) else { return false };
        let route = self.routes.of(&self.settings, &job.action, &version.plugin);
        Arc::ptr_eq(&version, &made.version) && route.action_gate.is_none() && route.timeout >= CHAIN_TIMEOUT_MIN
    }

    /// Makes the calls of jobs behind one whose call is with the plugin, the first of which has been taken along, while there is room.
    pub(super) async fn begin_behind(&self, before: &Made, chain: &Arc<Chain>, lane: &mut Lane) {
        let mut bytes = 0;
        while let Some(last) = lane.ahead.back_mut() {
            bytes += last.held.taken.job.data.as_bytes().len();
            last.begun = self.begin(&last.held, before, chain).await;
            let goes_on = last.begun.is_some() && lane.ahead.len() + 1 < CHAIN_MAX;
            if !goes_on || !lane.take_along(|next| self.may_follow(next, before, bytes)) {
                return;
            }
        }
    }

    /// Makes a job's call behind others. `None` when it has to wait for its turn.
    async fn begin(&self, held: &Held, before: &Made, chain: &Arc<Chain>) -> Option<Begun> {
        let following = before.route.plugin_gate.follow()?;
        let (job, receipt) = (&held.taken.job, held.taken.receipt);
        // Whether it is ours is asked in its turn: counted as started, it would stay in hand when the one before it does not.
        if !self.lease.is_in_hand(&receipt) {
            return None;
        }
        let version = Arc::clone(&before.version);
        let route = if *job.action == *before.route.action {
            Arc::clone(&before.route)
        } else {
            self.routes.of(&self.settings, &job.action, &version.plugin)
        };
        let leased = Arc::new(Leased { inner: self.sink(job, &route), lease: self.lease.clone(), receipt });
        let made = Made { version, leased, route };
        let call = self.call(held, &made, Some(chain.behind()));
        let callee = Arc::clone(&made.version);
        let mut answer: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(async move { callee.callee.call(call).await });
        // The first poll hands it over, unless it is refused or has to wait for that: what comes behind would overtake it then.
        let handed = chain.handed();
        let is_begun = poll!(answer.as_mut()).is_pending() && chain.handed() > handed;
        is_begun.then(|| Begun { answer, made, following })
    }
}

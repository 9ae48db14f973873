//! One job's way through a plugin, to its verdict.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::poll;
use plugsocket_plugin::call::Operation;
use tokio::sync::Semaphore;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use super::ahead::{Begun, Made, Seat};
use super::call::message_call;
use super::gates::{Gate, Passed};
use super::lease::{Lease, Leased};
use super::lines::Lane;
use super::replies;
use super::retry::{Ended, backoff, ended};
use super::routes::{Meters, Route, Routes, attempts_of};
use super::take::Held;
use crate::config::LiveSettings;
use crate::context::{ContextOptions, ContextSink, Sender};
use crate::plugin::{Answer, Call, CallError, Chain, Chained, Floor, Place, Plugins};
use crate::queue::{Consumer, Queue, Verdict};
use crate::wire::codes::ErrorCode;
use crate::wire::job::Job;

/// How long a job that nobody serves is put back for.
const UNSERVED_DELAY: Duration = Duration::from_secs(1);
/// Pause after the queue could not note a suspect's start.
const SUSPECT_PAUSE: Duration = Duration::from_millis(200);
/// Pause before a call is offered to an overloaded plugin again.
const OVERLOADED_PAUSE: Duration = Duration::from_millis(20);

/// What every job needs.
pub(super) struct Dispatcher {
    pub(super) queue: Queue,
    pub(super) plugins: Arc<dyn Plugins>,
    pub(super) settings: LiveSettings,
    pub(super) consumer: Arc<dyn Consumer>,
    pub(super) lease: Lease,
    /// Calls at once.
    pub(super) slots: Arc<Semaphore>,
    /// Room for jobs that can't run yet.
    pub(super) waiting: Arc<Semaphore>,
    pub(super) floor: Floor,
    pub(super) routes: Routes,
    pub(super) meters: Meters,
    /// Fires when the drain has taken too long.
    pub(super) cut: CancellationToken,
}

/// What became of an attempt to attempt.
enum Step {
    /// The job has its verdict.
    Settled(Verdict),
    /// Once more, in this lane.
    Again(Duration),
    /// Now by itself.
    AtOnce,
    /// It is not this worker's any more.
    Lost,
}

impl Dispatcher {
    /// Runs a job to its verdict and settles it; abandons it, unsettled, when the drain has taken too long. `begun`: its call is with the plugin
    /// already. Jobs behind it in its lane may be begun with it.
    pub(super) async fn process(&self, mut held: Held, begun: Option<Begun>, lane: &mut Lane) {
        let verdict = tokio::select! {
            biased;
            verdict = self.verdict(&mut held, begun, lane) => verdict,
            () = self.cut.cancelled() => None,
        };
        lane.rest();
        let Some(verdict) = verdict else {
            if self.cut.is_cancelled() {
                // Those behind it must not be settled: it runs elsewhere, and they after it.
                lane.stand_alone();
            }
            metrics::counter!("plugsocket_jobs_lost_total").increment(1);
            self.retract(&mut held).await;
            return;
        };
        let counter = match &verdict {
            Verdict::Done => &self.meters.done,
            Verdict::Later { .. } => &self.meters.later,
            Verdict::Dead { .. } => &self.meters.dead,
        };
        counter.increment(1);
        let receipt = held.taken.receipt;
        if matches!(verdict, Verdict::Done) && self.consumer.try_done(&receipt) {
            return;
        }
        if let Err(error) = self.consumer.settle(receipt, verdict).await {
            tracing::warn!(%error, "a job's verdict was not stored; it may run again");
        }
    }

    /// `None` when the job has passed to another worker.
    async fn verdict(&self, held: &mut Held, mut begun: Option<Begun>, lane: &mut Lane) -> Option<Verdict> {
        if (held.taken.suspect || held.taken.crashes > 0)
            && let Some(verdict) = self.culprit(held).await
        {
            return Some(verdict);
        }
        let mut overloaded_since: Option<Instant> = None;
        loop {
            let step = match begun.take() {
                Some(begun) => self.finish(held, begun, lane, &mut overloaded_since).await,
                None => self.step(held, lane, &mut overloaded_since).await,
            };
            let pause = match step {
                Step::Settled(verdict) => {
                    if !matches!(verdict, Verdict::Done) {
                        lane.stand_alone();
                    }
                    return Some(verdict);
                }
                Step::Lost => return None,
                Step::AtOnce => None,
                Step::Again(pause) => Some(pause),
            };
            lane.stand_alone();
            // The lane stays busy: what comes behind keeps its order.
            if let Some(pause) = pause {
                time::sleep(pause).await;
            }
        }
    }

    /// Counts a suspect's crashes as attempts. The verdict on one that has had all of them: each time it ran alone, so it is to blame.
    async fn culprit(&self, held: &mut Held) -> Option<Verdict> {
        let crashes = held.taken.crashes;
        let job = &mut held.taken.job;
        if held.taken.suspect {
            tracing::warn!(action = job.action, job = job.message_id(), crashes, "in flight when a worker ended; this message runs again");
        }
        job.attempts = job.attempts.saturating_add(crashes);
        if crashes == 0 || job.attempts < attempts_of(&self.settings.load(), &job.action) {
            return None;
        }
        if !self.lease.is_ours(&held.taken.receipt) {
            return None;
        }
        let reason = format!("the worker ended {crashes} times while this message ran alone in it");
        tracing::error!(action = job.action, job = job.message_id(), reason, "message set aside");
        let text = "the message could not be handled";
        replies::failure(self.queue.outbox.as_ref(), job, ErrorCode::Failed.as_str(), text, 0).await;
        let version = self.plugins.action(&job.action).map(|live| live.version.to_string()).unwrap_or_default();
        Some(Verdict::Dead { job: Box::new(job.clone()), reason, version })
    }

    /// A suspect that was started and not settled here, though nobody crashed.
    async fn retract(&self, held: &mut Held) {
        if std::mem::take(&mut held.is_alone)
            && let Err(error) = self.consumer.retract_alone(&held.taken.receipt).await
        {
            tracing::warn!(job = held.taken.job.message_id(), %error, "the start of this message will count as a crash");
        }
    }

    /// Passes a gate; whoever has to wait for that leaves his room to others.
    async fn pass(&self, gate: &Arc<Gate>, held: &mut Held) -> Option<Passed> {
        if let Some(passed) = gate.try_pass() {
            return Some(passed);
        }
        held.park(&self.waiting);
        gate.pass().await
    }

    async fn step(&self, held: &mut Held, lane: &mut Lane, overloaded_since: &mut Option<Instant>) -> Step {
        let Some(known) = self.plugins.action(&held.taken.job.action) else { return self.unserved(&held.taken.job).await };
        // The gates first: a slow plugin or action must not sit in slots that others could use.
        let route = self.routes.of(&self.settings, &held.taken.job.action, &known.plugin);
        let is_contained = known.callee.ends_calls();
        drop(known); // Nothing holds a version while it waits, or a retired one would live on.
        let Some(passed) = self.pass(&route.plugin_gate, held).await else { return Step::Lost };
        let _narrow = match &route.action_gate {
            None => None,
            Some(gate) => {
                let Some(permit) = self.pass(gate, held).await else { return Step::Lost };
                Some(permit)
            }
        };
        let Ok(slot) = Arc::clone(&self.slots).acquire_owned().await else { return Step::Lost };
        lane.seat = Some(Seat::new(passed, slot));
        // A runner's crash is its own: only where calls can end the worker itself must the suspects of its last end be alone in it.
        let place = if is_contained {
            None
        } else if held.taken.suspect {
            Some(self.floor.alone(held.taken.job.attempts.saturating_add(1) >= route.attempts).await)
        } else {
            Some(self.floor.shared().await)
        };
        self.run(held, place, lane, overloaded_since).await
    }

    async fn run(&self, held: &mut Held, place: Option<Place<'_>>, lane: &mut Lane, overloaded_since: &mut Option<Instant>) -> Step {
        let receipt = held.taken.receipt;
        if self.cut.is_cancelled() {
            return Step::Lost; // A place has just been left by a job that was cut; this one would overtake that, which runs elsewhere.
        }
        if !self.lease.is_ours(&receipt) {
            tracing::debug!(job = held.taken.job.message_id(), "the lease has passed: the job runs elsewhere");
            return Step::Lost;
        }
        let Some(version) = self.plugins.action(&held.taken.job.action) else { return self.unserved(&held.taken.job).await };
        if place.is_none() && !version.callee.ends_calls() {
            return Step::Again(Duration::ZERO); // It runs in this process since a moment ago: then it needs a place.
        }
        if held.taken.suspect && !version.callee.ends_calls() {
            if let Err(error) = self.consumer.start_alone(&receipt).await {
                tracing::warn!(job = held.taken.job.message_id(), %error, "the start of a suspect can't be noted; it waits");
                return Step::Again(SUSPECT_PAUSE);
            }
            held.is_alone = true;
        }
        let job = &held.taken.job;
        let route = self.routes.of(&self.settings, &job.action, &version.plugin);
        let leased = Arc::new(Leased { inner: self.sink(job, &route), lease: self.lease.clone(), receipt });
        let made = Made { version, leased, route };
        let attempt = self.attempt(held, &made, lane);
        let end = match place {
            Some(place) => place.run(attempt).await,
            None => attempt.await,
        };
        self.weigh(held, end, &made, overloaded_since).await
    }

    /// As [`Self::run`], for a call that was made with that of the job before.
    async fn finish(&self, held: &mut Held, begun: Begun, lane: &mut Lane, overloaded_since: &mut Option<Instant>) -> Step {
        let Begun { answer, made, following } = begun;
        if self.cut.is_cancelled() {
            return Step::Lost;
        }
        // From now on it counts as started. Not ours any more, it may run all the same: nothing runs beside it here.
        self.lease.is_ours(&held.taken.receipt);
        let (started, running) = (Instant::now(), self.meters.run());
        let result = lane.wait(answer).await;
        drop((running, following));
        let end = self.ended(held, &made, result, started);
        self.weigh(held, end, &made, overloaded_since).await
    }

    /// What an attempt's end means for the job.
    async fn weigh(&self, held: &mut Held, end: Ended, made: &Made, overloaded_since: &mut Option<Instant>) -> Step {
        let (receipt, job) = (held.taken.receipt, &held.taken.job);
        if !self.lease.is_ours(&receipt) {
            tracing::warn!(job = job.message_id(), "the lease has passed during the call: its outcome is dropped, the job runs elsewhere");
            return Step::Lost;
        }
        let end = match (end, &overloaded_since) {
            (Ended::Overloaded, Some(since)) if since.elapsed() > made.route.settings.worker.unserved_timeout => {
                Ended::Failed { code: ErrorCode::Failed, reason: CallError::Overloaded.to_string() }
            }
            (end, _) => end,
        };
        if matches!(end, Ended::Overloaded | Ended::Unavailable) {
            self.retract(held).await;
        }
        if let Ended::Interrupted { is_suspect } = end {
            held.interruptions.add(is_suspect);
        }
        held.is_alone = false;
        let job = &mut held.taken.job;
        self.conclude(job, end, made, overloaded_since).await
    }

    /// What follows from an attempt's end.
    async fn conclude(&self, job: &mut Job, end: Ended, call: &Made, overloaded_since: &mut Option<Instant>) -> Step {
        let outbox = self.queue.outbox.as_ref();
        match end {
            Ended::Done(data) => {
                replies::reply(outbox, job, data, &call.leased.inner).await;
                Step::Settled(Verdict::Done)
            }
            Ended::Rejected(reject) => {
                replies::failure(outbox, job, &reject.code, &reject.message, call.leased.inner.next_index()).await;
                Step::Settled(Verdict::Done)
            }
            Ended::Overloaded => {
                overloaded_since.get_or_insert_with(Instant::now);
                Step::Again(OVERLOADED_PAUSE)
            }
            Ended::NotBegun => Step::AtOnce,
            Ended::Unavailable => self.unserved(job).await,
            Ended::Interrupted { is_suspect } => {
                tracing::info!(plugin = %call.version.plugin, action = job.action, job = job.message_id(), is_suspect, "interrupted; made again");
                metrics::counter!("plugsocket_jobs_interrupted_total", "plugin" => call.version.plugin.to_string()).increment(1);
                Step::Again(Duration::ZERO)
            }
            Ended::Failed { code, reason } => {
                *overloaded_since = None;
                job.attempts = job.attempts.saturating_add(1);
                let (plugin, sha256) = (&call.version.plugin, &call.version.version);
                let (attempt, attempts) = (job.attempts, call.route.attempts);
                tracing::warn!(%plugin, %sha256, action = job.action, job = job.message_id(), attempt, attempts, reason, "attempt failed");
                if attempt < attempts {
                    metrics::counter!("plugsocket_jobs_retried_total", "plugin" => plugin.to_string()).increment(1);
                    let (pause, worker) = (backoff(call.route.settings.worker.retry_backoff, attempt), &call.route.settings.worker);
                    if pause > worker.retry_in_lane_max {
                        return Step::Settled(Verdict::Later { job: Box::new(job.clone()), delay: pause });
                    }
                    return Step::Again(pause);
                }
                let is_late = code == ErrorCode::Timeout;
                let text = if is_late { "the message was not handled in time" } else { "the message could not be handled" };
                replies::failure(outbox, job, code.as_str(), text, call.leased.inner.next_index()).await;
                Step::Settled(Verdict::Dead { job: Box::new(job.clone()), reason, version: sha256.to_string() })
            }
        }
    }

    /// Makes a job's call and, when that pays, those of jobs behind it in its lane.
    async fn attempt(&self, held: &Held, made: &Made, lane: &mut Lane) -> Ended {
        let has_company = self.may_lead(held, made, lane) && lane.take_along(|next| self.may_follow(next, made, 0));
        let chain = has_company.then(Arc::<Chain>::default);
        let (started, _running) = (Instant::now(), self.meters.run());
        let call = self.call(held, made, chain.as_ref().map(Chain::first));
        let mut answer = made.version.callee.call(call);
        let result = match poll!(answer.as_mut()) {
            Poll::Ready(result) => result,
            Poll::Pending => {
                if let Some(chain) = chain.filter(|chain| chain.handed() > 0) {
                    self.begin_behind(made, &chain, lane).await;
                }
                lane.wait(answer).await
            }
        };
        self.ended(held, made, result, started)
    }

    pub(super) fn call(&self, held: &Held, made: &Made, chained: Option<Chained>) -> Call {
        let input = message_call(&held.taken.job, made.leased.inner.message_id(), made.route.timeout);
        let call = Call::new(Operation::Action, input, Arc::clone(&made.leased) as _).within(made.route.timeout);
        Call { suspicions: held.interruptions.suspicions(), chained, ..call }
    }

    fn ended(&self, held: &Held, made: &Made, result: Result<Answer, CallError>, started: Instant) -> Ended {
        let Made { version, route, .. } = made;
        let took = started.elapsed();
        if !matches!(result, Err(CallError::NotBegun)) {
            route.plugin_gate.note(took);
            route.seconds.record(took);
        }
        if matches!(result, Err(CallError::TimedOut)) && !version.callee.ends_calls() {
            let job = &held.taken.job;
            tracing::warn!(
                plugin = %version.plugin, sha256 = %version.version, action = job.action, job = job.message_id(), timeout = ?route.timeout,
                "call timed out; in this process it can't be stopped and goes on in its thread"
            );
        }
        ended(result, route.frame_bytes_max)
    }

    /// Nobody here serves the action: perhaps soon, perhaps elsewhere.
    async fn unserved(&self, job: &Job) -> Step {
        // Counted, not read off a clock: clocks step, and a backlog may be old before anybody looks at it.
        if UNSERVED_DELAY.saturating_mul(job.unserved) < self.settings.load().worker.unserved_timeout {
            let job = Job { unserved: job.unserved.saturating_add(1), ..job.clone() };
            return Step::Settled(Verdict::Later { job: Box::new(job), delay: UNSERVED_DELAY });
        }
        let reason = format!("no plugin serves the action `{}`", job.action);
        tracing::warn!(action = job.action, job = job.message_id(), "unserved for too long: set aside");
        replies::failure(self.queue.outbox.as_ref(), job, ErrorCode::Unavailable.as_str(), &reason, 0).await;
        Step::Settled(Verdict::Dead { job: Box::new(job.clone()), reason, version: String::new() })
    }

    pub(super) fn sink(&self, job: &Job, route: &Route) -> ContextSink {
        let options = ContextOptions {
            queue: self.queue.clone(),
            plugin: Arc::clone(&route.plugin),
            message_id: job.message_id(),
            session: Some(job.session.clone()),
            local: None,
            frame_bytes_max: route.frame_bytes_max,
        };
        let sender = Sender { connection_id: Arc::clone(&job.connection_id), user_id: job.user_id.clone(), ip: job.ip.clone() };
        ContextSink::new(options, route.names).with_sender(sender)
    }
}

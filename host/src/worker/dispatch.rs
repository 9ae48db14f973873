//! One job's way through a plugin, to its verdict.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use plugsocket_plugin::call::{MessageCall, Meta, Operation};
use tokio::sync::Semaphore;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use super::gates::Gates;
use super::lease::{Lease, Leased};
use super::replies;
use super::retry::{Ended, backoff, ended};
use super::take::Held;
use crate::config::{LiveSettings, PluginSettings, Settings};
use crate::context::{ContextOptions, ContextSink, NameLimits, Sender};
use crate::plugin::{CallError, LiveVersion, Plugins};
use crate::queue::{Consumer, Queue, Receipt, Verdict};
use crate::wire::codes::ErrorCode;
use crate::wire::job::Job;
use crate::wire::json::Json;

/// How long a job that nobody serves is put back for.
const UNSERVED_DELAY: Duration = Duration::from_secs(1);
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
    pub(super) slots: Semaphore,
    pub(super) gates: Gates,
    /// Fires when the drain has taken too long.
    pub(super) cut: CancellationToken,
}

/// What became of an attempt to attempt.
enum Step {
    /// The job has its verdict.
    Settled(Verdict),
    /// Once more, in this lane.
    Again(Duration),
    /// It is not this worker's any more.
    Lost,
}

/// One call and what it ran with.
struct Call<'call> {
    version: &'call LiveVersion,
    sink: &'call ContextSink,
    terms: &'call Terms,
    settings: &'call Settings,
}

/// How a call may run, from the settings in force.
struct Terms {
    timeout: Duration,
    attempts: u32,
    threads: usize,
    frame_bytes_max: usize,
}

impl Terms {
    fn of(settings: &Settings, job: &Job, plugin: &str) -> Self {
        let action = settings.actions.get(&job.action);
        Self {
            timeout: action.and_then(|action| action.timeout).unwrap_or(settings.worker.timeout),
            attempts: action.and_then(|action| action.attempts).unwrap_or(settings.worker.attempts).max(1),
            threads: settings.plugins.get(plugin).map_or_else(|| PluginSettings::default().threads, |plugin| plugin.threads),
            frame_bytes_max: usize::try_from(settings.limits.frame_out_max.as_u64()).unwrap_or(usize::MAX),
        }
    }
}

impl Dispatcher {
    /// Runs a job to its verdict and settles it; abandons it, unsettled, when the drain has taken too long.
    pub(super) async fn process(&self, held: Held) {
        let receipt = held.taken.receipt.clone();
        if held.taken.suspect {
            let job = &held.taken.job;
            tracing::warn!(action = job.action, job = job.message_id(), "this message was in flight when a worker ended; running it again");
        }
        let verdict = tokio::select! {
            biased;
            () = self.cut.cancelled() => return,
            verdict = self.verdict(&held) => verdict,
        };
        let Some(verdict) = verdict else {
            metrics::counter!("plugsocket_jobs_lost_total").increment(1);
            return;
        };
        let outcome = match &verdict {
            Verdict::Done => "done",
            Verdict::Later { .. } => "later",
            Verdict::Dead { .. } => "dead",
        };
        metrics::counter!("plugsocket_jobs_settled_total", "verdict" => outcome).increment(1);
        if let Err(error) = self.consumer.settle(receipt, verdict).await {
            tracing::warn!(%error, "a job's verdict was not stored; it may run again");
        }
    }

    /// `None` when the job has passed to another worker.
    async fn verdict(&self, held: &Held) -> Option<Verdict> {
        let mut job = held.taken.job.clone();
        let mut overloaded_since: Option<Instant> = None;
        loop {
            let pause = match self.step(&mut job, &held.taken.receipt, &mut overloaded_since).await {
                Step::Settled(verdict) => return Some(verdict),
                Step::Lost => return None,
                Step::Again(pause) => pause,
            };
            // The lane stays busy: what comes behind keeps its order.
            time::sleep(pause).await;
        }
    }

    async fn step(&self, job: &mut Job, receipt: &Receipt, overloaded_since: &mut Option<Instant>) -> Step {
        let settings = self.settings.load_full();
        let Some(known) = self.plugins.action(&job.action) else { return self.unserved(job, &settings).await };
        // The plugin's own gate first: a slow plugin must not sit in slots that others could use.
        let threads = Terms::of(&settings, job, &known.plugin).threads;
        let gate = self.gates.of(&known.plugin, threads);
        drop(known); // Nothing holds a version while it waits, or a retired one would live on.
        let (Ok(_gate), Ok(_slot)) = (gate.acquire().await, self.slots.acquire().await) else { return Step::Lost };
        if !self.lease.is_ours(receipt) {
            tracing::debug!(job = job.message_id(), "the lease has passed: the job runs elsewhere");
            return Step::Lost;
        }
        let settings = self.settings.load_full();
        let Some(version) = self.plugins.action(&job.action) else { return self.unserved(job, &settings).await };
        let terms = Terms::of(&settings, job, &version.plugin);
        let sink = Arc::new(self.sink(job, &version, &settings, &terms));
        let leased = Arc::new(Leased { inner: Arc::clone(&sink), lease: self.lease.clone(), receipt: receipt.clone() });
        let end = self.attempt(job, &version, leased, &terms).await;
        if !self.lease.is_ours(receipt) {
            tracing::warn!(job = job.message_id(), "the lease has passed during the call: its outcome is dropped, the job runs elsewhere");
            return Step::Lost;
        }
        let end = match (end, &overloaded_since) {
            (Ended::Overloaded, Some(since)) if since.elapsed() > settings.worker.unserved_timeout => {
                Ended::Failed { code: ErrorCode::Failed, reason: CallError::Overloaded.to_string() }
            }
            (end, _) => end,
        };
        self.conclude(job, end, Call { version: &version, sink: &sink, terms: &terms, settings: &settings }, overloaded_since).await
    }

    /// What follows from an attempt's end.
    async fn conclude(&self, job: &mut Job, end: Ended, call: Call<'_>, overloaded_since: &mut Option<Instant>) -> Step {
        let outbox = self.queue.outbox.as_ref();
        match end {
            Ended::Done(data) => {
                replies::reply(outbox, job, data, call.sink).await;
                Step::Settled(Verdict::Done)
            }
            Ended::Rejected(reject) => {
                replies::failure(outbox, job, &reject.code, &reject.message, call.sink.next_index()).await;
                Step::Settled(Verdict::Done)
            }
            Ended::Overloaded => {
                overloaded_since.get_or_insert_with(Instant::now);
                Step::Again(OVERLOADED_PAUSE)
            }
            Ended::Failed { code, reason } => {
                *overloaded_since = None;
                job.attempts = job.attempts.saturating_add(1);
                let (plugin, sha256) = (&call.version.plugin, &call.version.version);
                let (attempt, attempts) = (job.attempts, call.terms.attempts);
                tracing::warn!(%plugin, %sha256, action = job.action, job = job.message_id(), attempt, attempts, reason, "attempt failed");
                if attempt < attempts {
                    metrics::counter!("plugsocket_jobs_retried_total", "plugin" => plugin.to_string()).increment(1);
                    return Step::Again(backoff(call.settings.worker.retry_backoff, attempt));
                }
                let is_late = code == ErrorCode::Timeout;
                let text = if is_late { "the message was not handled in time" } else { "the message could not be handled" };
                replies::failure(outbox, job, code.as_str(), text, call.sink.next_index()).await;
                Step::Settled(Verdict::Dead { job: Box::new(job.clone()), reason, version: sha256.to_string() })
            }
        }
    }

    async fn attempt(&self, job: &Job, version: &LiveVersion, sink: Arc<Leased>, terms: &Terms) -> Ended {
        let input = match message_call(job, terms.timeout) {
            Ok(input) => input,
            Err(error) => return Ended::Failed { code: ErrorCode::Failed, reason: format!("message can't be encoded: {error}") },
        };
        let running = metrics::gauge!("plugsocket_calls_running");
        running.increment(1);
        let started = Instant::now();
        let call = version.callee.call(Operation::Action, input, sink);
        let result = time::timeout(terms.timeout, call).await.unwrap_or(Err(CallError::TimedOut));
        running.decrement(1);
        metrics::histogram!("plugsocket_call_seconds", "plugin" => version.plugin.to_string()).record(started.elapsed());
        if matches!(result, Err(CallError::TimedOut)) {
            tracing::warn!(
                plugin = %version.plugin, sha256 = %version.version, action = job.action, job = job.message_id(), timeout = ?terms.timeout,
                "call timed out; in this process it can't be stopped and goes on in its thread"
            );
        }
        ended(result, terms.frame_bytes_max)
    }

    /// Nobody here serves the action: perhaps soon, perhaps elsewhere.
    async fn unserved(&self, job: &Job, settings: &Settings) -> Step {
        let waited = Duration::from_millis(now_ms().saturating_sub(job.time_ms));
        if waited < settings.worker.unserved_timeout {
            return Step::Settled(Verdict::Later { job: Box::new(job.clone()), delay: UNSERVED_DELAY });
        }
        let reason = format!("no plugin serves the action `{}`", job.action);
        tracing::warn!(action = job.action, job = job.message_id(), "unserved for too long: set aside");
        replies::failure(self.queue.outbox.as_ref(), job, ErrorCode::Unavailable.as_str(), &reason, 0).await;
        Step::Settled(Verdict::Dead { job: Box::new(job.clone()), reason, version: String::new() })
    }

    fn sink(&self, job: &Job, version: &LiveVersion, settings: &Settings, terms: &Terms) -> ContextSink {
        let options = ContextOptions {
            queue: self.queue.clone(),
            plugin: Arc::clone(&version.plugin),
            message_id: job.message_id(),
            session: Some(job.session.clone()),
            local: None,
            frame_bytes_max: terms.frame_bytes_max,
        };
        let sender = Sender { connection_id: Arc::clone(&job.connection_id), user_id: job.user_id.clone(), ip: job.ip.clone() };
        ContextSink::new(options).with_names(NameLimits::from(&settings.limits)).with_sender(sender)
    }
}

/// The bytes of one attempt; `job.attempts` are those already made.
fn message_call(job: &Job, timeout: Duration) -> Result<Bytes, serde_json::Error> {
    let call = MessageCall {
        action: Cow::Borrowed(&job.action),
        connection_id: Cow::Borrowed(&job.connection_id),
        user_id: job.user_id.as_deref().map(ToOwned::to_owned),
        data: Some(job.data.raw()?),
        meta: Meta {
            time: job.time_ms,
            node: job.session.node().to_string(),
            ip: job.ip.clone(),
            attempt: job.attempts.saturating_add(1),
            message_id: job.message_id(),
            client_id: job.client_id.as_ref().map(|id| id.as_json().to_owned()),
        },
        deadline_ms: now_ms().saturating_add(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
    };
    Json::encode(&call).map(Json::into_bytes)
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

//! The queue's contract, and its promise: incoming at least once and in order per session; outgoing in order per producer and node.
//!
//! Two implementations pass one conformance suite: [`memory`] inside one process, and [`redis`].

#[cfg(test)]
mod conformance;
pub mod memory;
mod presence;
pub mod redis;
mod store_limits;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use plugsocket_plugin::call::{StoreAnswer, StoreRequest};
use tokio::sync::watch;

use crate::config::{PhpSettings, Settings};
use crate::wire::delivery::Delivery;
use crate::wire::ids::{NodeId, StreamId};
use crate::wire::job::Job;

pub use self::presence::{Adoption, Entry, Estate, LOOKUP_MAX, NodeFeed, NodeLease, Presence};
pub use self::store_limits::{STORE_KEY_BYTES_MAX, STORE_LIST_MAX, STORE_VALUE_BYTES_MAX};
use self::store_limits::{check_store_request, store_ttl};

/// The halves of one queue; cheap to clone, all on the same connections.
#[derive(Clone)]
pub struct Queue {
    /// Client messages, from servers to workers.
    pub inbox: Arc<dyn Inbox>,
    /// Messages for clients, to the nodes that hold them.
    pub outbox: Arc<dyn Outbox>,
    /// Who is connected where.
    pub presence: Arc<dyn Presence>,
    /// The plugins' shared state.
    pub store: Arc<dyn Store>,
    /// Whether the queue can be reached at present.
    pub health: watch::Receiver<Health>,
}

/// Whether the queue can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    Up,
    /// It does not, with the reason; being tried again with backoff.
    Down(String),
}

/// Why the queue could not do something.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// Not reachable, or no answer in time. Worth trying again.
    #[error("queue is unreachable: {0}")]
    Unreachable(String),
    /// It answered with a refusal.
    #[error("queue refused: {0}")]
    Refused(String),
    /// The request is over a limit or malformed; trying again will not help.
    #[error("{0}")]
    Invalid(String),
    /// It is shutting down.
    #[error("queue is closed")]
    Closed,
}

/// How storing a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// It is in the queue and will run.
    Yes,
    /// Known not to be stored (full, or refused); it will not run.
    No(String),
    /// The outcome is unknown after the time allowed; it may run.
    Unknown,
}

/// Told once how storing a job ended. Called from the queue's own task: must not block.
pub type OnStored = Box<dyn FnOnce(Stored) + Send>;

/// A client's message for a list of `[actions]`, from which PHP takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListItem {
    /// The list, without `[php] prefix`.
    pub list: String,
    /// As PHP reads it.
    pub item: Bytes,
}

/// The batcher has no room; what was offered comes back.
pub struct Full<T = Job> {
    /// What was offered.
    pub offered: T,
    /// Its callback, not called.
    pub on_stored: OnStored,
}

/// The incoming queue.
#[async_trait]
pub trait Inbox: Send + Sync {
    /// Hands a job to the batcher without waiting. Jobs of one session keep the order they are offered in.
    ///
    /// # Errors
    /// [`Full`] gives the job back when the batcher has no room, which includes "unreachable for a while".
    #[expect(clippy::result_large_err, reason = "the job comes back as it is; a box would cost an allocation for nothing")]
    fn offer(&self, job: Job, on_stored: OnStored) -> Result<(), Full>;

    /// Hands a message for a list to the batcher without waiting. Items of one caller keep the order they are offered in, behind its jobs.
    ///
    /// At most once: [`Stored::Unknown`] as soon as its outcome is in doubt, and it is not sent again. [`Stored::No`] also when as many wait in
    /// the list as may, when the key is no list, and by a queue that has no lists.
    ///
    /// # Errors
    /// [`Full`], as by [`Self::offer`].
    fn push(&self, item: ListItem, on_stored: OnStored) -> Result<(), Full<ListItem>>;

    /// Resolves when [`Self::offer`] and [`Self::push`] have a chance again. Cancel-safe.
    async fn room(&self);

    /// Joins the workers and begins to take. Waits, with backoff, until the queue is reachable.
    ///
    /// # Errors
    /// [`QueueError::Refused`] when the queue can't serve workers for a reason that waiting does not mend.
    async fn consume(&self, worker: &NodeId) -> Result<Arc<dyn Consumer>, QueueError>;

    /// Schedules a job that a plugin asked for.
    ///
    /// # Errors
    /// [`QueueError`] when it is not stored.
    async fn schedule(&self, job: Job, delay: Duration) -> Result<(), QueueError>;

    /// Makes a dead letter of a message that was never in the queue. `version` as in [`Verdict::Dead`].
    ///
    /// # Errors
    /// [`QueueError`] when it is not stored, or that is not known.
    async fn set_aside(&self, job: Job, reason: &str, version: &str) -> Result<(), QueueError>;
}

/// A job with what is needed to settle it.
#[derive(Debug)]
pub struct Taken {
    /// The job.
    pub job: Job,
    /// Names this delivery of it.
    pub receipt: Receipt,
    /// It was in hand when a worker crashed or lost its lease, and again at the next such end: it is to run alone.
    pub suspect: bool,
    /// How often somebody crashed while it ran alone.
    pub crashes: u32,
}

/// Names one delivery of a job; made and read by the queue only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The partition it came from.
    pub partition: u32,
    /// The entry in it.
    pub entry: StreamId,
    /// Which delivery of the entry to this consumer: an older one may not start any more.
    pub delivery: u64,
}

/// What becomes of a job that was taken.
#[derive(Debug)]
pub enum Verdict {
    /// Completed, or answered with an error: gone for good.
    Done,
    /// Put back for later, `attempts` in the job counted up by the caller.
    Later {
        /// The job as it shall come back.
        job: Box<Job>,
        /// How long from now.
        delay: Duration,
    },
    /// Set aside.
    Dead {
        /// The job.
        job: Box<Job>,
        /// Why.
        reason: String,
        /// The plugin version (sha256) that gave up on it; empty when none ran.
        version: String,
    },
}

/// One worker's end of the incoming queue.
#[async_trait]
pub trait Consumer: Send + Sync {
    /// Waits for jobs, at most about a second, and takes at most `max`. Jobs of one session come in order, and never to two workers at once.
    /// Not cancel-safe: call it from one task and let it finish.
    ///
    /// # Errors
    /// [`QueueError`]; the caller pauses and goes on.
    async fn take(&self, max: usize) -> Result<Vec<Taken>, QueueError>;

    /// Whether this worker still may start the job (or start it again): false once its lease on the partition may have passed to another.
    /// After a false the receipt is void: drop the job. It is delivered again, here or elsewhere.
    fn may_start(&self, receipt: &Receipt) -> bool;

    /// Whether the job is in this worker's hand, by this receipt. Before it counts as started, [`Self::may_start`] is to be asked.
    fn is_in_hand(&self, receipt: &Receipt) -> bool;

    /// Notes, before a suspect starts, that it runs alone here; unless it is settled, the next delivery counts this as a crash.
    ///
    /// # Errors
    /// [`QueueError`]: not noted; the job must not start.
    async fn start_alone(&self, receipt: &Receipt) -> Result<(), QueueError>;

    /// Takes [`Self::start_alone`] back: the job is not settled here, and yet nobody crashed.
    ///
    /// # Errors
    /// [`QueueError`]: it counts as a crash.
    async fn retract_alone(&self, receipt: &Receipt) -> Result<(), QueueError>;

    /// Settles a job, after everything sent through the same queue's outbox before this call. Waits only for room in the batcher.
    ///
    /// # Errors
    /// [`QueueError::Closed`]
    async fn settle(&self, receipt: Receipt, verdict: Verdict) -> Result<(), QueueError>;

    /// Settles a job that is done, as [`Self::settle`] does, when that needs no waiting; false when it does: nothing has happened then.
    fn try_done(&self, receipt: &Receipt) -> bool;

    /// Stops taking, waits for settlements on their way, gives the partitions free. Call after the last settlement: jobs without one run
    /// again elsewhere.
    async fn leave(&self);
}

/// The outgoing queue.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// Hands a delivery to the batcher, waiting while that is full. Deliveries of one caller keep their order.
    ///
    /// # Errors
    /// [`QueueError::Closed`], [`QueueError::Invalid`]; with [`QueueError::Unreachable`] after the time allowed it may still arrive.
    async fn send(&self, delivery: Delivery) -> Result<(), QueueError>;

    /// As [`Self::send`], when it needs no waiting; false when it does, or can't be done: nothing has happened then.
    fn try_send(&self, delivery: &Delivery) -> bool;

    /// Resolves when everything sent by this caller before is stored.
    ///
    /// # Errors
    /// [`QueueError`] when that can't be said within the time allowed.
    async fn flush(&self) -> Result<(), QueueError>;
}

/// The plugins' shared state.
#[async_trait]
pub trait Store: Send + Sync {
    /// Runs one operation in the namespace of `plugin`. Values are limited to 64 KiB, keys to 512 bytes.
    ///
    /// # Errors
    /// [`QueueError::Invalid`] over a limit or for a value of another kind; [`QueueError::Unreachable`] is worth another attempt.
    async fn run(&self, plugin: &str, request: StoreRequest) -> Result<StoreAnswer, QueueError>;
}

/// The files that TLS to Redis may need, in PEM; read when the queue is opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Who signed the server's certificate; the public authorities when absent.
    pub ca: Option<PathBuf>,
    /// Our own certificate, for a server that asks for one; with its key.
    pub certificate: Option<PathBuf>,
    /// The key of [`Self::certificate`].
    pub key: Option<PathBuf>,
}

/// Settings both implementations share.
#[derive(Debug, Clone)]
pub struct QueueOptions {
    /// The app's name in every key.
    pub app: String,
    /// Partitions of the incoming queue when it is first made.
    pub partitions: u32,
    /// Most jobs waiting in one partition before clients are told `busy`.
    pub partition_jobs_max: usize,
    /// Most jobs and deliveries waiting in a batcher.
    pub batcher_items_max: usize,
    /// How long an unconfirmed write is tried again before it counts as unknown.
    pub confirm_timeout: Duration,
    /// A worker's or node's lease.
    pub lease: Duration,
    /// Most jobs of one partition in a worker's hands; beyond it, only that partition waits.
    pub partition_held_max: usize,
    /// Dead letters kept per partition.
    pub dead_max: usize,
    /// How long they are kept, at least; looked at when another one comes.
    pub dead_age_max: Duration,
    /// Default time to live of the plugins' stored values; zero = none.
    pub store_ttl: Duration,
    /// The PHP package's outgoing lists that are served.
    pub php_lists: Vec<String>,
    /// Longest list item, in bytes.
    pub php_item_bytes_max: usize,
    /// Put before the name of every list of `[actions]`.
    pub php_prefix: String,
    /// Most messages waiting in a list of `[actions]`.
    pub php_waiting_max: usize,
    /// The lists of `[actions]` at the start, each once, with the prefix: only for counting what waits in them.
    pub php_in_lists: Vec<String>,
    /// Files for a `rediss://` URL.
    pub tls: TlsFiles,
}

impl QueueOptions {
    /// The queue's part of the settings.
    #[must_use]
    pub fn from_settings(settings: &Settings) -> Self {
        let options = &settings.queue_options;
        let PhpSettings { prefix, item_max, waiting_max, .. } = &settings.php;
        let in_lists: BTreeSet<_> = settings.list_actions().map(|(_, action)| format!("{prefix}{}", action.list)).collect();
        let php_lists = settings.php.out_lists(&settings.app).iter().map(|list| format!("{prefix}{list}")).collect();
        Self {
            app: settings.app.clone(),
            partitions: options.partitions,
            partition_jobs_max: (options.jobs_max / options.partitions as usize).max(1),
            batcher_items_max: options.batcher_items_max,
            confirm_timeout: options.confirm_timeout,
            lease: options.lease,
            partition_held_max: (settings.worker.held_max() / 4).max(1),
            dead_max: options.dead_max,
            dead_age_max: options.dead_age_max,
            store_ttl: options.store_ttl,
            php_lists,
            php_item_bytes_max: usize::try_from(item_max.as_u64()).unwrap_or(usize::MAX),
            php_prefix: prefix.clone(),
            php_waiting_max: *waiting_max,
            php_in_lists: in_lists.into_iter().collect(),
            tls: TlsFiles {
                ca: options.tls_ca_file.clone(),
                certificate: options.tls_cert_file.clone(),
                key: options.tls_key_file.clone(),
            },
        }
    }
}

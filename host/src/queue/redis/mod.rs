//! The queue in Redis: streams with leased partitions in, one stream per node out.

mod address;
pub mod admin;
mod answers;
mod batch;
mod batcher;
mod bridge;
mod commands;
mod connect;
mod consumer;
mod dedup;
mod encode;
mod feed;
mod holdings;
mod inbox;
mod keys;
mod lease;
mod line;
mod link;
mod local;
mod online;
mod orphans;
mod outbox;
mod pace;
mod pauses;
mod presence;
mod pushes;
mod resp;
mod scripts;
mod socket;
mod store;
mod streak;
mod writer;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::batcher::Batcher;
use self::connect::Connector;
use self::inbox::Lengths;
use self::local::LocalNodes;
use self::pushes::Lists;
use crate::queue::{Queue, QueueError, QueueOptions};

/// Everything the halves of the queue share.
struct Redis {
    connector: Arc<Connector>,
    batcher: Batcher,
    options: QueueOptions,
    lengths: Lengths,
    lists: Lists,
    nodes: LocalNodes,
    tasks: TaskTracker,
    itself: Weak<Self>,
    process: u64,
    counter: AtomicU64,
    /// Deliveries sent.
    sent: metrics::Counter,
}

impl Redis {
    fn itself(&self) -> Result<Arc<Self>, QueueError> {
        self.itself.upgrade().ok_or(QueueError::Closed)
    }

    /// A text that no other call on any process gets.
    fn unique(&self) -> String {
        format!("{:016x}.{}", self.process, self.counter.fetch_add(1, Ordering::Relaxed))
    }
}

/// Opens the queue at `url` (`redis://[user:password@]host:port/db` or `unix:///path`). Does not wait for Redis: until it answers,
/// health is [`Down`](crate::queue::Health::Down) with the reason, and it is tried again with backoff.
///
/// Must be called inside a Tokio runtime. `stop` ends the tasks, which run in `tasks`; fire it after workers and nodes have left: what
/// waits in the batcher then has three more seconds.
///
/// # Errors
/// [`QueueError::Invalid`] for a URL or an app name that can't be used.
pub fn open(url: &str, options: QueueOptions, stop: CancellationToken, tasks: &TaskTracker) -> Result<Queue, QueueError> {
    let (connector, health) = Connector::new(url, &options, stop)?;
    let connector = Arc::new(connector);
    let (batcher, writer) = Batcher::new(Arc::clone(&connector), options.batcher_items_max, options.confirm_timeout);
    let process = getrandom::u64().map_err(|error| QueueError::Refused(format!("no random numbers: {error}")))?;
    let redis = Arc::new_cyclic(|itself| Redis {
        connector: Arc::clone(&connector),
        batcher,
        options,
        lengths: Lengths::default(),
        lists: Lists::default(),
        nodes: LocalNodes::default(),
        tasks: tasks.clone(),
        itself: itself.clone(),
        process,
        counter: AtomicU64::new(0),
        sent: metrics::counter!("plugsocket_deliveries_sent_total"),
    });
    tasks.spawn(async move { connector.supervise().await });
    tasks.spawn(writer.run());
    tasks.spawn(inbox::watch_lengths(Arc::clone(&redis)));
    tasks.spawn(pushes::watch(Arc::clone(&redis)));
    Ok(Queue { inbox: redis.clone(), outbox: redis.clone(), presence: redis.clone(), store: redis, health })
}

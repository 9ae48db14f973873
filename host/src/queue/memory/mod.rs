//! The queue inside one process.

mod inbox;
mod nodes;
mod store;

use std::sync::Arc;

use tokio::sync::watch;

use self::inbox::MemoryInbox;
use self::nodes::Nodes;
use self::store::MemoryStore;
use super::{Health, Queue, QueueOptions};

/// Opens an empty queue; it lives as long as its clones. Nothing of it outlives the process.
#[must_use]
#[expect(clippy::needless_pass_by_value, reason = "opened like the queue in Redis, which keeps them")]
pub fn open(options: QueueOptions) -> Queue {
    open_parts(&options).0
}

fn open_parts(options: &QueueOptions) -> (Queue, Arc<MemoryInbox>) {
    // Health never changes: a receiver keeps its last value when the sender is gone.
    let (_, health) = watch::channel(Health::Up);
    let inbox = Arc::new(MemoryInbox::new(options));
    let nodes = Arc::new(Nodes::new(options));
    let queue = Queue { inbox: inbox.clone(), outbox: nodes.clone(), presence: nodes, store: Arc::new(MemoryStore::new(options)), health };
    (queue, inbox)
}

/// A queue, and a way to see its dead letters: the job's action and the reason.
#[cfg(test)]
pub(super) fn open_with_dead(options: &QueueOptions) -> (Queue, impl Fn() -> Vec<(String, String)> + Send + Sync + use<>) {
    let (queue, inbox) = open_parts(options);
    (queue, move || inbox.dead_letters())
}

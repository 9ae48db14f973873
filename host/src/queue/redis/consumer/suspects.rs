//! Which of the entries that were pending for somebody are suspects: in hand at two ends of a worker in a row, or running alone at one.

use std::collections::{HashMap, HashSet};

use redis::Value;

use super::{CLAIM_COUNT, RedisConsumer, unreachable};
use crate::queue::redis::answers::{integer, refusal, stream_id, text};
use crate::queue::redis::connect::CALL_TIMEOUT;
use crate::queue::redis::keys::GROUP;
use crate::queue::redis::link::Link;
use crate::queue::redis::resp;
use crate::queue::redis::scripts::{SUSPECT, evalsha};
use crate::queue::{QueueError, Receipt};
use crate::wire::ids::StreamId;

/// What is known of entries that were pending for somebody.
pub(super) struct Suspicion {
    /// How often each was delivered to others.
    deliveries: HashMap<StreamId, u64>,
    /// Pending for ourselves: put out of hand when the lease lapsed, and we have not crashed.
    ours: HashSet<StreamId>,
    /// Starts of suspects that no end followed.
    starts: HashMap<StreamId, u32>,
}

/// So many deliveries to others make a suspect: the first, and one after a crash. A worker that is killed, or loses its lease, has much in hand
/// that did nothing; what has been in hand at two ends in a row is looked at one by one.
const SUSPECT_DELIVERIES: u64 = 2;

impl Suspicion {
    /// How often somebody crashed while it ran alone. Nothing of our own entries: a start of our own may be among the starts.
    pub(super) fn crashes(&self, entry: StreamId) -> u32 {
        if self.ours.contains(&entry) { 0 } else { self.starts.get(&entry).copied().unwrap_or(0) }
    }

    /// Whether Redis counts a start of it.
    pub(super) fn is_marked(&self, entry: StreamId) -> bool {
        self.starts.contains_key(&entry)
    }

    pub(super) fn is_suspect(&self, entry: StreamId) -> bool {
        self.is_marked(entry) || self.deliveries.get(&entry).is_some_and(|deliveries| *deliveries >= SUSPECT_DELIVERIES)
    }
}

impl RedisConsumer {
    /// What was noted of a partition's suspects.
    pub(super) async fn suspicion(&self, partition: u32) -> Result<Suspicion, QueueError> {
        Ok(Suspicion { deliveries: HashMap::new(), ours: HashSet::new(), starts: self.starts(partition).await? })
    }

    /// Finds out whose the pending entries from `start` on are, and how often they were delivered to others.
    pub(super) async fn note_pending(&self, link: &mut Link, key: &str, start: &str, suspicion: &mut Suspicion) -> Result<(), QueueError> {
        let mut command = redis::cmd("XPENDING");
        command.arg(key).arg(GROUP).arg(start).arg("+").arg(CLAIM_COUNT);
        let answer = link.call(command.get_packed_command().into(), CALL_TIMEOUT).await.map_err(|error| unreachable(&error))?;
        let Ok(Value::Array(pending)) = resp::value(&answer) else { return Err(refusal(&answer)) };
        (suspicion.deliveries, suspicion.ours) = Default::default();
        for facts in &pending {
            let Value::Array(facts) = facts else { continue };
            let [entry, consumer, _, count] = &facts[..] else { continue };
            let Some(entry) = stream_id(entry) else { continue };
            if text(consumer) == self.lease.worker.as_str() {
                suspicion.ours.insert(entry);
            } else if let Some(count) = integer(count).and_then(|count| u64::try_from(count).ok()) {
                suspicion.deliveries.insert(entry, count);
            }
        }
        Ok(())
    }

    /// Starts of this partition's suspects that no end followed.
    async fn starts(&self, partition: u32) -> Result<HashMap<StreamId, u32>, QueueError> {
        let key = self.redis.connector.keys().suspects(partition);
        let answer = self.redis.connector.call(redis::cmd("HGETALL").arg(&key)).await.map_err(|error| match error {
            QueueError::Invalid(reason) => QueueError::Invalid(format!("{reason}; remove it: DEL '{key}'")),
            other => other,
        })?;
        let Value::Array(flat) = answer else { return Ok(HashMap::new()) };
        let count = |value: &Value| integer(value).and_then(|count| u32::try_from(count).ok()).unwrap_or(0);
        Ok(flat.chunks_exact(2).filter_map(|pair| Some((stream_id(&pair[0])?, count(&pair[1])))).collect())
    }

    pub(super) async fn count_alone(&self, receipt: &Receipt, by: i32) -> Result<(), QueueError> {
        let mut command = evalsha(&SUSPECT, 1);
        command.arg(self.redis.connector.keys().suspects(receipt.partition)).arg(receipt.entry.to_string()).arg(by);
        self.redis.connector.call(&command).await.map(drop)
    }
}

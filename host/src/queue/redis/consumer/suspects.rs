//! Which of the entries that were pending for somebody are suspects: in hand at two ends of a worker in a row, or running alone at one.

use std::collections::HashMap;

use redis::Value;

use super::{CLAIM_COUNT, RedisConsumer, unreachable};
use crate::queue::redis::answers::{integer, refusal, text};
use crate::queue::redis::connect::CALL_TIMEOUT;
use crate::queue::redis::keys::GROUP;
use crate::queue::redis::link::Link;
use crate::queue::redis::resp;
use crate::queue::redis::scripts::{SUSPECT, evalsha};
use crate::queue::{QueueError, Receipt};

/// What is known of entries that were pending for somebody.
pub(super) struct Suspicion {
    /// How often each was delivered to others.
    pub(super) deliveries: HashMap<String, u64>,
    /// Starts of suspects that no end followed.
    pub(super) crashes: HashMap<String, u32>,
}

/// So many deliveries to others make a suspect: the first, and one after a crash. A worker that is killed, or loses its lease, has much in hand
/// that did nothing; what has been in hand at two ends in a row is looked at one by one.
const SUSPECT_DELIVERIES: u64 = 2;

impl Suspicion {
    pub(super) fn crashes(&self, entry: &str) -> u32 {
        self.crashes.get(entry).copied().unwrap_or(0)
    }

    pub(super) fn is_suspect(&self, entry: &str) -> bool {
        self.crashes(entry) > 0 || self.deliveries.get(entry).is_some_and(|deliveries| *deliveries >= SUSPECT_DELIVERIES)
    }
}

impl RedisConsumer {
    /// What was noted of a partition's suspects.
    pub(super) async fn suspicion(&self, partition: u32) -> Result<Suspicion, QueueError> {
        Ok(Suspicion { deliveries: HashMap::new(), crashes: self.crashes(partition).await? })
    }

    /// How often entries from `start` on were delivered to others.
    pub(super) async fn deliveries(&self, link: &mut Link, key: &str, start: &str) -> Result<HashMap<String, u64>, QueueError> {
        let mut command = redis::cmd("XPENDING");
        command.arg(key).arg(GROUP).arg(start).arg("+").arg(CLAIM_COUNT);
        let answer = link.call(command.get_packed_command().into(), CALL_TIMEOUT).await.map_err(|error| unreachable(&error))?;
        let Ok(Value::Array(pending)) = resp::value(&answer) else { return Err(refusal(&answer)) };
        let fact = |facts: &Value| {
            let Value::Array(facts) = facts else { return None };
            let [entry, consumer, _, count] = &facts[..] else { return None };
            // What is our own was put out of hand when the lease lapsed, and we have not crashed.
            let is_ours = text(consumer) == self.lease.worker.as_str();
            (!is_ours).then_some((text(entry), u64::try_from(integer(count)?).ok()?))
        };
        Ok(pending.iter().filter_map(fact).collect())
    }

    /// Starts of this partition's suspects that no end followed.
    async fn crashes(&self, partition: u32) -> Result<HashMap<String, u32>, QueueError> {
        let key = self.redis.connector.keys().suspects(partition);
        let answer = self.redis.connector.call(redis::cmd("HGETALL").arg(&key)).await.map_err(|error| match error {
            QueueError::Invalid(reason) => QueueError::Invalid(format!("{reason}; remove it: DEL '{key}'")),
            other => other,
        })?;
        let Value::Array(flat) = answer else { return Ok(HashMap::new()) };
        let count = |value: &Value| integer(value).and_then(|count| u32::try_from(count).ok()).unwrap_or(0);
        Ok(flat.chunks_exact(2).map(|pair| (text(&pair[0]), count(&pair[1]))).collect())
    }

    pub(super) async fn count_alone(&self, receipt: &Receipt, by: i32) -> Result<(), QueueError> {
        let mut command = evalsha(&SUSPECT, 1);
        command.arg(self.redis.connector.keys().suspects(receipt.partition)).arg(&receipt.entry).arg(by);
        self.redis.connector.call(&command).await.map(drop)
    }
}

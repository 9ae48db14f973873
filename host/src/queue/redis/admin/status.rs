//! How much waits where, who works on it, and how Redis is.

use redis::{Pipeline, Value};
use serde::Serialize;

use super::{Admin, STATUS, count, now_ms};
use crate::queue::QueueError;
use crate::queue::redis::answers::text;
use crate::queue::redis::keys::GROUP;

/// The whole at one moment. Its JSON is what `plugsocket queue status --json` prints; members are added, not changed.
#[derive(Debug, Clone, Serialize)]
pub struct QueueStatus {
    /// The app's name.
    pub app: String,
    /// Redis's time, ms since the Unix epoch.
    pub time_ms: u64,
    /// The server.
    pub redis: Memory,
    /// Servers whose lease lives.
    pub servers: Vec<Server>,
    /// Workers whose lease lives.
    pub workers: Vec<Worker>,
    /// All partitions, by number.
    pub partitions: Vec<PartitionStatus>,
    /// Their sum.
    pub totals: Totals,
    /// The PHP package's lists.
    pub php: Php,
    /// Partitions that an unfinished `repartition` makes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repartition: Option<u32>,
}

/// How much room Redis has. Bytes.
#[derive(Debug, Clone, Serialize)]
pub struct Memory {
    /// Its version.
    pub version: String,
    /// `used_memory`
    pub used: u64,
    /// `maxmemory`; 0 = no limit.
    pub max: u64,
    /// `maxmemory-policy`; anything but `noeviction` is refused by servers and workers.
    pub policy: String,
    /// At its limit: takes no new messages until it has drained.
    pub full: bool,
}

/// A server's lease.
#[derive(Debug, Clone, Serialize)]
pub struct Server {
    /// Its node id.
    pub id: String,
    /// What is left of the lease, ms.
    pub lease_ms: u64,
}

/// A worker's lease.
#[derive(Debug, Clone, Serialize)]
pub struct Worker {
    /// Its id.
    pub id: String,
    /// What is left of the lease, ms.
    pub lease_ms: u64,
    /// Partitions it owns.
    pub partitions: usize,
}

/// One partition.
#[derive(Debug, Clone, Serialize)]
pub struct PartitionStatus {
    /// Its number.
    pub partition: u32,
    /// Jobs not delivered to a worker yet.
    pub waiting: u64,
    /// Jobs in a worker's hand, or left there by one that died.
    pub in_flight: u64,
    /// Jobs put back or scheduled for later.
    pub later: u64,
    /// Dead letters.
    pub dead: u64,
    /// Age of the oldest job that waits or is in flight.
    pub oldest_ms: Option<u64>,
    /// The worker that owns it; one whose lease ended owns nothing.
    pub worker: Option<String>,
    /// A key that can't be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl PartitionStatus {
    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting + self.in_flight + self.later + self.dead == 0 && self.problem.is_none()
    }
}

/// Sums over all partitions.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Totals {
    /// Jobs not delivered to a worker yet.
    pub waiting: u64,
    /// Jobs in a worker's hand.
    pub in_flight: u64,
    /// Jobs for later.
    pub later: u64,
    /// Dead letters.
    pub dead: u64,
    /// Age of the oldest job that waits or is in flight.
    pub oldest_ms: Option<u64>,
}

/// The PHP package's lists.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Php {
    /// Items not picked up yet.
    pub waiting: u64,
    /// Items set aside.
    pub dead: u64,
    /// The lists of `[actions]`, in which messages wait for PHP.
    pub in_lists: Vec<InList>,
}

/// A list of `[actions]`.
#[derive(Debug, Clone, Serialize)]
pub struct InList {
    /// Its key, with the prefix.
    pub list: String,
    /// Messages that PHP has not taken yet.
    pub waiting: u64,
    /// Why it can't be read: another kind of value has its name, most often.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Commands before the partitions' own.
const HEAD: usize = 5;

impl Admin {
    /// Counts everything: two round trips, whose cost grows with the partitions and not with the jobs.
    ///
    /// # Errors
    /// [`QueueError`]
    pub async fn status(&mut self) -> Result<QueueStatus, QueueError> {
        self.read_config().await?;
        let answers = self.many(&self.questions()).await?;
        if let Some(Value::ServerError(error)) = answers.first() {
            return Err(self.refused(error));
        }
        let answer = |index: usize| answers.get(index).unwrap_or(&Value::Nil);
        let now = now_ms(answer(0));
        let live = |index: usize| members(answer(index), now);
        let owners = pairs(answer(4));
        let is_live = |worker: &str| live(2).iter().any(|(id, _)| id == worker);
        let owner = |partition: u32| {
            let (_, value) = owners.iter().find(|(name, _)| *name == partition.to_string())?;
            value.split(' ').next().filter(|worker| is_live(worker)).map(ToOwned::to_owned)
        };
        let mut partitions = Vec::new();
        for partition in 0..self.partitions {
            let value = answer(HEAD + partition as usize);
            if let Value::ServerError(error) = value {
                return Err(self.refused(error));
            }
            partitions.push(partition_status(partition, value, now, owner(partition)));
        }
        let owned = |id: &str| partitions.iter().filter(|partition| partition.worker.as_deref() == Some(id)).count();
        let workers = live(2).into_iter().map(|(id, lease_ms)| Worker { partitions: owned(&id), id, lease_ms }).collect();
        let lists = HEAD + partitions.len();
        let in_lists = lists + self.php_lists.len();
        let in_list = |(index, list): (usize, &String)| match answer(in_lists + index) {
            Value::ServerError(error) => InList { list: list.clone(), waiting: 0, problem: Some(error.to_string()) },
            value => InList { list: list.clone(), waiting: count(value), problem: None },
        };
        let php = Php {
            waiting: (lists..in_lists).map(|index| count(answer(index))).sum(),
            dead: answers.last().map(count).unwrap_or(0),
            in_lists: self.php_in_lists.iter().enumerate().map(in_list).collect(),
        };
        Ok(QueueStatus {
            app: self.keys.app().to_owned(),
            time_ms: now,
            redis: memory(&text(answer(1))),
            servers: live(3).into_iter().map(|(id, lease_ms)| Server { id, lease_ms }).collect(),
            workers,
            totals: totals(&partitions),
            partitions,
            php,
            repartition: self.repartition,
        })
    }

    fn questions(&self) -> Pipeline {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("TIME");
        pipeline.cmd("INFO");
        pipeline.cmd("ZRANGE").arg(self.keys.workers()).arg(0).arg(-1).arg("WITHSCORES");
        pipeline.cmd("ZRANGE").arg(self.keys.nodes()).arg(0).arg(-1).arg("WITHSCORES");
        pipeline.cmd("HGETALL").arg(self.keys.owners());
        for partition in 0..self.partitions {
            pipeline.cmd("EVAL").arg(STATUS).arg(3);
            pipeline.arg(self.keys.incoming(partition)).arg(self.keys.later(partition)).arg(self.keys.dead(partition)).arg(GROUP);
        }
        for list in self.php_lists.iter().chain(&self.php_in_lists) {
            pipeline.cmd("LLEN").arg(list);
        }
        pipeline.cmd("LLEN").arg(self.keys.php_dead());
        pipeline
    }
}

fn partition_status(partition: u32, answer: &Value, now: u64, worker: Option<String>) -> PartitionStatus {
    let parts = match answer {
        Value::Array(parts) => &parts[..],
        _ => &[],
    };
    let number = |index: usize| parts.get(index).map(count).unwrap_or(0);
    let first = parts.get(2).map(text).unwrap_or_default();
    let born: Option<u64> = first.split('-').next().and_then(|ms| ms.parse().ok());
    let problem = parts.get(5).map(text).filter(|problem| !problem.is_empty());
    PartitionStatus {
        partition,
        waiting: number(0).saturating_sub(number(1)),
        in_flight: number(1),
        later: number(3),
        dead: number(4),
        oldest_ms: born.map(|born| now.saturating_sub(born)),
        worker,
        problem,
    }
}

fn totals(partitions: &[PartitionStatus]) -> Totals {
    partitions.iter().fold(Totals::default(), |sum, one| Totals {
        waiting: sum.waiting + one.waiting,
        in_flight: sum.in_flight + one.in_flight,
        later: sum.later + one.later,
        dead: sum.dead + one.dead,
        oldest_ms: sum.oldest_ms.max(one.oldest_ms),
    })
}

/// Those of a zset of leases that have not ended, with what is left of each in ms.
pub(super) fn members(answer: &Value, now: u64) -> Vec<(String, u64)> {
    let left = |(id, end): (String, String)| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "times in ms are far below 2^53")]
        let end = end.parse::<f64>().ok()? as u64;
        (end > now).then(|| (id, end - now))
    };
    pairs(answer).into_iter().filter_map(left).collect()
}

fn pairs(answer: &Value) -> Vec<(String, String)> {
    let Value::Array(flat) = answer else { return Vec::new() };
    flat.chunks_exact(2).map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
}

fn memory(info: &str) -> Memory {
    let find = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default().trim();
    let number = |name: &str| find(name).parse().unwrap_or(0);
    let (used, max) = (number("used_memory"), number("maxmemory"));
    let version = if find("valkey_version").is_empty() { find("redis_version") } else { find("valkey_version") };
    Memory { version: version.to_owned(), used, max, policy: find("maxmemory_policy").to_owned(), full: max > 0 && used >= max }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_from_info() {
        let memory =
            memory("redis_version:7.0.15\r\nused_memory:12\r\nused_memory_rss:99\r\nmaxmemory:10\r\nmaxmemory_policy:noeviction\r\n");
        assert_eq!((memory.version.as_str(), memory.used, memory.max, memory.full), ("7.0.15", 12, 10, true));
    }

    #[test]
    fn only_leases_that_live_are_members() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let answer = Value::Array([text("a"), text("99"), text("b"), text("1.5e2")].into());
        assert_eq!(members(&answer, 100), [("b".to_owned(), 50)]);
    }
}

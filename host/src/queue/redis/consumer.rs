//! One worker's end of the incoming queue: takes over, reads, settles.

mod ask;
mod settle;
mod suspects;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use redis::Value;
use tokio::sync::Mutex;
use tokio::time;
use tokio_util::sync::CancellationToken;

use self::ask::Asks;
use self::suspects::Suspicion;
use super::Redis;
use super::answers::{beginning, raw_entry, refusal, text};
use super::batch::{Settlements, Write};
use super::connect::{BLOCK, BLOCKING_TIMEOUT, CALL_TIMEOUT, Fence};
use super::holdings::{Hand, Holdings, Recovery, Standing};
use super::keys::GROUP;
use super::lease::Lease;
use super::link::{Link, LinkError};
use super::pace::{Pace, Portion};
use super::pauses::Complaint;
use super::resp::{Token, Walk};
use super::scripts::{CONSUMERS, GROUPS, evalsha};
use crate::queue::{Consumer, QueueError, Receipt, Taken, Verdict};
use crate::wire::ids::NodeId;
use crate::wire::job::Job;

const CLAIM_COUNT: usize = 200;
/// How long a partition is left alone that can't be read.
const BAD_KEY_PAUSE: Duration = Duration::from_secs(1);
/// How long a read waits for other partitions while one of ours is not read because of the jobs in hand: it has more, and soon has room.
const FULL_BLOCK: Duration = Duration::from_millis(10);
/// How long leaving waits for settlements on their way.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A consumer in Redis.
pub(super) struct RedisConsumer {
    redis: Arc<Redis>,
    lease: Arc<Lease>,
    holdings: Arc<Holdings>,
    reader: Mutex<Reader>,
    stop: CancellationToken,
}

#[derive(Default)]
struct Reader {
    link: Option<Link>,
    fence: Option<Fence>,
    surplus: VecDeque<Taken>,
    pace: Pace,
    asks: Asks,
    /// A read began and its end was not seen: the caller dropped it.
    interrupted: bool,
    /// About partitions that can't be read.
    complaint: Complaint,
}

impl RedisConsumer {
    pub(super) async fn join(redis: Arc<Redis>, worker: NodeId) -> Result<Arc<Self>, QueueError> {
        let holdings = Arc::new(Holdings::new(redis.options.lease, redis.options.partition_held_max));
        let lease = Arc::new(Lease::new(Arc::clone(&redis), worker, Arc::clone(&holdings)));
        let stop = redis.connector.stop().child_token();
        if let Err(error) = lease.renew().await {
            tracing::warn!(%error, "first lease not granted yet");
        }
        let (keeper, keeper_stop) = (Arc::clone(&lease), stop.clone());
        redis.tasks.spawn(async move { keeper.keep(&keeper_stop).await });
        let (promoter, promoter_stop) = (Arc::clone(&lease), stop.clone());
        redis.tasks.spawn(async move { promoter.promote(&promoter_stop).await });
        Ok(Arc::new(Self { redis, lease, holdings, reader: Mutex::default(), stop }))
    }

    async fn connect(&self, reader: &mut Reader) -> Result<Link, QueueError> {
        if let Some(link) = reader.link.take() {
            return Ok(link);
        }
        // Fenced: an abandoned read that ran late would take jobs that nobody then sees.
        let link = self.redis.connector.link(&mut reader.fence).await.map_err(|error| unreachable(&error))?;
        self.lease.reader.store(reader.fence.as_ref().map_or(0, |fence| fence.client), Ordering::Relaxed);
        Ok(link)
    }

    async fn read_once(&self, reader: &mut Reader, max: usize) -> Result<(), QueueError> {
        let mut link = self.connect(reader).await?;
        let result = self.read_by(&mut link, reader, max).await;
        if result.is_ok() {
            reader.link = Some(link);
        }
        result
    }

    async fn read_by(&self, link: &mut Link, reader: &mut Reader, max: usize) -> Result<(), QueueError> {
        let plan = self.holdings.plan();
        if !plan.recover.is_empty() {
            for (partition, recovery) in self.create_groups(plan.recover, &mut reader.complaint).await? {
                match self.recover(link, partition, recovery, &mut reader.surplus).await {
                    Ok(()) => self.holdings.recovered(partition),
                    Err(error @ (QueueError::Invalid(_) | QueueError::Refused(_))) => {
                        self.set_apart(partition, &error.to_string(), &mut reader.complaint);
                    }
                    Err(error) => return Err(error),
                }
            }
            return Ok(());
        }
        if plan.read.is_empty() {
            let _ = time::timeout(BLOCK, self.holdings.changed.notified()).await;
            return Ok(());
        }
        let Portion { partitions, count, block } = reader.pace.portion(&plan.read, max);
        let ask = reader.asks.of(self.redis.connector.keys(), partitions);
        let wait = if plan.is_any_full { FULL_BLOCK } else { BLOCK };
        let command = ask.command(self.lease.worker.as_str(), count, block.then_some(wait));
        // Stopped since the plan was made (a frozen process), it would take jobs between those that another worker reads by now.
        if !self.holdings.is_fresh() {
            return Ok(());
        }
        let answer = link.call(command, BLOCKING_TIMEOUT).await.map_err(|error| unreachable(&error))?;
        let mut walk = Walk::new(&answer);
        let streams = match walk.next() {
            Some(Token::Array(streams)) => streams,
            Some(Token::Error(_)) => {
                let error = refusal(&answer);
                if error.to_string().contains("NOGROUP") {
                    tracing::error!("a partition's group is gone (flushed?); it is made again");
                }
                return Err(error);
            }
            _ => 0,
        };
        let (before, mut next) = (reader.surplus.len(), 0);
        for _ in 0..streams {
            walk.array();
            let key = walk.bulk().unwrap_or_default();
            let entries = walk.array().unwrap_or(0);
            let Some(partition) = ask.partition_of(key, &mut next) else {
                walk.skip(entries);
                continue;
            };
            for _ in 0..entries {
                self.accept(partition, &mut walk, None, &mut reader.surplus).await?;
            }
        }
        reader.pace.note(max, streams, reader.surplus.len() - before, block);
        Ok(())
    }

    /// Makes the groups that are not there; answers the partitions that can be read. The others are paused: one bad key must not hold up
    /// the rest, and it heals when somebody removes it.
    async fn create_groups(
        &self,
        mut partitions: Vec<(u32, Recovery)>,
        complaint: &mut Complaint,
    ) -> Result<Vec<(u32, Recovery)>, QueueError> {
        let mut command = evalsha(&GROUPS, partitions.len());
        for (partition, _) in &partitions {
            command.arg(self.redis.connector.keys().incoming(*partition));
        }
        let answer = self.redis.connector.call(command.arg(GROUP)).await?;
        let Value::Array(errors) = answer else { return Err(QueueError::Refused(format!("groups script answered {answer:?}"))) };
        let mut errors = errors.iter().map(text);
        partitions.retain(|(partition, _)| {
            let error = errors.next().unwrap_or_default();
            if error.is_empty() {
                return true;
            }
            let key = self.redis.connector.keys().incoming(*partition);
            self.set_apart(*partition, &format!("{error}; when its key is not a stream, remove it: DEL '{key}'"), complaint);
            false
        });
        Ok(partitions)
    }

    /// Leaves a partition alone for a while that can't be read.
    fn set_apart(&self, partition: u32, reason: &str, complaint: &mut Complaint) {
        self.holdings.pause(partition, BAD_KEY_PAUSE);
        metrics::counter!("plugsocket_partitions_unreadable_total").increment(1);
        if complaint.is_due() {
            tracing::error!(partition, reason, "a partition can't be read; tried again until it is mended");
        }
    }

    /// Claims everything that is pending in a partition, whoever's it was.
    async fn recover(&self, link: &mut Link, partition: u32, recovery: Recovery, surplus: &mut VecDeque<Taken>) -> Result<(), QueueError> {
        let key = self.redis.connector.keys().incoming(partition);
        let mut suspicion = self.suspicion(partition).await?;
        let mut cursor = "0-0".to_owned();
        loop {
            // Before they are claimed: that makes them ours, and counts as a delivery.
            self.note_pending(link, &key, &cursor, &mut suspicion).await?;
            let mut command = redis::cmd("XAUTOCLAIM");
            command.arg(&key).arg(GROUP).arg(self.lease.worker.as_str()).arg(0).arg(&cursor).arg("COUNT").arg(CLAIM_COUNT);
            if !self.holdings.is_fresh() {
                return Err(QueueError::Unreachable("the lease was not renewed in time".to_owned()));
            }
            let answer = link.call(command.get_packed_command().into(), CALL_TIMEOUT).await.map_err(|error| unreachable(&error))?;
            let mut walk = Walk::new(&answer);
            match walk.next() {
                Some(Token::Array(_)) => {}
                Some(Token::Error(_)) => return Err(refusal(&answer)),
                other => return Err(QueueError::Refused(format!("XAUTOCLAIM answered {other:?}"))),
            }
            cursor = walk.bulk().map(|cursor| String::from_utf8_lossy(cursor).into_owned()).unwrap_or_default();
            for _ in 0..walk.array().unwrap_or(0) {
                self.accept(partition, &mut walk, Some(&suspicion), surplus).await?;
            }
            if cursor == "0-0" || cursor.is_empty() {
                break;
            }
        }
        if recovery == Recovery::TakeOver {
            self.remove_idle_consumers(&key).await?;
        }
        Ok(())
    }

    /// Former owners stay listed in the group for ever otherwise.
    async fn remove_idle_consumers(&self, key: &str) -> Result<(), QueueError> {
        let mut command = evalsha(&CONSUMERS, 1);
        self.redis.connector.call(command.arg(key).arg(GROUP).arg(self.lease.worker.as_str())).await.map(drop)
    }

    /// Takes an entry in hand, unless it is there already, was taken under another entry, or is no job.
    async fn accept(
        &self,
        partition: u32,
        walk: &mut Walk<'_>,
        suspicion: Option<&Suspicion>,
        surplus: &mut VecDeque<Taken>,
    ) -> Result<(), QueueError> {
        let Some((entry, fields)) = raw_entry(walk) else { return Ok(()) };
        if self.holdings.holds(partition, entry) {
            return Ok(());
        }
        match Job::from_fields(fields.iter().copied()) {
            Ok(job) => {
                match self.holdings.take(partition, entry, &job.session, job.sequence) {
                    Hand::Taken(delivery) => {
                        let crashes = suspicion.map_or(0, |suspicion| suspicion.crashes(entry));
                        let suspect = suspicion.is_some_and(|suspicion| suspicion.is_suspect(entry));
                        if suspicion.is_some_and(|suspicion| suspicion.is_marked(entry)) {
                            self.holdings.mark(partition, entry);
                        }
                        surplus.push_back(Taken { job, receipt: Receipt { partition, entry, delivery }, suspect, crashes });
                        return Ok(());
                    }
                    Hand::NotYet => return Ok(()),
                    Hand::Twice => {}
                }
                metrics::counter!("plugsocket_jobs_duplicate_total").increment(1);
                let acknowledged = self.acknowledge(partition, entry).await;
                if acknowledged.is_err() {
                    self.holdings.settled(partition, &[entry]);
                }
                acknowledged
            }
            Err(error) => {
                metrics::counter!("plugsocket_jobs_garbage_total").increment(1);
                tracing::error!(partition, %entry, %error, "queue entry is no job; set aside");
                let flat: Vec<&[u8]> = fields.iter().flat_map(|(name, value)| [beginning(name), beginning(value)]).collect();
                self.set_aside(&Receipt { partition, entry, delivery: 0 }, &flat, &error.to_string(), 0, "").await
            }
        }
    }
}

#[async_trait]
impl Consumer for RedisConsumer {
    async fn take(&self, max: usize) -> Result<Vec<Taken>, QueueError> {
        let max = max.max(1);
        let mut reader = self.reader.lock().await;
        if reader.interrupted {
            reader.link = None;
            self.holdings.read_ended(true);
        }
        if reader.surplus.is_empty() && !self.holdings.is_leaving() {
            reader.interrupted = true;
            let result = self.read_once(&mut reader, max).await;
            reader.interrupted = false;
            self.holdings.read_ended(result.is_err());
            if let Err(error) = result {
                reader.link = None;
                reader.pace = Pace::default();
                self.lease.reader.store(0, Ordering::Relaxed);
                if reader.surplus.is_empty() {
                    return Err(error);
                }
            }
        }
        let count = reader.surplus.len().min(max);
        Ok(reader.surplus.drain(..count).collect())
    }

    fn may_start(&self, receipt: &Receipt) -> bool {
        self.holdings.may_start(receipt.partition, receipt.entry, receipt.delivery)
    }

    fn is_in_hand(&self, receipt: &Receipt) -> bool {
        self.holdings.standing(receipt.partition, receipt.entry, receipt.delivery) != Standing::Past
    }

    async fn start_alone(&self, receipt: &Receipt) -> Result<(), QueueError> {
        self.count_alone(receipt, 1).await?;
        self.holdings.mark(receipt.partition, receipt.entry);
        Ok(())
    }

    async fn retract_alone(&self, receipt: &Receipt) -> Result<(), QueueError> {
        self.count_alone(receipt, -1).await
    }

    async fn settle(&self, receipt: Receipt, verdict: Verdict) -> Result<(), QueueError> {
        let standing = self.holdings.standing(receipt.partition, receipt.entry, receipt.delivery);
        if !matches!(verdict, Verdict::Done) && standing == Standing::Past {
            // Whoever has it now decides: put back as well, it would run once more.
            metrics::counter!("plugsocket_verdicts_late_total").increment(1);
            return Ok(());
        }
        let result = self.conclude(&receipt, verdict, standing).await;
        if result.is_err() {
            // In hand without anybody who settles it, it would be pending for ever and hold up the partition's release.
            self.holdings.put_back(receipt.partition, receipt.entry, receipt.delivery);
        }
        result
    }

    fn try_done(&self, receipt: &Receipt) -> bool {
        if self.holdings.standing(receipt.partition, receipt.entry, receipt.delivery) != Standing::Current {
            return false; // There may be a count of its starts to be removed.
        }
        let write = Write::Ack { partition: receipt.partition, entry: receipt.entry, to: Arc::clone(&self.holdings) as _ };
        self.redis.batcher.free(write.bytes()).map(|permit| permit.send(write)).is_some()
    }

    async fn leave(&self) {
        self.holdings.leave();
        self.lease.unblock().await;
        let _reader = self.reader.lock().await;
        // Not for the jobs in hand: those that have no verdict by now will never have one here.
        if !matches!(time::timeout(LEAVE_TIMEOUT, self.redis.batcher.flush()).await, Ok(Ok(()))) {
            tracing::warn!("left with settlements that may not be stored; those jobs may run again elsewhere");
        }
        self.stop.cancel();
        self.holdings.abandon();
        if let Err(error) = self.lease.give_up().await {
            tracing::warn!(%error, "partitions could not be given free; they pass on when the lease ends");
        }
    }
}

impl Drop for RedisConsumer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn unreachable(error: &LinkError) -> QueueError {
    QueueError::Unreachable(error.to_string())
}

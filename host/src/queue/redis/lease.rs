//! A worker's lease: renewed on Redis's clock, with its fair share of the partitions.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use super::Redis;
use super::answers::{integer, text};
use super::holdings::Holdings;
use super::keys::GROUP;
use super::pauses::Complaint;
use super::scripts::{LEASE, PROMOTE, evalsha};
use crate::queue::QueueError;
use crate::wire::ids::NodeId;
use crate::wire::job::JOB_FIELDS;

/// A lease is renewed this many times within its length.
pub(super) const RENEWALS_PER_LEASE: u32 = 6;

const PROMOTE_MAX: usize = 256;
const PROMOTE_INTERVAL_MIN: Duration = Duration::from_millis(5);
const PROMOTE_INTERVAL_MAX: Duration = Duration::from_millis(200);

/// A lease that ended is looked for this much later: Redis's milliseconds and ours do not begin at the same moment.
const LEASE_END_SLACK: Duration = Duration::from_millis(5);

/// One worker's lease.
pub(super) struct Lease {
    pub(super) redis: Arc<Redis>,
    pub(super) worker: NodeId,
    pub(super) holdings: Arc<Holdings>,
    /// The connection that may be blocked in a read; 0 for none.
    pub(super) reader: AtomicI64,
    /// True once everything has been given free; a renewal must not come after it.
    gone: Mutex<bool>,
    /// Counts promotions.
    turn: AtomicUsize,
}

impl Lease {
    pub(super) fn new(redis: Arc<Redis>, worker: NodeId, holdings: Arc<Holdings>) -> Self {
        Self { redis, worker, holdings, reader: AtomicI64::new(0), gone: Mutex::new(false), turn: AtomicUsize::new(0) }
    }

    /// Renews once; releases what can be. Answers when the next lease of another worker ends, if it is not renewed: what it had is free then.
    pub(super) async fn renew(&self) -> Result<Option<Duration>, QueueError> {
        let gone = self.gone.lock().await;
        if *gone {
            return Ok(None);
        }
        let released = self.holdings.release();
        let sent = Instant::now();
        let answer = self.call("stay", &released).await?;
        drop(gone);
        let redis::Value::Array(parts) = &answer else {
            return Err(QueueError::Refused(format!("lease script answered {answer:?}")));
        };
        let quota = parts.first().and_then(integer).and_then(|quota| usize::try_from(quota).ok()).unwrap_or(0);
        let mut grants = Vec::new();
        if let Some(redis::Value::Array(numbers)) = parts.get(1) {
            for pair in numbers.chunks_exact(2) {
                if let (Some(partition), Some(epoch)) = (integer(&pair[0]), integer(&pair[1])) {
                    grants.push((u32::try_from(partition).unwrap_or(u32::MAX), u64::try_from(epoch).unwrap_or(0)));
                }
            }
        }
        if self.holdings.renewed(sent, quota, &grants) {
            self.holdings.changed.notify_waiters();
            self.unblock().await;
        }
        Ok(parts.get(2).and_then(integer).and_then(|end| u64::try_from(end).ok()).map(Duration::from_millis))
    }

    async fn call(&self, what: &str, released: &[u32]) -> Result<redis::Value, QueueError> {
        let connector = &self.redis.connector;
        let keys = connector.keys();
        let mut command = evalsha(&LEASE, 4);
        command.arg(keys.workers()).arg(keys.owners()).arg(keys.epoch()).arg(keys.quiet());
        command.arg(self.worker.as_str()).arg(u64::try_from(self.redis.options.lease.as_millis()).unwrap_or(u64::MAX));
        let held: Vec<String> = self.holdings.held().into_iter().map(|(partition, epoch)| format!("{partition} {epoch}")).collect();
        command.arg(connector.partitions()).arg(what).arg(held.join(" "));
        for partition in released {
            command.arg(*partition);
        }
        connector.call(&command).await
    }

    /// Ends a read that is waiting, so that the next one sees the partitions of now.
    pub(super) async fn unblock(&self) {
        let reader = self.reader.load(Ordering::Relaxed);
        if reader != 0 {
            let _ = self.redis.connector.call(redis::cmd("CLIENT").arg("UNBLOCK").arg(reader)).await;
        }
    }

    /// Gives everything free.
    pub(super) async fn give_up(&self) -> Result<(), QueueError> {
        *self.gone.lock().await = true;
        self.call("leave", &[]).await.map(drop)
    }

    /// Renews until stopped.
    pub(super) async fn keep(&self, stop: &CancellationToken) {
        let interval = self.redis.options.lease / RENEWALS_PER_LEASE;
        let mut complaint = Complaint::default();
        let mut searched = Instant::now();
        let mut pause = interval;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = time::sleep(pause) => {}
                () = self.holdings.releasable.notified(), if !self.holdings.is_leaving() => {}
            }
            let renewed = self.renew().await;
            pause = interval;
            match renewed {
                Err(error) => {
                    metrics::counter!("plugsocket_lease_renewals_failed_total").increment(1);
                    if complaint.is_due() {
                        tracing::warn!(worker = %self.worker, %error, "lease not renewed; tried again");
                    }
                }
                Ok(next_end) => {
                    // A worker that died is noticed when its lease ends, not up to a renewal later.
                    pause = next_end.map_or(interval, |end| interval.min(end + LEASE_END_SLACK));
                    if searched.elapsed() >= self.redis.options.lease {
                        searched = Instant::now();
                        // A failure is one of the connection, which others report; the next search is soon.
                        let _ = self.search_strays().await;
                    }
                }
            }
        }
    }

    /// Looks for entries of our partitions that other consumers hold. A read that was sent before its worker lost the partition, and ran
    /// after (a frozen process, a network that came back), took them; nobody would ever run them.
    async fn search_strays(&self) -> Result<(), QueueError> {
        let owned = self.holdings.recovered_ones();
        let mut pipeline = redis::Pipeline::new();
        for partition in &owned {
            pipeline.cmd("XPENDING").arg(self.redis.connector.keys().incoming(*partition)).arg(GROUP);
        }
        if owned.is_empty() {
            return Ok(());
        }
        let mut found = false;
        for (partition, answer) in owned.into_iter().zip(self.redis.connector.call_many(&pipeline).await?) {
            let redis::Value::Array(parts) = answer else { continue };
            let Some(redis::Value::Array(consumers)) = parts.get(3) else { continue };
            let is_other = |consumer: &redis::Value| match consumer {
                redis::Value::Array(facts) => facts.first().map(text).as_deref() != Some(self.worker.as_str()),
                _ => false,
            };
            if consumers.iter().any(is_other) {
                tracing::warn!(partition, "a former owner read late; its jobs are taken over");
                self.holdings.strayed(partition);
                found = true;
            }
        }
        if found {
            self.holdings.changed.notify_waiters();
            self.unblock().await;
        }
        Ok(())
    }

    /// Moves due jobs of the owned partitions from `:later` until stopped.
    pub(super) async fn promote(&self, stop: &CancellationToken) {
        let mut pause = PROMOTE_INTERVAL_MAX;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = time::sleep(pause) => {}
            }
            pause = match self.promote_once().await {
                Ok(Some(due)) => due.clamp(PROMOTE_INTERVAL_MIN, PROMOTE_INTERVAL_MAX),
                Ok(None) | Err(_) => PROMOTE_INTERVAL_MAX,
            };
        }
    }

    async fn promote_once(&self) -> Result<Option<Duration>, QueueError> {
        let mut owned = self.holdings.owned();
        if owned.is_empty() {
            return Ok(None);
        }
        // The script stops at its limit: begun elsewhere each time, no partition starves.
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let shift = turn % owned.len();
        owned.rotate_left(shift);
        let keys = self.redis.connector.keys();
        let mut command = evalsha(&PROMOTE, owned.len() * 3);
        for partition in &owned {
            command.arg(keys.later(*partition)).arg(keys.incoming(*partition)).arg(keys.dead(*partition));
        }
        command.arg(PROMOTE_MAX).arg(self.redis.options.dead_max).arg(&JOB_FIELDS[..]);
        let answer = self.redis.connector.call(&command).await?;
        let redis::Value::Array(parts) = answer else { return Ok(None) };
        Ok(parts.get(1).and_then(integer).and_then(|due| u64::try_from(due).ok()).map(Duration::from_millis))
    }
}

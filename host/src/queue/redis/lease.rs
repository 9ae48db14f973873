//! A worker's lease: renewed on Redis's clock, with its fair share of the partitions.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use super::Redis;
use super::answers::integer;
use super::holdings::Holdings;
use super::scripts::{LEASE, PROMOTE, evalsha};
use crate::queue::QueueError;
use crate::wire::ids::NodeId;
use crate::wire::job::JOB_FIELDS;

/// A lease is renewed this many times within its length.
pub(super) const RENEWALS_PER_LEASE: u32 = 6;

const PROMOTE_MAX: usize = 256;
const PROMOTE_INTERVAL_MIN: Duration = Duration::from_millis(5);
const PROMOTE_INTERVAL_MAX: Duration = Duration::from_millis(200);

/// One worker's lease.
pub(super) struct Lease {
    pub(super) redis: Arc<Redis>,
    pub(super) worker: NodeId,
    pub(super) holdings: Arc<Holdings>,
    /// The connection that may be blocked in a read; 0 for none.
    pub(super) reader: Arc<AtomicI64>,
}

impl Lease {
    /// Renews once; releases what can be.
    pub(super) async fn renew(&self) -> Result<(), QueueError> {
        let released = self.holdings.release();
        let sent = Instant::now();
        let answer = match self.call("stay", &released).await {
            Ok(answer) => answer,
            Err(error) => return Err(error),
        };
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
        Ok(())
    }

    async fn call(&self, what: &str, released: &[u32]) -> Result<redis::Value, QueueError> {
        let connector = &self.redis.connector;
        let keys = connector.keys();
        let mut command = evalsha(&LEASE, 3);
        command.arg(keys.workers()).arg(keys.owners()).arg(keys.epoch());
        command.arg(self.worker.as_str()).arg(u64::try_from(self.redis.options.lease.as_millis()).unwrap_or(u64::MAX));
        command.arg(connector.partitions()).arg(what);
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
        self.call("leave", &[]).await.map(drop)
    }

    /// Renews until stopped.
    pub(super) async fn keep(&self, stop: &CancellationToken) {
        let interval = self.redis.options.lease / RENEWALS_PER_LEASE;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = time::sleep(interval) => {}
                () = self.holdings.releasable.notified(), if !self.holdings.is_leaving() => {}
            }
            if let Err(error) = self.renew().await {
                metrics::counter!("plugsocket_lease_renewals_failed_total").increment(1);
                tracing::warn!(worker = %self.worker, %error, "lease not renewed");
            }
        }
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
        let owned = self.holdings.owned();
        if owned.is_empty() {
            return Ok(None);
        }
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

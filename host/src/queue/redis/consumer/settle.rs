//! How a job leaves the queue: acknowledged, put off, or set aside.

use std::sync::Arc;

use super::RedisConsumer;
use crate::queue::redis::batch::{Done, Write};
use crate::queue::redis::holdings::Standing;
use crate::queue::redis::inbox::{dead_command, job_fields, later_command, later_member};
use crate::queue::{QueueError, Receipt, Verdict};
use crate::wire::ids::StreamId;

impl RedisConsumer {
    pub(super) async fn acknowledge(&self, partition: u32, entry: StreamId) -> Result<(), QueueError> {
        self.redis.batcher.send(Write::Ack { partition, entry, to: Arc::clone(&self.holdings) as _ }).await
    }

    pub(super) fn settlement(&self, partition: u32, entry: StreamId) -> Done {
        Done::Settled { to: Arc::clone(&self.holdings) as _, partition, entry }
    }

    pub(super) async fn set_aside(
        &self,
        receipt: &Receipt,
        fields: &[&[u8]],
        reason: &str,
        attempts: u32,
        version: &str,
    ) -> Result<(), QueueError> {
        let mut command = dead_command(&self.redis, receipt.partition, Some(receipt.entry), fields);
        command.arg("reason").arg(reason).arg("attempts").arg(attempts).arg("version").arg(version);
        let done = self.settlement(receipt.partition, receipt.entry);
        self.redis.batcher.send(Write::Command { command, done }).await
    }

    /// Writes what a verdict says.
    pub(super) async fn conclude(&self, receipt: &Receipt, verdict: Verdict, standing: Standing) -> Result<(), QueueError> {
        if standing != Standing::Current {
            // Before the settlement, so that no count outlives its entry; what is not in hand may have one.
            let mut command = redis::cmd("HDEL");
            command.arg(self.redis.connector.keys().suspects(receipt.partition)).arg(receipt.entry.to_string());
            self.redis.batcher.send(Write::Command { command, done: Done::Nobody("suspect") }).await?;
        }
        match verdict {
            Verdict::Done => self.acknowledge(receipt.partition, receipt.entry).await,
            Verdict::Later { job, delay } => {
                self.holdings.forget(&job.session, job.sequence);
                // The entry's id is unique in its partition, and the same again when this is sent twice.
                let member = later_member(&job, &receipt.entry.to_string())?;
                let command = later_command(&self.redis, receipt.partition, &member, delay, Some(receipt.entry));
                let done = self.settlement(receipt.partition, receipt.entry);
                self.redis.batcher.send(Write::Command { command, done }).await
            }
            Verdict::Dead { job, reason, version } => {
                metrics::counter!("plugsocket_jobs_dead_total").increment(1);
                // Somebody may put it back by hand.
                self.holdings.forget(&job.session, job.sequence);
                let fields = job.to_fields();
                self.set_aside(receipt, &job_fields(&fields), &reason, job.attempts, &version).await
            }
        }
    }
}

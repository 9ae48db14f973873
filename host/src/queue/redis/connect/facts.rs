//! The app's own facts in Redis: how many partitions, which format, and whose data it is.

use redis::Value;
use redis::aio::MultiplexedConnection;

use std::sync::atomic::Ordering;

use super::Connector;
use crate::queue::QueueError;
use crate::queue::redis::admin::{REPARTITION, unfinished};
use crate::queue::redis::answers::{integer, text};
use crate::queue::redis::keys::{FORMAT_VERSION, FORMAT_VERSION_MIN};
use crate::wire::ids::NodeId;

impl Connector {
    /// Writes `:cfg` if it is not there, and takes the number of partitions from it.
    pub(super) async fn read_config(&self, connection: &mut MultiplexedConnection) -> Result<(), QueueError> {
        let key = self.keys.config();
        let mut pipeline = redis::Pipeline::new();
        pipeline.cmd("HSETNX").arg(&key).arg("partitions").arg(self.partitions_wanted);
        pipeline.cmd("HSETNX").arg(&key).arg("format").arg(FORMAT_VERSION);
        pipeline.cmd("HSETNX").arg(&key).arg("data").arg(random_name()?);
        pipeline.cmd("HMGET").arg(&key).arg("partitions").arg("format").arg("data").arg(REPARTITION);
        let answers = connection
            .send_packed_commands(&pipeline, 0, pipeline.len())
            .await
            .map_err(|error| QueueError::Unreachable(error.to_string()))?;
        let Some(Value::Array(values)) = answers.last() else {
            return Err(QueueError::Unreachable(format!("{key} can't be read: {answers:?}")));
        };
        let number = |index: usize| values.get(index).map(text).and_then(|text| text.parse::<u32>().ok());
        let (Some(partitions @ 1..), Some(format)) = (number(0), number(1)) else {
            return Err(QueueError::Refused(format!("{key} holds no partitions and format; delete it on a drained queue: DEL '{key}'")));
        };
        if (FORMAT_VERSION_MIN..FORMAT_VERSION).contains(&format) {
            let mut mark = redis::cmd("HSET");
            let marked = connection.send_packed_command(mark.arg(&key).arg("format").arg(FORMAT_VERSION)).await;
            marked.map_err(|error| QueueError::Unreachable(error.to_string()))?;
            tracing::warn!(
                from = format,
                to = FORMAT_VERSION,
                "the queue was an older release's: its servers and workers can't use it any more"
            );
        } else if format != FORMAT_VERSION {
            return Err(QueueError::Refused(format!("{key} has format {format}, this release knows {FORMAT_VERSION}")));
        }
        if let Some(target) = number(3) {
            // Not refused: this ends by itself, and who starts meanwhile waits for it.
            return Err(QueueError::Unreachable(unfinished(target)));
        }
        if partitions != self.partitions_wanted && self.partitions() != partitions {
            tracing::warn!(
                stored = partitions,
                configured = self.partitions_wanted,
                "the number of partitions stays as it was when the app first started; `plugsocket queue repartition` changes it"
            );
        }
        self.partitions.store(partitions, Ordering::Relaxed);
        let data = values.get(2).map(text).unwrap_or_default();
        let known = std::mem::replace(&mut *self.data.lock().unwrap_or_else(std::sync::PoisonError::into_inner), data.clone());
        if !known.is_empty() && known != data {
            metrics::counter!("plugsocket_queue_losses_total").increment(1);
            tracing::error!(
                "Redis lost the app's keys (flushed, or restarted without its data): what waited in it is gone; they are made again"
            );
        }
        Ok(())
    }

    /// How many partitions the app's data has, on a server that takes writes: one that became a replica, or can't write to its disk, refuses
    /// them though it answers. PERSIST changes nothing, and is allowed on a full Redis. `None` when the data is not the known one.
    pub(super) async fn probe(&self, connection: &mut MultiplexedConnection) -> Result<Option<u32>, String> {
        let mut pipeline = redis::Pipeline::new();
        pipeline.cmd("PERSIST").arg(self.keys.config());
        pipeline.cmd("HMGET").arg(self.keys.config()).arg("partitions").arg("data").arg(REPARTITION);
        let answers = connection.send_packed_commands(&pipeline, 0, 2).await.map_err(|error| error.to_string())?;
        if let Some(Value::ServerError(error)) = answers.iter().find(|answer| matches!(answer, Value::ServerError(_))) {
            return Err(error.to_string());
        }
        let Some(Value::Array(values)) = answers.get(1) else { return Ok(None) };
        let number = |index: usize| values.get(index).and_then(integer).and_then(|number| u32::try_from(number).ok());
        if let Some(target) = number(2) {
            return Err(unfinished(target));
        }
        let known = self.data.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(number(0).filter(|_| values.get(1).map(text).is_some_and(|data| data == *known)))
    }
}

/// A name that nothing else has.
fn random_name() -> Result<String, QueueError> {
    NodeId::random().map(|id| id.to_string()).map_err(|error| QueueError::Unreachable(format!("no random numbers: {error}")))
}

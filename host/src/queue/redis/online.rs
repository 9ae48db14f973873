//! How many are connected: the lengths of the live nodes' rosters, which are not read for it.

use redis::{Pipeline, Value};

use super::Redis;
use super::answers::{integer, server_error, text};
use super::presence::lives;
use crate::queue::QueueError;
use crate::wire::ids::NodeId;

/// Rosters asked for their length in one round trip.
const LENGTHS_AT_ONCE: usize = 1_000;

impl Redis {
    pub(super) async fn count_online(&self) -> Result<u64, QueueError> {
        let keys = self.connector.keys();
        let mut pipeline = Pipeline::new();
        pipeline.cmd("TIME");
        pipeline.cmd("ZRANGE").arg(keys.nodes()).arg(0).arg(-1).arg("WITHSCORES");
        let answers = self.connector.call_many(&pipeline).await?;
        let [time, leases] = &answers[..] else { return Err(QueueError::Refused(format!("Redis answered {answers:?}"))) };
        let rosters: Vec<String> = match leases {
            Value::Array(flat) => flat
                .chunks_exact(2)
                .filter(|pair| lives(time, &pair[1]))
                .map(|pair| keys.roster(&NodeId::from_text(&text(&pair[0]))))
                .collect(),
            Value::ServerError(error) => return Err(server_error(error)),
            other => return Err(QueueError::Refused(format!("Redis answered {other:?}"))),
        };
        let mut online = 0;
        for chunk in rosters.chunks(LENGTHS_AT_ONCE) {
            let mut pipeline = Pipeline::new();
            for roster in chunk {
                pipeline.cmd("HLEN").arg(roster);
            }
            for answer in self.connector.call_many(&pipeline).await? {
                if let Value::ServerError(error) = &answer {
                    return Err(server_error(error));
                }
                online += integer(&answer).and_then(|length| u64::try_from(length).ok()).unwrap_or(0);
            }
        }
        Ok(online)
    }
}

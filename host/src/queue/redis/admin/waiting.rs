//! The next jobs, looked at without taking them.

use redis::Value;

use super::dead::{Filter, PAGE};
use super::{Admin, Entry};
use crate::queue::QueueError;
use crate::queue::redis::answers::text;
use crate::queue::redis::keys::GROUP;

impl Admin {
    /// The next `count` jobs that no worker has been given yet, oldest first; `filter` by partition, connection, user and action.
    ///
    /// # Errors
    /// [`QueueError`]
    pub async fn waiting(&self, filter: &Filter, count: usize) -> Result<Vec<Entry>, QueueError> {
        let mut found = Vec::new();
        for partition in self.chosen(filter)? {
            let key = self.keys.incoming(partition);
            let mut from = self.delivered(&key).await?.map_or_else(|| "-".to_owned(), |last| format!("({last}"));
            let mut left = count;
            // A page is no larger than what is asked for, but for a filter, which may have to pass over many.
            let page = if filter.reads_content() { PAGE } else { count.min(PAGE) };
            while left > 0 {
                let entries = self.page(partition, &key, &from, "+", page).await?;
                let is_last = entries.len() < page;
                if let Some(entry) = entries.last() {
                    from = format!("({}", entry.id.stream_id());
                }
                let matching: Vec<_> = entries.into_iter().filter(|entry| filter.accepts(entry)).take(left).collect();
                left -= matching.len();
                found.extend(matching);
                if is_last {
                    break;
                }
            }
        }
        found.sort_by_key(|entry| (entry.id.ms, entry.id.sequence, entry.id.partition));
        found.truncate(count);
        Ok(found)
    }

    /// The last entry that a worker was given; `None` when no worker has been there yet.
    async fn delivered(&self, key: &str) -> Result<Option<String>, QueueError> {
        let answer = match self.connection.clone().send_packed_command(redis::cmd("XINFO").arg("GROUPS").arg(key)).await {
            Ok(Value::ServerError(error)) if error.code() == "ERR" => return Ok(None), // No such key.
            Ok(Value::ServerError(error)) => return Err(self.refused(&error)),
            Ok(answer) => answer,
            Err(error) => return Err(self.failed(&error)),
        };
        let Value::Array(groups) = answer else { return Ok(None) };
        for group in groups {
            let Value::Array(facts) = group else { continue };
            let fact = |name: &str| facts.chunks_exact(2).find(|pair| text(&pair[0]) == name).map(|pair| text(&pair[1]));
            if fact("name").as_deref() == Some(GROUP) {
                return Ok(fact("last-delivered-id"));
            }
        }
        Ok(None)
    }
}

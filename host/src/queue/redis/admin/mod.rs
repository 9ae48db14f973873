//! What an operator may see and do in the queue, past servers and workers: on a connection of its own, a bounded step at a time.

mod dead;
mod entry;
mod repartition;
mod status;
mod waiting;

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, RedisError, Value};

pub use self::dead::{DeadScan, Filter, PAGE, Page, Replayed};
pub use self::entry::{Entry, EntryId};
pub use self::repartition::{Move, Repartitioned};
pub use self::status::{InList, Memory, PartitionStatus, Php, QueueStatus, Server, Totals, Worker};

pub(super) use self::repartition::unfinished;
use super::address::Address;
use super::answers::{integer, server_error, text};
use super::keys::{FORMAT_VERSION, FORMAT_VERSION_MIN, Keys};
use crate::queue::{QueueError, QueueOptions};

/// Longest time one command may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

const STATUS: &str = include_str!("../lua/status.lua");
const REPLAY: &str = include_str!("../lua/replay.lua");
const MOVE_LATER: &str = include_str!("../lua/move_later.lua");
const MOVE_DEAD: &str = include_str!("../lua/move_dead.lua");

/// The operator's end of one app's queue.
pub struct Admin {
    connection: MultiplexedConnection,
    address: Address,
    keys: Keys,
    partitions: u32,
    /// A repartition that is not finished, and the partitions it makes.
    repartition: Option<u32>,
    php_lists: Vec<String>,
    php_in_lists: Vec<String>,
}

impl Admin {
    /// Connects, and reads how many partitions the queue has. Makes nothing.
    ///
    /// # Errors
    /// [`QueueError::Invalid`] for a URL or app that can't be used, and for an app that Redis knows nothing of;
    /// [`QueueError::Unreachable`] and [`QueueError::Refused`] with what would mend it.
    pub async fn connect(url: &str, options: &QueueOptions) -> Result<Self, QueueError> {
        let address = Address::parse(url, &options.tls)?;
        let keys =
            Keys::new(&options.app).ok_or_else(|| QueueError::Invalid(format!("app name `{}` can't be part of a key", options.app)))?;
        let connection = address.connect(CALL_TIMEOUT).await.map_err(|error| QueueError::Unreachable(address.explain(&error)))?;
        let mut admin = Self {
            connection,
            address,
            keys,
            partitions: 0,
            repartition: None,
            php_lists: options.php_lists.clone(),
            php_in_lists: options.php_in_lists.clone(),
        };
        admin.read_config().await?;
        Ok(admin)
    }

    /// Partitions of the queue, as Redis has it.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.partitions
    }

    async fn read_config(&mut self) -> Result<(), QueueError> {
        let key = self.keys.config();
        let answer = self.one(redis::cmd("HMGET").arg(&key).arg("partitions").arg("format").arg(REPARTITION)).await?;
        let Value::Array(values) = answer else { return Err(QueueError::Refused(format!("{key} can't be read: {answer:?}"))) };
        let number = |index: usize| values.get(index).and_then(integer).and_then(|number| u32::try_from(number).ok());
        let Some(partitions @ 1..) = number(0) else {
            let app = self.keys.app();
            return Err(QueueError::Invalid(format!(
                "Redis has no queue of the app `{app}`: is `app` right in the config, and the database in `queue`? A server or worker makes it at its first start"
            )));
        };
        match number(1) {
            Some(FORMAT_VERSION_MIN..=FORMAT_VERSION) => {}
            other => {
                let found = other.map_or_else(|| "none".to_owned(), |format| format.to_string());
                return Err(QueueError::Refused(format!("{key} has format {found}, this release knows {FORMAT_VERSION}")));
            }
        }
        (self.partitions, self.repartition) = (partitions, number(2));
        Ok(())
    }

    /// Redis's time in ms since the Unix epoch.
    ///
    /// # Errors
    /// [`QueueError`]
    pub async fn now_ms(&self) -> Result<u64, QueueError> {
        Ok(now_ms(&self.one(&redis::cmd("TIME")).await?))
    }

    fn failed(&self, error: &RedisError) -> QueueError {
        QueueError::Unreachable(self.address.explain(error))
    }

    async fn one(&self, command: &Cmd) -> Result<Value, QueueError> {
        match self.connection.clone().send_packed_command(command).await {
            Ok(Value::ServerError(error)) => Err(self.refused(&error)),
            Ok(value) => Ok(value),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Answers may be server errors.
    async fn many(&self, pipeline: &Pipeline) -> Result<Vec<Value>, QueueError> {
        self.connection.clone().send_packed_commands(pipeline, 0, pipeline.len()).await.map_err(|error| self.failed(&error))
    }

    fn refused(&self, error: &redis::ServerError) -> QueueError {
        match error.code() {
            "NOPERM" | "NOAUTH" => QueueError::Refused(self.address.explain(&error.clone().into())),
            "WRONGTYPE" => QueueError::Refused(error.to_string()),
            _ => server_error(error),
        }
    }

    /// Runs a script by its text: it is rare, and nothing has to be loaded before.
    async fn run(&self, script: &str, keys: &[String], arguments: &[&[u8]]) -> Result<u64, QueueError> {
        let answer = self.one(redis::cmd("EVAL").arg(script).arg(keys.len()).arg(keys).arg(arguments)).await?;
        Ok(count(&answer))
    }
}

/// Field of `:cfg` while a repartition is not finished: the partitions it makes. Servers and workers wait while it is there.
pub(super) const REPARTITION: &str = "repartition";

fn count(value: &Value) -> u64 {
    integer(value).and_then(|number| u64::try_from(number).ok()).unwrap_or(0)
}

/// The answer to TIME, in ms.
fn now_ms(value: &Value) -> u64 {
    let Value::Array(parts) = value else { return 0 };
    let number = |index: usize| parts.get(index).map(text).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    number(0) * 1000 + number(1) / 1000
}

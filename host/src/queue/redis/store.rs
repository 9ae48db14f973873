//! The plugins' shared state.

use std::time::Duration;

use async_trait::async_trait;
use plugsocket_plugin::call::{StoreAnswer, StoreRequest};
use redis::{Cmd, Value};

use super::Redis;
use super::answers::text;
use super::scripts::{STORE_ADD, STORE_PUSH, STORE_SET, evalsha};
use crate::queue::{QueueError, Store, check_store_request, store_ttl};

impl Redis {
    fn store_command(&self, plugin: &str, request: &StoreRequest) -> Cmd {
        let key = |key: &str| self.connector.keys().stored(plugin, key);
        let ttl = |ttl_ms: Option<u64>| {
            u64::try_from(store_ttl(ttl_ms, self.options.store_ttl).unwrap_or(Duration::ZERO).as_millis()).unwrap_or(0)
        };
        let mut command;
        match request {
            StoreRequest::Get { key: name } => {
                command = redis::cmd("GET");
                command.arg(key(name));
            }
            StoreRequest::Set { key: name, value, ttl_ms } => {
                command = redis::cmd("SET");
                command.arg(key(name)).arg(value);
                match ttl(*ttl_ms) {
                    0 => {}
                    ttl => {
                        command.arg("PX").arg(ttl);
                    }
                }
            }
            StoreRequest::Delete { key: name } => {
                command = redis::cmd("DEL");
                command.arg(key(name));
            }
            StoreRequest::Add { key: name, by } => {
                command = evalsha(&STORE_ADD, 1);
                command.arg(key(name)).arg(*by).arg(ttl(None));
            }
            StoreRequest::PushCapped { key: name, value, cap } => {
                command = evalsha(&STORE_PUSH, 1);
                command.arg(key(name)).arg(value).arg(*cap).arg(ttl(None));
            }
            StoreRequest::Range { key: name, count } => {
                command = redis::cmd("LRANGE");
                // The last 0 would be all; an empty range still tells a value of another kind.
                let (first, last) = if *count == 0 { (1, 0) } else { (-i64::from(*count), -1) };
                command.arg(key(name)).arg(first).arg(last);
            }
            StoreRequest::Expire { key: name, ttl_ms } => {
                command = redis::cmd("PEXPIRE");
                command
                    .arg(key(name))
                    .arg(store_ttl(Some(*ttl_ms), Duration::ZERO).map_or(0, |ttl| u64::try_from(ttl.as_millis()).unwrap_or(0)));
            }
            StoreRequest::CompareAndSet { key: name, old, new } => {
                command = evalsha(&STORE_SET, 1);
                command.arg(key(name)).arg(if old.is_some() { "is" } else { "absent" }).arg(old.as_deref().unwrap_or_default());
                command.arg(new).arg(ttl(None));
            }
        }
        command
    }
}

#[async_trait]
impl Store for Redis {
    async fn run(&self, plugin: &str, request: StoreRequest) -> Result<StoreAnswer, QueueError> {
        check_store_request(&request)?;
        let answer = self.connector.call(&self.store_command(plugin, &request)).await.map_err(|error| match error {
            // Errors from inside a script carry their code in the text.
            QueueError::Refused(reason) if ["WRONGTYPE", "not an integer", "overflow"].iter().any(|part| reason.contains(part)) => {
                QueueError::Invalid(reason)
            }
            other => other,
        })?;
        Ok(match request {
            StoreRequest::Set { .. } | StoreRequest::PushCapped { .. } => StoreAnswer::Done,
            StoreRequest::Get { .. } => StoreAnswer::Value(match &answer {
                Value::Nil => None,
                value => Some(text(value)),
            }),
            StoreRequest::Delete { .. } | StoreRequest::Expire { .. } | StoreRequest::CompareAndSet { .. } => {
                StoreAnswer::Flag(answer == Value::Int(1))
            }
            StoreRequest::Add { .. } => {
                StoreAnswer::Number(text(&answer).parse().map_err(|_| QueueError::Refused(format!("sum is no integer: {answer:?}")))?)
            }
            StoreRequest::Range { .. } => StoreAnswer::Values(match &answer {
                Value::Array(values) => values.iter().map(text).collect(),
                _ => Vec::new(),
            }),
        })
    }
}

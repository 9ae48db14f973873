//! The plugins' shared state in one process.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use plugsocket_plugin::call::{StoreAnswer, StoreRequest};
use tokio::time::Instant;

use crate::queue::{QueueError, QueueOptions, Store, check_store_request, store_ttl};

/// Most keys; expired ones are cleared when it is reached.
const KEYS_MAX: usize = 1_000_000;

enum Value {
    Text(String),
    List(VecDeque<String>),
}

struct Held {
    value: Value,
    until: Option<Instant>,
}

/// Plugin and key.
type Key = (String, String);

pub(super) struct MemoryStore {
    values: Mutex<HashMap<Key, Held>>,
    default_ttl: Duration,
}

fn wrong_kind() -> QueueError {
    QueueError::Invalid("stored value is of another kind".to_owned())
}

impl MemoryStore {
    pub(super) fn new(options: &QueueOptions) -> Self {
        Self { values: Mutex::default(), default_ttl: options.store_ttl }
    }

    fn until(&self, ttl_ms: Option<u64>) -> Option<Instant> {
        store_ttl(ttl_ms, self.default_ttl).map(|ttl| Instant::now() + ttl)
    }

    fn change(&self, values: &mut HashMap<Key, Held>, key: Key, request: StoreRequest) -> Result<StoreAnswer, QueueError> {
        match request {
            StoreRequest::Set { value, ttl_ms, .. } => {
                values.insert(key, Held { value: Value::Text(value), until: self.until(ttl_ms) });
                Ok(StoreAnswer::Done)
            }
            StoreRequest::Add { by, .. } => {
                let held = values.entry(key).or_insert_with(|| Held { value: Value::Text("0".to_owned()), until: self.until(None) });
                let Value::Text(text) = &mut held.value else { return Err(wrong_kind()) };
                // As Redis reads integers: "07" and "+7" are text.
                let present = text.parse::<i64>().ok().filter(|present| present.to_string() == *text);
                let present = present.ok_or_else(|| QueueError::Invalid("stored value is not an integer".to_owned()))?;
                let sum = present.checked_add(by).ok_or_else(|| QueueError::Invalid("sum would overflow".to_owned()))?;
                *text = sum.to_string();
                Ok(StoreAnswer::Number(sum))
            }
            StoreRequest::PushCapped { value, cap, .. } => {
                let held = values.entry(key).or_insert_with(|| Held { value: Value::List(VecDeque::new()), until: self.until(None) });
                let Value::List(list) = &mut held.value else { return Err(wrong_kind()) };
                list.push_back(value);
                while list.len() > cap as usize {
                    list.pop_front();
                }
                Ok(StoreAnswer::Done)
            }
            StoreRequest::CompareAndSet { old, new, .. } => {
                let present = match values.get(&key).map(|held| &held.value) {
                    None => None,
                    Some(Value::Text(text)) => Some(text),
                    Some(Value::List(_)) => return Err(wrong_kind()),
                };
                if present != old.as_ref() {
                    return Ok(StoreAnswer::Flag(false));
                }
                values.insert(key, Held { value: Value::Text(new), until: self.until(None) });
                Ok(StoreAnswer::Flag(true))
            }
            StoreRequest::Expire { ttl_ms, .. } => match values.get_mut(&key) {
                None => Ok(StoreAnswer::Flag(false)),
                Some(held) => {
                    // Zero ends it now, as in Redis.
                    held.until = Some(Instant::now() + store_ttl(Some(ttl_ms), Duration::ZERO).unwrap_or(Duration::ZERO));
                    Ok(StoreAnswer::Flag(true))
                }
            },
            StoreRequest::Delete { .. } => Ok(StoreAnswer::Flag(values.remove(&key).is_some())),
            StoreRequest::Get { .. } => match values.get(&key).map(|held| &held.value) {
                None => Ok(StoreAnswer::Value(None)),
                Some(Value::Text(text)) => Ok(StoreAnswer::Value(Some(text.clone()))),
                Some(Value::List(_)) => Err(wrong_kind()),
            },
            StoreRequest::Range { count, .. } => match values.get(&key).map(|held| &held.value) {
                None => Ok(StoreAnswer::Values(Vec::new())),
                Some(Value::List(list)) => {
                    Ok(StoreAnswer::Values(list.iter().skip(list.len().saturating_sub(count as usize)).cloned().collect()))
                }
                Some(Value::Text(_)) => Err(wrong_kind()),
            },
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn run(&self, plugin: &str, request: StoreRequest) -> Result<StoreAnswer, QueueError> {
        check_store_request(&request)?;
        let key = (plugin.to_owned(), key_of(&request).to_owned());
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if values.get(&key).is_some_and(|held| held.until.is_some_and(|until| until <= now)) {
            values.remove(&key);
        }
        if values.len() >= KEYS_MAX && !values.contains_key(&key) {
            values.retain(|_, held| held.until.is_none_or(|until| until > now));
            if values.len() >= KEYS_MAX {
                return Err(QueueError::Refused(format!("store holds {KEYS_MAX} keys already")));
            }
        }
        self.change(&mut values, key, request)
    }
}

fn key_of(request: &StoreRequest) -> &str {
    match request {
        StoreRequest::Get { key }
        | StoreRequest::Set { key, .. }
        | StoreRequest::Delete { key }
        | StoreRequest::Add { key, .. }
        | StoreRequest::PushCapped { key, .. }
        | StoreRequest::Range { key, .. }
        | StoreRequest::Expire { key, .. }
        | StoreRequest::CompareAndSet { key, .. } => key,
    }
}

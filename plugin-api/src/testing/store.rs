//! The plugins' store in memory, on a clock the test moves.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::call::{RejectWire, StoreAnswer, StoreRequest};

/// Longest value, in bytes; the host's limit.
const VALUE_BYTES_MAX: usize = 64 * 1024;

#[derive(Default)]
pub(super) struct StoreMock {
    now: Duration,
    entries: BTreeMap<String, Entry>,
}

struct Entry {
    content: Content,
    until: Option<Duration>,
}

enum Content {
    Text(String),
    List(VecDeque<String>),
}

impl StoreMock {
    pub(super) fn advance(&mut self, time: Duration) {
        self.now += time;
        let now = self.now;
        self.entries.retain(|_, entry| entry.until.is_none_or(|until| until > now));
    }

    pub(super) fn answer(&mut self, request: StoreRequest) -> Result<StoreAnswer, RejectWire> {
        match request {
            StoreRequest::Get { key } => Ok(StoreAnswer::Value(self.text(&key)?.map(ToOwned::to_owned))),
            StoreRequest::Set { key, value, ttl_ms } => {
                self.set(key, value, ttl_ms)?;
                Ok(StoreAnswer::Done)
            }
            StoreRequest::Delete { key } => Ok(StoreAnswer::Flag(self.entries.remove(&key).is_some())),
            StoreRequest::Add { key, by } => self.add(key, by),
            StoreRequest::PushCapped { key, value, cap } => self.push(&key, value, cap),
            StoreRequest::Range { key, count } => self.range(&key, count),
            StoreRequest::Expire { key, ttl_ms } => {
                let until = self.now + Duration::from_millis(ttl_ms);
                let entry = self.entries.get_mut(&key);
                Ok(StoreAnswer::Flag(entry.map(|entry| entry.until = Some(until)).is_some()))
            }
            StoreRequest::CompareAndSet { key, old, new } => {
                let same = self.text(&key)? == old.as_deref();
                if same {
                    self.set(key, new, None)?;
                }
                Ok(StoreAnswer::Flag(same))
            }
        }
    }

    fn text(&self, key: &str) -> Result<Option<&str>, RejectWire> {
        match self.entries.get(key).map(|entry| &entry.content) {
            None => Ok(None),
            Some(Content::Text(text)) => Ok(Some(text)),
            Some(Content::List(_)) => Err(wrong_type(key, "a list")),
        }
    }

    fn set(&mut self, key: String, value: String, ttl_ms: Option<u64>) -> Result<(), RejectWire> {
        check_size(&value)?;
        let until = ttl_ms.map(|ttl| self.now + Duration::from_millis(ttl));
        self.entries.insert(key, Entry { content: Content::Text(value), until });
        Ok(())
    }

    fn add(&mut self, key: String, by: i64) -> Result<StoreAnswer, RejectWire> {
        let number: i64 = match self.text(&key)? {
            None => 0,
            Some(text) => {
                text.parse().ok().filter(|number: &i64| number.to_string() == text).ok_or_else(|| wrong_type(&key, "no integer"))?
            }
        };
        let sum = number.checked_add(by).ok_or_else(|| wrong_type(&key, "too large to add to"))?;
        let until = self.entries.get(&key).and_then(|entry| entry.until);
        self.entries.insert(key, Entry { content: Content::Text(sum.to_string()), until });
        Ok(StoreAnswer::Number(sum))
    }

    fn push(&mut self, key: &str, value: String, cap: u32) -> Result<StoreAnswer, RejectWire> {
        check_size(&value)?;
        let entry = self.entries.entry(key.to_owned()).or_insert(Entry { content: Content::List(VecDeque::new()), until: None });
        let Content::List(list) = &mut entry.content else { return Err(wrong_type(key, "no list")) };
        list.push_back(value);
        while list.len() > cap as usize {
            list.pop_front();
        }
        Ok(StoreAnswer::Done)
    }

    fn range(&self, key: &str, count: u32) -> Result<StoreAnswer, RejectWire> {
        match self.entries.get(key).map(|entry| &entry.content) {
            None => Ok(StoreAnswer::Values(Vec::new())),
            Some(Content::List(list)) => {
                let skipped = list.len().saturating_sub(count as usize);
                Ok(StoreAnswer::Values(list.iter().skip(skipped).cloned().collect()))
            }
            Some(Content::Text(_)) => Err(wrong_type(key, "no list")),
        }
    }
}

fn check_size(value: &str) -> Result<(), RejectWire> {
    if value.len() <= VALUE_BYTES_MAX {
        return Ok(());
    }
    let message = format!("value is {} bytes, limit is {VALUE_BYTES_MAX} bytes", value.len());
    Err(RejectWire { code: "too_large".to_owned(), message })
}

fn wrong_type(key: &str, what: &str) -> RejectWire {
    RejectWire { code: "wrong_type".to_owned(), message: format!("the value of `{key}` is {what}") }
}

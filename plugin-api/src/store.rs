//! Small state that a library's handler and actions share, on all nodes, without a Redis client of their own.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::call::{HostOperation, StoreAnswer, StoreRequest};
use crate::context::{Context, ContextError};

/// The plugin's own namespace of keys. Values are text of at most 64 KiB and live for `[queue_options] store_ttl` unless said otherwise.
///
/// Not deduplicated: an `add` of a call that is tried again adds again. Every method fails with a retryable [`ContextError`] when the
/// queue can't be reached.
///
/// ```
/// use plugsocket_plugin::testing::MockContext;
///
/// let context = MockContext::new();
/// let store = context.store();
/// store.set_json("rooms:c1", &["lobby"])?;
/// assert_eq!(store.get_json::<Vec<String>>("rooms:c1")?, Some(vec!["lobby".to_owned()]));
/// assert_eq!(store.add("visits", 2)?, 2);
/// # Ok::<(), plugsocket_plugin::ContextError>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Store<'call> {
    context: &'call Context,
}

impl<'call> Store<'call> {
    pub(crate) fn new(context: &'call Context) -> Self {
        Self { context }
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`ContextError`]
    pub fn get(&self, key: &str) -> Result<Option<String>, ContextError> {
        match self.ask(&StoreRequest::Get { key: key.to_owned() })? {
            StoreAnswer::Value(value) => Ok(value),
            other => Err(unexpected(&other)),
        }
    }

    /// The value of a key, as [`set_json`](Self::set_json) left it.
    ///
    /// # Errors
    /// [`ContextError`]; `Answer` when the value is not a `T`.
    pub fn get_json<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, ContextError> {
        self.get(key)?.map(|text| from_text(&text)).transpose()
    }

    /// Sets a value for the default time to live.
    ///
    /// # Errors
    /// [`ContextError`]
    pub fn set(&self, key: &str, value: &str) -> Result<(), ContextError> {
        self.put(key, value.to_owned(), None)
    }

    /// Sets a value for `ttl`, to the millisecond.
    ///
    /// # Errors
    /// [`ContextError`]
    pub fn set_for(&self, key: &str, value: &str, ttl: Duration) -> Result<(), ContextError> {
        self.put(key, value.to_owned(), Some(ttl))
    }

    /// Sets a serde value, as JSON, for the default time to live.
    ///
    /// # Errors
    /// [`ContextError`]; `Encode` when it has no JSON form.
    pub fn set_json<T: Serialize + ?Sized>(&self, key: &str, value: &T) -> Result<(), ContextError> {
        self.put(key, to_text(value)?, None)
    }

    /// Removes a key of any kind; whether it was there.
    ///
    /// # Errors
    /// [`ContextError`]
    pub fn delete(&self, key: &str) -> Result<bool, ContextError> {
        self.flag(&StoreRequest::Delete { key: key.to_owned() })
    }

    /// Adds to an integer, absent = 0; answers the sum.
    ///
    /// # Errors
    /// [`ContextError`], also when the value is no integer.
    pub fn add(&self, key: &str, by: i64) -> Result<i64, ContextError> {
        match self.ask(&StoreRequest::Add { key: key.to_owned(), by })? {
            StoreAnswer::Number(sum) => Ok(sum),
            other => Err(unexpected(&other)),
        }
    }

    /// Appends to a list and keeps its newest `cap` values.
    ///
    /// # Errors
    /// [`ContextError`]
    pub fn push_capped(&self, key: &str, value: &str, cap: u32) -> Result<(), ContextError> {
        self.done(&StoreRequest::PushCapped { key: key.to_owned(), value: value.to_owned(), cap })
    }

    /// Appends a serde value, as JSON, to a list and keeps its newest `cap` values.
    ///
    /// # Errors
    /// [`ContextError`]; `Encode` when it has no JSON form.
    pub fn push_capped_json<T: Serialize + ?Sized>(&self, key: &str, value: &T, cap: u32) -> Result<(), ContextError> {
        self.done(&StoreRequest::PushCapped { key: key.to_owned(), value: to_text(value)?, cap })
    }

    /// The newest `count` values of a list, oldest first; empty when it does not exist.
    ///
    /// # Errors
    /// [`ContextError`]
    pub fn range(&self, key: &str, count: u32) -> Result<Vec<String>, ContextError> {
        match self.ask(&StoreRequest::Range { key: key.to_owned(), count })? {
            StoreAnswer::Values(values) => Ok(values),
            other => Err(unexpected(&other)),
        }
    }

    /// The newest `count` values of a list of JSON, oldest first.
    ///
    /// # Errors
    /// [`ContextError`]; `Answer` when one of them is not a `T`.
    pub fn range_json<T: DeserializeOwned>(&self, key: &str, count: u32) -> Result<Vec<T>, ContextError> {
        self.range(key, count)?.iter().map(|text| from_text(text)).collect()
    }

    /// Sets a key's time to live, to the millisecond; whether the key was there.
    ///
    /// # Errors
    /// [`ContextError`]
    pub fn expire(&self, key: &str, ttl: Duration) -> Result<bool, ContextError> {
        self.flag(&StoreRequest::Expire { key: key.to_owned(), ttl_ms: millis(ttl) })
    }

    /// Sets `new` only when the value is `old` (`None` = the key does not exist); whether it did.
    ///
    /// # Errors
    /// [`ContextError`]
    pub fn compare_and_set(&self, key: &str, old: Option<&str>, new: &str) -> Result<bool, ContextError> {
        self.flag(&StoreRequest::CompareAndSet { key: key.to_owned(), old: old.map(ToOwned::to_owned), new: new.to_owned() })
    }

    fn put(&self, key: &str, value: String, ttl: Option<Duration>) -> Result<(), ContextError> {
        self.done(&StoreRequest::Set { key: key.to_owned(), value, ttl_ms: ttl.map(millis) })
    }

    fn done(&self, request: &StoreRequest) -> Result<(), ContextError> {
        match self.ask(request)? {
            StoreAnswer::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    fn flag(&self, request: &StoreRequest) -> Result<bool, ContextError> {
        match self.ask(request)? {
            StoreAnswer::Flag(flag) => Ok(flag),
            other => Err(unexpected(&other)),
        }
    }

    fn ask(&self, request: &StoreRequest) -> Result<StoreAnswer, ContextError> {
        self.context.ask(HostOperation::Store, request)
    }
}

fn millis(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)
}

fn to_text<T: Serialize + ?Sized>(value: &T) -> Result<String, ContextError> {
    serde_json::to_string(value).map_err(|error| ContextError::Encode(error.to_string()))
}

fn from_text<T: DeserializeOwned>(text: &str) -> Result<T, ContextError> {
    serde_json::from_str(text).map_err(|error| ContextError::Answer(error.to_string()))
}

fn unexpected(answer: &StoreAnswer) -> ContextError {
    ContextError::Answer(format!("store answered {answer:?}"))
}

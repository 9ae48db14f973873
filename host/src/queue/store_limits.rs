//! Limits of the plugins' store, the same for every queue.

use std::time::Duration;

use plugsocket_plugin::call::StoreRequest;

use super::QueueError;

/// Longest key, in bytes.
pub const STORE_KEY_BYTES_MAX: usize = 512;
/// Longest value, in bytes.
pub const STORE_VALUE_BYTES_MAX: usize = 64 << 10;
/// Most values in a list.
pub const STORE_LIST_MAX: u32 = 10_000;

const TTL_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Checks a request against the limits, before anything is done for it.
pub(super) fn check_store_request(request: &StoreRequest) -> Result<(), QueueError> {
    let (key, values): (&str, [Option<&str>; 2]) = match request {
        StoreRequest::Get { key } | StoreRequest::Delete { key } | StoreRequest::Add { key, .. } | StoreRequest::Expire { key, .. } => {
            (key, [None, None])
        }
        StoreRequest::Set { key, value, .. } => (key, [Some(value), None]),
        StoreRequest::PushCapped { key, value, cap } => {
            check_count(*cap, 1)?;
            (key, [Some(value), None])
        }
        StoreRequest::Range { key, count } => {
            check_count(*count, 0)?;
            (key, [None, None])
        }
        StoreRequest::CompareAndSet { key, old, new } => (key, [old.as_deref(), Some(new)]),
    };
    if key.is_empty() || key.len() > STORE_KEY_BYTES_MAX {
        return Err(QueueError::Invalid(format!("store key has {} bytes, 1 to {STORE_KEY_BYTES_MAX} are allowed", key.len())));
    }
    match values.into_iter().flatten().find(|value| value.len() > STORE_VALUE_BYTES_MAX) {
        Some(value) => {
            Err(QueueError::Invalid(format!("store value has {} bytes, at most {STORE_VALUE_BYTES_MAX} are allowed", value.len())))
        }
        None => Ok(()),
    }
}

fn check_count(count: u32, least: u32) -> Result<(), QueueError> {
    if (least..=STORE_LIST_MAX).contains(&count) {
        return Ok(());
    }
    Err(QueueError::Invalid(format!("store list count is {count}, {least} to {STORE_LIST_MAX} are allowed")))
}

/// The time to live in force; `None` = for ever.
pub(super) fn store_ttl(ttl_ms: Option<u64>, default: Duration) -> Option<Duration> {
    let ttl = ttl_ms.map_or(default, Duration::from_millis).min(TTL_MAX);
    (!ttl.is_zero()).then_some(ttl)
}

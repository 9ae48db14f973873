//! Reading Redis's answers.

use redis::Value;

use super::resp::{self, Walk};
use crate::queue::QueueError;
use crate::wire::ids::StreamId;
use crate::wire::job::JOB_FIELDS;

/// Names and values of an entry's fields; none when it was deleted.
pub(super) type Fields<'answer> = Vec<(&'answer [u8], &'answer [u8])>;

/// What is kept of each field of an entry that can't be used.
const GARBAGE_FIELD_BYTES_MAX: usize = 4 << 10;

/// What a server's error means for the caller.
pub(super) fn server_error(error: &redis::ServerError) -> QueueError {
    if error.code() == "WRONGTYPE" {
        return QueueError::Invalid(error.to_string());
    }
    if is_passing(error) { QueueError::Unreachable(error.to_string()) } else { QueueError::Refused(error.to_string()) }
}

/// Errors of a server that can't serve at present: the same command works later or elsewhere.
pub(super) fn is_passing(error: &redis::ServerError) -> bool {
    matches!(
        error.code(),
        "LOADING" | "READONLY" | "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" | "NOREPLICAS" | "MISCONF" | "BUSY" | "UNKILLABLE"
    )
}

/// Text of an answer; empty for anything else.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => text.clone(),
        Value::Int(number) => number.to_string(),
        _ => String::new(),
    }
}

/// Id of an entry in an answer.
pub(super) fn stream_id(value: &Value) -> Option<StreamId> {
    match value {
        Value::BulkString(id) => StreamId::parse(id),
        _ => None,
    }
}

/// Number in an answer.
pub(super) fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        other => text(other).parse().ok(),
    }
}

/// As much of a field as is worth keeping when it can't be used.
pub(super) fn beginning(field: &[u8]) -> &[u8] {
    &field[..field.len().min(GARBAGE_FIELD_BYTES_MAX)]
}

/// An answer that is an error, as one of ours.
pub(super) fn refusal(answer: &[u8]) -> QueueError {
    match resp::value(answer) {
        Ok(Value::ServerError(error)) if error.code() == "NOGROUP" => QueueError::Refused(error.to_string()),
        Ok(Value::ServerError(error)) => server_error(&error),
        other => QueueError::Refused(format!("Redis answered {other:?}")),
    }
}

/// Steps over one entry; `None` for one that is none.
pub(super) fn raw_entry<'answer>(walk: &mut Walk<'answer>) -> Option<(StreamId, Fields<'answer>)> {
    let parts = walk.array()?;
    let entry = walk.bulk();
    let mut fields = Vec::with_capacity(JOB_FIELDS.len());
    if parts > 1
        && let Some(values) = walk.array()
    {
        for _ in 0..values / 2 {
            if let (Some(name), Some(value)) = (walk.bulk(), walk.bulk()) {
                fields.push((name, value));
            }
        }
        walk.skip(values % 2);
    }
    walk.skip(parts.saturating_sub(2));
    Some((StreamId::parse(entry?)?, fields))
}

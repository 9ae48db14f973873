//! Reading Redis's answers.

use redis::Value;

use crate::queue::QueueError;

/// What is kept of each field of an entry that can't be used.
const GARBAGE_FIELD_BYTES_MAX: usize = 4 << 10;

/// A stream's entry: its id and its fields; no fields when it was deleted.
pub(super) type RawEntry = (String, Vec<(Vec<u8>, Vec<u8>)>);

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

/// Number in an answer.
pub(super) fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        other => text(other).parse().ok(),
    }
}

/// An entry of a stream.
pub(super) fn raw_entry(value: &Value) -> Option<RawEntry> {
    let Value::Array(parts) = value else { return None };
    let entry = text(parts.first()?);
    let mut fields = Vec::new();
    if let Some(Value::Array(flat)) = parts.get(1) {
        for pair in flat.chunks_exact(2) {
            if let [Value::BulkString(name), Value::BulkString(value)] = pair {
                fields.push((name.clone(), value.clone()));
            }
        }
    }
    Some((entry, fields))
}

/// As much of a field as is worth keeping when it can't be used.
pub(super) fn beginning(field: &[u8]) -> &[u8] {
    &field[..field.len().min(GARBAGE_FIELD_BYTES_MAX)]
}

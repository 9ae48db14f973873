//! Reading Redis's answers.

use redis::Value;

use crate::queue::QueueError;

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

//! What one attempt came to, and how long to wait before the next.

use std::time::Duration;

use bytes::Bytes;
use plugsocket_plugin::call::{RejectWire, Status};

use crate::plugin::{Answer, CallError};
use crate::wire::codes::ErrorCode;
use crate::wire::json::Json;

/// The longest pause between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(600);

/// What an attempt came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// With the reply's data.
    Done(Json),
    /// Refused for good by the plugin.
    Rejected(RejectWire),
    /// Another attempt may succeed; the code is for the client when it was the last.
    Failed {
        /// For the client.
        code: ErrorCode,
        /// For the log and the dead letter.
        reason: String,
    },
    /// It was not attempted: the plugin has no room, or had no thread in time.
    Overloaded,
    /// It was not attempted, because of the call before it: it runs by itself.
    NotBegun,
    /// It was not attempted: the plugin has no runner.
    Unavailable,
    /// It does not count: another call ended its runner, or it can't be told which one did.
    Interrupted {
        /// It may have been this one.
        is_suspect: bool,
    },
}

/// Reads a call's result. A reply that is no JSON, or longer than `frame_bytes_max`, is refused for good: it would be so again.
pub(super) fn ended(result: Result<Answer, CallError>, frame_bytes_max: usize) -> Ended {
    let failed = |reason: String| Ended::Failed { code: ErrorCode::Failed, reason };
    match result {
        Ok(Answer { status: Status::Done, bytes }) => reply(bytes, frame_bytes_max),
        Ok(Answer { status: Status::Rejected, bytes }) => match serde_json::from_slice(&bytes) {
            Ok(reject) => Ended::Rejected(reject),
            Err(error) => failed(format!("plugin rejected the message in a form that can't be read: {error}")),
        },
        Ok(Answer { status: Status::Retry, bytes }) => failed(String::from_utf8_lossy(&bytes).into_owned()),
        Ok(Answer { status: Status::Panicked, bytes }) => failed(format!("plugin panicked: {}", String::from_utf8_lossy(&bytes))),
        Ok(Answer { status: Status::Unsupported, .. }) => failed("plugin does not know this operation: rebuild it".to_owned()),
        Err(CallError::TimedOut) => Ended::Failed { code: ErrorCode::Timeout, reason: CallError::TimedOut.to_string() },
        Err(CallError::Late | CallError::Overloaded) => Ended::Overloaded,
        Err(CallError::NotBegun) => Ended::NotBegun,
        Err(CallError::Unavailable(_)) => Ended::Unavailable,
        Err(CallError::Interrupted { is_suspect }) => Ended::Interrupted { is_suspect },
        Err(error) => failed(error.to_string()),
    }
}

fn reply(bytes: Bytes, frame_bytes_max: usize) -> Ended {
    let refused = |message: String| Ended::Rejected(RejectWire { code: ErrorCode::Failed.as_str().to_owned(), message });
    if bytes.is_empty() {
        return Ended::Done(Json::NULL);
    }
    if bytes.len() > frame_bytes_max {
        return refused(format!("the reply has {} bytes, the limit is {frame_bytes_max} bytes", bytes.len()));
    }
    Json::parse(bytes).map_or_else(|error| refused(format!("the reply is no JSON: {error}")), Ended::Done)
}

/// The pause after `attempts` failures: `base`, doubled for each further one.
pub(super) fn backoff(base: Duration, attempts: u32) -> Duration {
    base.saturating_mul(1_u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX)).min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_a_limit() {
        let base = Duration::from_millis(100);
        let pauses: Vec<u128> = [1, 2, 3, 20, 40].map(|attempts| backoff(base, attempts).as_millis()).into();
        assert_eq!(pauses, [100, 200, 400, 600_000, 600_000]);
    }

    #[test]
    fn replies_are_checked() {
        let done = |bytes: &'static [u8]| ended(Ok(Answer { status: Status::Done, bytes: Bytes::from_static(bytes) }), 10);
        assert_eq!(done(b""), Ended::Done(Json::NULL));
        assert_eq!(done(b"[1]"), Ended::Done(Json::encode(&[1]).unwrap()));
        for bad in [b"{".as_slice(), b"\"0123456789\""] {
            let Ended::Rejected(reject) = done(bad) else { panic!("{bad:?} passed") };
            assert_eq!(reject.code, "failed");
        }
    }
}

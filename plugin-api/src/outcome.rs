//! How a message ended: a reply, a refusal for good, or a failure that another attempt may mend.

use std::fmt;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use crate::context::ContextError;

/// What [`Action::handle`](crate::Action::handle) answers.
pub type Outcome = Result<Reply, Failure>;

/// The answer to the sender; sent when its message had an `id`.
#[derive(Debug, Clone, Default)]
pub struct Reply(ReplyData);

#[derive(Debug, Clone, Default)]
enum ReplyData {
    #[default]
    None,
    Json(Box<RawValue>),
    /// The value had no JSON form; reported when the reply is used, so that `Reply::data` stays one word.
    Broken(String),
}

impl Reply {
    /// Nothing to tell: a request with an `id` is answered `"data": null`.
    #[must_use]
    pub fn none() -> Self {
        Self(ReplyData::None)
    }

    /// Any serde value. One that has no JSON form (a map whose keys are no text) fails the message, retryably, with serde's text.
    #[must_use]
    pub fn data<T: Serialize + ?Sized>(value: &T) -> Self {
        match to_raw_value(value) {
            Ok(json) => Self(ReplyData::Json(json)),
            Err(error) => Self(ReplyData::Broken(error.to_string())),
        }
    }

    /// A JSON value, as `json!` makes it.
    #[must_use]
    #[expect(clippy::needless_pass_by_value)] // `Reply::json(json!({…}))` is how it is called.
    pub fn json(value: Value) -> Self {
        Self::data(&value)
    }

    /// The reply as a JSON value; `None` for [`Reply::none`] and for a value that had no JSON form. For tests.
    #[must_use]
    pub fn to_json(&self) -> Option<Value> {
        match &self.0 {
            ReplyData::Json(json) => serde_json::from_str(json.get()).ok(),
            ReplyData::None | ReplyData::Broken(_) => None,
        }
    }

    /// The reply's JSON text, empty for none.
    pub(crate) fn into_bytes(self) -> Result<Vec<u8>, Failure> {
        match self.0 {
            ReplyData::None => Ok(Vec::new()),
            ReplyData::Json(json) => Ok(json.get().as_bytes().to_vec()),
            ReplyData::Broken(error) => Err(Failure::Retry(format!("the reply has no JSON form: {error}"))),
        }
    }
}

impl PartialEq for Reply {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (ReplyData::None, ReplyData::None) => true,
            (ReplyData::Json(_), ReplyData::Json(_)) => self.to_json() == other.to_json(),
            (ReplyData::Broken(one), ReplyData::Broken(two)) => one == two,
            _ => false,
        }
    }
}

/// Why a message was not handled.
///
/// `?` does the usual: a serde mismatch becomes `reject("bad_data", …)`; an error of [`Context`](crate::Context) or
/// [`Store`](crate::Store) becomes a retry, unless the host said that no attempt can mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// Told to the sender and acknowledged: never tried again, never dead.
    Reject {
        /// A stable code for the client.
        code: String,
        /// A sentence for a person.
        message: String,
    },
    /// Tried again up to the action's attempts, then dead. The text is for the operator, not for the sender.
    Retry(String),
}

impl Failure {
    /// Refuses for good, with a code for the client's program and a sentence for its person.
    #[must_use]
    pub fn reject(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Reject { code: code.into(), message: message.into() }
    }

    /// Fails this attempt; another may succeed.
    #[must_use]
    #[expect(clippy::needless_pass_by_value)] // Made for `map_err(Failure::retry)`.
    pub fn retry(error: impl fmt::Display) -> Self {
        Self::Retry(error.to_string())
    }

    pub(crate) fn unknown_action(action: &str) -> Self {
        Self::reject("unknown_action", format!("no plugin serves the action `{action}`"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reject { code, message } => write!(formatter, "{code}: {message}"),
            Self::Retry(error) => formatter.write_str(error),
        }
    }
}

impl std::error::Error for Failure {}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::reject("bad_data", error.to_string())
    }
}

impl From<ContextError> for Failure {
    fn from(error: ContextError) -> Self {
        match error {
            ContextError::Refused { code, message } => Self::Reject { code, message },
            other => Self::retry(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    #[test]
    fn serde_mismatches_are_the_senders_fault_and_context_errors_are_tried_again() {
        let mismatch = serde_json::from_str::<u32>("\"seven\"").unwrap_err();
        assert!(matches!(Failure::from(mismatch), Failure::Reject { code, .. } if code == "bad_data"));
        assert_eq!(Failure::from(ContextError::Failed("store is away".into())), Failure::Retry("store is away".into()));
        let refused = ContextError::Refused { code: "too_large".into(), message: "frame".into() };
        assert_eq!(Failure::from(refused), Failure::reject("too_large", "frame"));
    }

    #[test]
    fn a_reply_without_json_form_fails_when_it_is_used() {
        let reply = Reply::data(&BTreeMap::from([(vec![1_u8], 1_u8)]));
        assert!(matches!(reply.into_bytes(), Err(Failure::Retry(text)) if text.contains("no JSON form")));
        assert_eq!(Reply::none().into_bytes(), Ok(Vec::new()));
        assert_eq!(Reply::json(json!([1])).into_bytes(), Ok(b"[1]".to_vec()));
    }
}

//! One message from a client: parsing, limits, and the code it gets when it is refused.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::json::nests_deeper_than;

const CLIENT_ID_BYTES_MAX: usize = 64;

/// A frame's `id`: the JSON text of a string (at most 64 bytes) or an integer, echoed as it came.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientId(Box<str>);

impl ClientId {
    /// Takes the JSON text of an `id`; `None` when it is neither a short string nor an integer.
    #[must_use]
    pub fn parse(json: &str) -> Option<Self> {
        let fits = match json.as_bytes().first()? {
            b'"' => serde_json::from_str::<Cow<'_, str>>(json).is_ok_and(|text| text.len() <= CLIENT_ID_BYTES_MAX),
            _ => serde_json::from_str::<i64>(json).is_ok() || serde_json::from_str::<u64>(json).is_ok(),
        };
        fits.then(|| Self(json.into()))
    }

    /// The JSON text.
    #[must_use]
    pub fn as_json(&self) -> &str {
        &self.0
    }
}

/// What a frame may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EnvelopeLimits {
    /// Longest frame, in bytes.
    pub frame_bytes_max: usize,
    /// Longest action name, in bytes.
    pub action_bytes_max: usize,
    /// Deepest nesting of arrays and objects.
    pub json_depth_max: usize,
}

/// A checked frame; borrows from it.
#[derive(Debug)]
pub struct Envelope<'frame> {
    /// The action's name.
    pub action: Cow<'frame, str>,
    /// The data, not decoded; absent = null.
    pub data: Option<&'frame RawValue>,
    /// The frame's id.
    pub id: Option<ClientId>,
    /// Whether the client asks to be told when the message is stored.
    pub receipt: bool,
    /// The frame's text: one JSON object.
    pub frame: &'frame str,
}

/// Why an inbound frame was refused. The session survives; the client gets `bad_frame`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// Longer than the configured limit; checked before any parsing.
    #[error("frame is {size} bytes, the limit is {limit} bytes")]
    TooLarge {
        /// The frame's length.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// Nested deeper than the configured limit; checked before any parsing.
    #[error("JSON nests deeper than {0} levels")]
    TooDeep(usize),
    /// Not a JSON object, or a member is there twice.
    #[error("frame is not a JSON object like {{\"action\": \"…\", \"data\": …}}: {0}")]
    Syntax(#[source] serde_json::Error),
    /// A member can't be used; the id is echoed when that is readable.
    #[error("{reason}")]
    Member {
        /// What is wrong.
        reason: String,
        /// The frame's id.
        id: Option<ClientId>,
    },
}

impl EnvelopeError {
    /// A word for the metrics.
    #[must_use]
    pub fn cause(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::TooDeep(_) => "too_deep",
            Self::Syntax(_) => "syntax",
            Self::Member { .. } => "member",
        }
    }

    /// The id to echo in the error.
    #[must_use]
    pub fn id(&self) -> Option<&ClientId> {
        match self {
            Self::Member { id, .. } => id.as_ref(),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
struct Members<'frame> {
    #[serde(borrow, default)]
    action: Option<&'frame RawValue>,
    #[serde(borrow, default)]
    data: Option<&'frame RawValue>,
    #[serde(borrow, default)]
    id: Option<&'frame RawValue>,
    #[serde(borrow, default)]
    receipt: Option<&'frame RawValue>,
}

impl<'frame> Envelope<'frame> {
    /// Parses one text frame. `data` is skipped over, not decoded; cost is linear in `frame`.
    ///
    /// # Errors
    /// [`EnvelopeError`]: over a limit, not an object, or a member that can't be used.
    pub fn parse(frame: &'frame str, limits: &EnvelopeLimits) -> Result<Self, EnvelopeError> {
        check_size(frame, limits)?;
        if !frame.trim_start().starts_with('{') {
            // serde would read an array as the members in their order.
            return Err(EnvelopeError::Syntax(serde::de::Error::custom("it does not start with `{`")));
        }
        let members: Members<'frame> = serde_json::from_str(frame).map_err(EnvelopeError::Syntax)?;
        let id = match members.id.map(RawValue::get) {
            None | Some("null") => None,
            Some(json) => Some(ClientId::parse(json).ok_or_else(|| EnvelopeError::Member {
                reason: format!("`id` must be a string of at most {CLIENT_ID_BYTES_MAX} bytes or an integer"),
                id: None,
            })?),
        };
        let refused = |reason: String| EnvelopeError::Member { reason, id: id.clone() };
        let action = members.action.ok_or_else(|| refused("`action` is missing".to_owned()))?;
        let action: Cow<'frame, str> = borrowed_text(action.get()).ok_or_else(|| refused("`action` must be a string".to_owned()))?;
        check_action_name(&action, limits).map_err(refused)?;
        let receipt = match members.receipt.map(RawValue::get) {
            None | Some("null" | "false") => false,
            Some("true") => true,
            Some(_) => return Err(refused("`receipt` must be true or false".to_owned())),
        };
        Ok(Self { action, data: members.data, id, receipt, frame })
    }
}

/// What is refused before any parsing.
pub(super) fn check_size(frame: &str, limits: &EnvelopeLimits) -> Result<(), EnvelopeError> {
    if frame.len() > limits.frame_bytes_max {
        return Err(EnvelopeError::TooLarge { size: frame.len(), limit: limits.frame_bytes_max });
    }
    if nests_deeper_than(frame.as_bytes(), limits.json_depth_max) {
        return Err(EnvelopeError::TooDeep(limits.json_depth_max));
    }
    Ok(())
}

/// What an action may be called; the text is for the client.
pub(super) fn check_action_name(action: &str, limits: &EnvelopeLimits) -> Result<(), String> {
    if action.is_empty() || action.len() > limits.action_bytes_max {
        return Err(format!("`action` must have 1 to {} bytes", limits.action_bytes_max));
    }
    if action.chars().any(char::is_control) {
        return Err("`action` must not have control characters".to_owned());
    }
    Ok(())
}

/// `Cow<str>` as serde_json gives it is always owned; text without escapes is borrowed here.
fn borrowed_text(json: &str) -> Option<Cow<'_, str>> {
    serde_json::from_str::<&str>(json).map(Cow::Borrowed).or_else(|_| serde_json::from_str::<String>(json).map(Cow::Owned)).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: EnvelopeLimits = EnvelopeLimits { frame_bytes_max: 65_536, action_bytes_max: 128, json_depth_max: 64 };

    fn refusal(frame: &str) -> String {
        Envelope::parse(frame, &LIMITS).unwrap_err().to_string()
    }

    #[test]
    fn reads_a_frame() {
        let envelope = Envelope::parse(r#"{"action":"chat_text","data":{"b": [1]},"id":"7","receipt":true,"x":1}"#, &LIMITS).unwrap();
        assert_eq!(envelope.action, "chat_text");
        assert_eq!(envelope.data.unwrap().get(), r#"{"b": [1]}"#);
        assert_eq!(envelope.id.unwrap().as_json(), "\"7\"");
        assert!(envelope.receipt);
        assert_eq!(Envelope::parse(r#"{"action":"a\u0062"}"#, &LIMITS).unwrap().action, "ab");
    }

    #[test]
    fn odd_ids() {
        for good in ["7", "-7", "18446744073709551615", "\"\"", "\"x\\ny\""] {
            assert_eq!(ClientId::parse(good).unwrap().as_json(), good);
        }
        let long = format!("\"{}\"", "x".repeat(65));
        for bad in ["1.5", "true", "[]", "{}", "1e3", "99999999999999999999", long.as_str()] {
            assert!(ClientId::parse(bad).is_none(), "{bad}");
            assert!(refusal(&format!(r#"{{"action":"a","id":{bad}}}"#)).contains("`id` must be"), "{bad}");
        }
        assert!(Envelope::parse(r#"{"action":"a","id":null}"#, &LIMITS).unwrap().id.is_none());
    }

    #[test]
    fn bad_frames_say_why() {
        for (frame, why) in [
            ("", "not a JSON object"),
            ("hello", "not a JSON object"),
            ("[\"a\"]", "not a JSON object"),
            ("\"a\"", "not a JSON object"),
            (r#"{"action":"a","action":"b"}"#, "duplicate"),
            (r#"{"data":1}"#, "`action` is missing"),
            (r#"{"action":7}"#, "`action` must be a string"),
            (r#"{"action":""}"#, "1 to 128 bytes"),
            (r#"{"action":"a\u0000b"}"#, "control characters"),
            (r#"{"action":"a","receipt":1}"#, "`receipt` must be"),
        ] {
            assert!(refusal(frame).contains(why), "{frame}: {}", refusal(frame));
        }
        assert!(refusal(&format!(r#"{{"action":"{}"}}"#, "x".repeat(129))).contains("1 to 128"));
        assert!(refusal(&"[".repeat(60_000)).contains("deeper than 64"));
        assert!(refusal(&" ".repeat(70_000)).contains("limit is 65536"));
    }

    #[test]
    fn the_id_of_a_bad_frame_is_kept() {
        let error = Envelope::parse(r#"{"id":3}"#, &LIMITS).unwrap_err();
        assert_eq!(error.id().unwrap().as_json(), "3");
    }

    proptest! {
        #[test]
        fn never_panics(frame in ".{0,200}") {
            let _ = Envelope::parse(&frame, &LIMITS);
        }

        #[test]
        fn any_text_and_id_survive(action in "[^\\p{Cc}]{1,30}", id in any::<i64>()) {
            let frame = serde_json::json!({"action": action, "id": id}).to_string();
            let envelope = Envelope::parse(&frame, &LIMITS).unwrap();
            prop_assert_eq!(envelope.action.as_ref(), action.as_str());
            prop_assert_eq!(envelope.id.unwrap().as_json().to_owned(), id.to_string());
        }
    }
}

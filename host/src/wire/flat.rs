//! The PHP package's frames: the members of the data stand beside `action`.

use std::borrow::Cow;
use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::envelope::{Envelope, EnvelopeError, EnvelopeLimits, check_action_name, check_size};
use super::json::Json;

/// The action that confirms a registration; front ends know it by this spelling.
pub const REGISTERED: &str = "registred";
/// What the confirmation says.
pub const REGISTERED_MESSAGE: &str = "Registration confirmed";

/// Reads a client's object: `action` is a member (the last one, as in PHP, and a number by its decimal text), and the whole object is the data.
///
/// # Errors
/// [`EnvelopeError`]: over a limit, no object, or no usable `action`.
pub fn parse<'frame>(frame: &'frame str, limits: &EnvelopeLimits) -> Result<Envelope<'frame>, EnvelopeError> {
    check_size(frame, limits)?;
    let whole: &RawValue = serde_json::from_str(frame).map_err(EnvelopeError::Syntax)?;
    let Action(action) = serde_json::from_str(frame).map_err(EnvelopeError::Syntax)?;
    let refused = |reason: String| EnvelopeError::Member { reason, id: None };
    let action = action.ok_or_else(|| refused("`action` is missing".to_owned()))?;
    let text = action.get();
    let name = match text.as_bytes().first() {
        Some(b'"') => serde_json::from_str::<&str>(text)
            .map(Cow::Borrowed)
            .or_else(|_| serde_json::from_str::<String>(text).map(Cow::Owned))
            .map_err(EnvelopeError::Syntax)?,
        Some(b'-' | b'0'..=b'9') => Cow::Borrowed(text),
        _ => return Err(refused("`action` must be a string".to_owned())),
    };
    check_action_name(&name, limits).map_err(refused)?;
    Ok(Envelope { action: name, data: Some(whole), id: None, receipt: false, frame })
}

/// `{…data's members, "action": …}`: `action` wins over a member of that name. A list's members are named "0", "1", …; a scalar is `value`.
#[must_use]
pub fn message(action: &str, data: &Json) -> Bytes {
    let text = data.as_bytes().trim_ascii();
    let mut frame = BytesMut::with_capacity(32 + action.len() + text.len());
    frame.put_u8(b'{');
    match text.first() {
        Some(b'{') if !may_have_action(text) => {
            frame.put_slice(text[1..text.len() - 1].trim_ascii());
            if frame.len() > 1 {
                frame.put_u8(b',');
            }
        }
        Some(b'{' | b'[') => {
            // The text is JSON, so that nothing can go wrong here.
            if let Ok(Members(members)) = serde_json::from_slice(text) {
                for (name, value) in members.iter().filter(|(name, _)| !is_action(name)) {
                    frame.put_slice(name.as_bytes());
                    frame.put_u8(b':');
                    frame.put_slice(value.get().as_bytes());
                    frame.put_u8(b',');
                }
            }
        }
        _ => {
            frame.put_slice(b"\"value\":");
            frame.put_slice(text);
            frame.put_u8(b',');
        }
    }
    frame.put_slice(b"\"action\":");
    put_text(&mut frame, action);
    frame.put_u8(b'}');
    frame.freeze()
}

/// Whether a member could be called `action`: false for nearly all, which are passed on without a look at their members.
fn may_have_action(text: &[u8]) -> bool {
    text.windows(8).any(|window| window == b"\"action\"") || text.windows(2).any(|window| window == b"\\u")
}

/// Whether a member's name, as it is written, means `action`.
fn is_action(name: &str) -> bool {
    name == "\"action\"" || (name.contains('\\') && serde_json::from_str::<String>(name).is_ok_and(|name| name == "action"))
}

fn put_text(frame: &mut BytesMut, text: &str) {
    // A string always has a JSON form.
    frame.put_slice(&serde_json::to_vec(text).unwrap_or_default());
}

/// The value of the last member `action` of an object; other members may come twice.
struct Action<'frame>(Option<&'frame RawValue>);

impl<'de> Deserialize<'de> for Action<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ActionVisitor)
    }
}

struct ActionVisitor;

impl<'de> Visitor<'de> for ActionVisitor {
    type Value = Action<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object with `action`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut action = None;
        while let Some(name) = map.next_key::<Name<'de>>()? {
            let value: &RawValue = map.next_value()?;
            if name.0 == "action" {
                action = Some(value);
            }
        }
        Ok(Action(action))
    }
}

/// A member's name, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Name<'frame>(#[serde(borrow)] Cow<'frame, str>);

/// The members of an object or a list, in their order: names as they are written, so that one passes that is half of a surrogate pair.
struct Members<'data>(Vec<(Cow<'data, str>, &'data RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object or a list")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(name) = map.next_key::<&RawValue>()? {
            members.push((name.get().into(), map.next_value()?));
        }
        Ok(Members(members))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(value) = list.next_element()? {
            members.push((format!("\"{}\"", members.len()).into(), value));
        }
        Ok(Members(members))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const LIMITS: EnvelopeLimits = EnvelopeLimits { frame_bytes_max: 65_536, action_bytes_max: 128, json_depth_max: 64 };

    fn flat(data: &str) -> String {
        let data = Json::parse(Bytes::copy_from_slice(data.as_bytes())).unwrap();
        String::from_utf8(message("chat_text", &data).to_vec()).unwrap()
    }

    #[test]
    fn golden_frames() {
        for (data, golden) in [
            (r#"{"text":"hi","n":1.0}"#, r#"{"text":"hi","n":1.0,"action":"chat_text"}"#),
            ("{ }", r#"{"action":"chat_text"}"#),
            ("[]", r#"{"action":"chat_text"}"#),
            (r#"[1,"two",{"action":"x"}]"#, r#"{"0":1,"1":"two","2":{"action":"x"},"action":"chat_text"}"#),
            ("\"hi\"", r#"{"value":"hi","action":"chat_text"}"#),
            ("7", r#"{"value":7,"action":"chat_text"}"#),
            ("false", r#"{"value":false,"action":"chat_text"}"#),
            ("null", r#"{"value":null,"action":"chat_text"}"#),
            (r#"{"action":"mine","text":"hi"}"#, r#"{"text":"hi","action":"chat_text"}"#),
            (r#"{"\u0061ction":"mine","text":"hi"}"#, r#"{"text":"hi","action":"chat_text"}"#),
            (r#"{"\ud800":1,"action":"mine","a\u0062":2}"#, r#"{"\ud800":1,"a\u0062":2,"action":"chat_text"}"#),
            (r#"{"nested":{"action":"mine"},"value":1}"#, r#"{"nested":{"action":"mine"},"value":1,"action":"chat_text"}"#),
            (
                r#"{"url":"http:\/\/x\/","text":"\u00e9\ud83d\ude00 é"}"#,
                r#"{"url":"http:\/\/x\/","text":"\u00e9\ud83d\ude00 é","action":"chat_text"}"#,
            ),
        ] {
            assert_eq!(flat(data), golden, "{data}");
        }
    }

    #[test]
    fn the_whole_object_is_the_data() {
        let frame = r#" {"id":7,"action":"chat_text","data":{"x":1},"receipt":5,"id":8} "#;
        let envelope = parse(frame, &LIMITS).unwrap();
        assert_eq!((envelope.action.as_ref(), envelope.data.unwrap().get()), ("chat_text", frame.trim()));
        assert!(envelope.id.is_none() && !envelope.receipt);
        assert_eq!(parse(r#"{"action":"a","action":"b"}"#, &LIMITS).unwrap().action, "b", "as PHP reads it");
        assert_eq!(parse(r#"{"action":"a\u0062"}"#, &LIMITS).unwrap().action, "ab");
        assert_eq!(parse(r#"{"action":12}"#, &LIMITS).unwrap().action, "12");
    }

    #[test]
    fn what_is_no_message() {
        let long = format!(r#"{{"action":"{}"}}"#, "x".repeat(129));
        let deep = format!(r#"{{"action":"a","x":{}1{}}}"#, "[".repeat(64), "]".repeat(64));
        for frame in
            ["", "hello", "[\"a\"]", "\"a\"", "7", "{}", r#"{"action":null}"#, r#"{"action":""}"#, r#"{"action":["a"]}"#, &long, &deep]
        {
            assert!(parse(frame, &LIMITS).is_err(), "{frame}");
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            let name = prop_oneof![Just("action".to_owned()), Just("value".to_owned()), ".{0,4}"];
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec((name, inner), 0..4).prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn flat_frames_are_what_the_package_would_send(data in any_json(), action in ".{1,8}") {
            let mut expected = match &data {
                Value::Object(members) => members.clone(),
                Value::Array(list) => list.iter().enumerate().map(|(index, value)| (index.to_string(), value.clone())).collect(),
                scalar => [("value".to_owned(), scalar.clone())].into_iter().collect(),
            };
            expected.insert("action".to_owned(), json!(action));
            let frame = message(&action, &Json::encode(&data).unwrap());
            prop_assert_eq!(serde_json::from_slice::<Value>(&frame).unwrap(), Value::Object(expected));
        }

        #[test]
        fn never_panics(frame in ".{0,200}") {
            let _ = parse(&frame, &LIMITS);
        }
    }
}

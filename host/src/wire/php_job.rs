//! One client message as the PHP package's `websocket:work` takes it off its list.

use bytes::Bytes;

use super::json::nests_deeper_than;

/// Deepest nesting of a client's object that PHP's `json_decode` reads unless told otherwise: 512 levels, of which the item takes one, and the
/// innermost value another.
const DEPTH_MAX: usize = 512 - 2;
/// Room for names, ids and the time around the client's object.
const OVERHEAD_BYTES: usize = 256;

/// Why PHP could not read a client's message: its `json_decode` would give nothing of the whole item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnreadableError {
    /// Nested too deep.
    #[error("JSON nests deeper than {DEPTH_MAX} levels, which PHP can't read")]
    TooDeep,
    /// Half of a surrogate pair.
    #[error("a \\u escape is half of a surrogate pair, which PHP can't read")]
    HalfPair,
}

/// An id in the JSON type that the handler gave it in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypedId<'id> {
    /// Its text.
    pub text: &'id str,
    /// It is a JSON integer, and `text` its digits.
    pub is_number: bool,
}

/// A client message on its way to PHP.
#[derive(Debug, Clone, Copy)]
pub struct PhpJob<'message> {
    /// The sender's public id.
    pub connection_id: TypedId<'message>,
    /// The sender's user.
    pub user_id: Option<TypedId<'message>>,
    /// The client's whole object, as it came: valid JSON.
    pub frame: &'message str,
    /// The PHP class that handles it.
    pub handle: &'message str,
    /// When the server accepted it, milliseconds since the Unix epoch.
    pub time_ms: u64,
}

impl PhpJob<'_> {
    /// The list item. One that is made, PHP can read.
    ///
    /// # Errors
    /// [`UnreadableError`]
    pub fn encode(&self) -> Result<Bytes, UnreadableError> {
        let frame = self.frame.trim();
        if nests_deeper_than(frame.as_bytes(), DEPTH_MAX) {
            return Err(UnreadableError::TooDeep);
        }
        if has_half_pair(frame) {
            return Err(UnreadableError::HalfPair);
        }
        let mut item = String::with_capacity(frame.len() + self.handle.len() + OVERHEAD_BYTES);
        item.push_str("{\"connection_id\":");
        push_id(&mut item, Some(self.connection_id));
        item.push_str(",\"user_id\":");
        push_id(&mut item, self.user_id);
        item.push_str(",\"data\":");
        item.push_str(frame);
        item.push_str(",\"handle\":");
        push_text(&mut item, self.handle);
        item.push_str(",\"meta\":{\"time\":");
        item.push_str(&(self.time_ms / 1000).to_string());
        item.push_str("}}");
        Ok(item.into())
    }
}

fn push_id(item: &mut String, id: Option<TypedId<'_>>) {
    match id {
        None => item.push_str("null"),
        Some(id) if id.is_number => item.push_str(id.text),
        Some(id) => push_text(item, id.text),
    }
}

fn push_text(item: &mut String, text: &str) {
    item.push_str(&serde_json::Value::from(text).to_string());
}

/// Whether a `\u` escape of valid JSON is one half of a surrogate pair without the other. Parsers that skip over strings let it pass.
fn has_half_pair(json: &str) -> bool {
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        rest = &rest[at..];
        match unit(rest) {
            None => rest = rest.get(2..).unwrap_or_default(),
            Some(0xD800..=0xDBFF) if matches!(rest.get(6..).and_then(unit), Some(0xDC00..=0xDFFF)) => rest = &rest[12..],
            Some(0xD800..=0xDFFF) => return true,
            Some(_) => rest = &rest[6..],
        }
    }
    false
}

/// The UTF-16 unit that `text` begins with as a `\u` escape.
fn unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    u16::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn job<'message>(frame: &'message str, connection: (&'message str, bool), user: Option<(&'message str, bool)>) -> PhpJob<'message> {
        let id = |(text, is_number)| TypedId { text, is_number };
        PhpJob { connection_id: id(connection), user_id: user.map(id), frame, handle: "\\Chat\\Actions\\X", time_ms: 1_700_000_000_999 }
    }

    fn encode(frame: &str) -> Result<Bytes, UnreadableError> {
        job(frame, ("c", false), None).encode()
    }

    #[test]
    fn golden_items() {
        let frame = r#" {"action":"legacy", "data":{"url":"http:\/\/x\/"},"n":1.0} "#;
        let cases = [
            (job(frame, ("n1.abc", false), None), r#"{"connection_id":"n1.abc","user_id":null,"#),
            (job(frame, ("7", true), Some(("-8", true))), r#"{"connection_id":7,"user_id":-8,"#),
            (job(frame, ("7", false), Some(("a\"b", false))), r#"{"connection_id":"7","user_id":"a\"b","#),
        ];
        let end = r#""data":{"action":"legacy", "data":{"url":"http:\/\/x\/"},"n":1.0},"handle":"\\Chat\\Actions\\X","meta":{"time":1700000000}}"#;
        for (job, start) in cases {
            assert_eq!(job.encode().unwrap(), format!("{start}{end}"));
        }
    }

    #[test]
    fn what_php_cannot_read_is_not_made() {
        for half in [r"\ud800", r"\udc00", r"\uD83D\n", r"\ud83d\ud83d", r"\ud83dx\ude00", r"\ud83d\\ude00", r"\\\udbff"] {
            assert_eq!(encode(&format!("{{\"a\":\"{half}\"}}")), Err(UnreadableError::HalfPair), "{half}");
        }
        for whole in [r"\ud83d\ude00", r"\uD83D\uDE00", r"\\ud800", r"\u00e9", r"\ud7ff", r"\ue000", r"\\\\ud800", "é😀"] {
            assert!(encode(&format!("{{\"a\":\"{whole}\"}}")).is_ok(), "{whole}");
        }
        let nested = |levels: usize| format!("{{\"a\":{}1{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
        assert!(encode(&nested(510)).is_ok());
        assert_eq!(encode(&nested(511)), Err(UnreadableError::TooDeep));
    }

    proptest! {
        #[test]
        fn any_text_comes_back(text in ".{0,40}", id in ".{0,20}", escapes in proptest::collection::vec(any::<u16>(), 0..6)) {
            let escaped: String = escapes.iter().map(|unit| format!("\\u{unit:04x}")).collect();
            let frame = format!("{{\"action\":{},\"data\":\"{escaped}\"}}", Value::from(text.as_str()));
            let is_readable = String::from_utf16(&escapes).is_ok();
            let item = job(&frame, (&id, false), Some(("5", true))).encode();
            prop_assert_eq!(item.is_ok(), is_readable);
            if let Ok(item) = item {
                let read: Value = serde_json::from_slice(&item).unwrap();
                prop_assert_eq!(&read["data"]["action"], &json!(text));
                prop_assert_eq!((&read["connection_id"], &read["user_id"]), (&json!(id), &json!(5)));
            }
        }
    }
}

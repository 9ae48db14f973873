//! Redis's answers (RESP2) where there are many of them: how long one is, and a walk over it that copies nothing.

use redis::Value;

/// Longest answer taken; a longer one is none of ours.
const ANSWER_BYTES_MAX: usize = 1 << 30;
/// Most values in one answer.
const ANSWER_VALUES_MAX: usize = 1 << 24;
/// Longest line that is no text of an error.
const NUMBER_BYTES_MAX: usize = 24;
const LINE_BYTES_MAX: usize = 64 << 10;

/// What can't be an answer of Redis. The connection is of no use any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Redis sent what is no answer: {0}")]
pub(super) struct Malformed(&'static str);

/// One value, or the beginning of an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'answer> {
    Bulk(&'answer [u8]),
    Simple(&'answer [u8]),
    Error(&'answer [u8]),
    Integer(i64),
    Nil,
    /// So many values follow.
    Array(usize),
}

/// Finds where an answer ends, going on where it stopped when more bytes have come.
#[derive(Debug, Default)]
pub(super) struct Scan {
    at: usize,
    /// Values still to come beyond the one that everything begins with.
    more: usize,
}

impl Scan {
    /// The length of the answer that `bytes` begin with; `None` when its end has not come yet. Nesting is counted, not followed.
    ///
    /// # Errors
    /// [`Malformed`]
    pub(super) fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        loop {
            let Some((token, next)) = token(bytes, self.at)? else { return Ok(None) };
            self.at = next;
            if let Token::Array(length) = token {
                self.more += length;
                if self.more > ANSWER_VALUES_MAX {
                    return Err(Malformed("too many values"));
                }
            }
            if self.more == 0 {
                self.at = 0;
                return Ok(Some(next));
            }
            self.more -= 1;
        }
    }
}

/// Walks over an answer that is there to its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walk<'answer> {
    bytes: &'answer [u8],
    at: usize,
}

impl<'answer> Walk<'answer> {
    pub(super) fn new(bytes: &'answer [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// The next value; `None` at the end.
    pub(super) fn next(&mut self) -> Option<Token<'answer>> {
        let (token, next) = token(self.bytes, self.at).ok()??;
        self.at = next;
        Some(token)
    }

    /// How many values the array holds that begins here; `None`, after stepping over it, for anything else.
    pub(super) fn array(&mut self) -> Option<usize> {
        match self.next()? {
            Token::Array(length) => Some(length),
            _ => None,
        }
    }

    /// The text that begins here; `None`, after stepping over it, for anything else.
    pub(super) fn bulk(&mut self) -> Option<&'answer [u8]> {
        match self.next()? {
            Token::Bulk(bytes) => Some(bytes),
            Token::Array(length) => {
                self.skip(length);
                None
            }
            _ => None,
        }
    }

    /// All that has not been walked over.
    pub(super) fn rest(&self) -> &'answer [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// Steps over `count` values with all they hold.
    pub(super) fn skip(&mut self, count: usize) {
        let mut left = count;
        while left > 0 {
            left -= 1;
            match self.next() {
                Some(Token::Array(length)) => left += length,
                Some(_) => {}
                None => return,
            }
        }
    }
}

/// An answer as a tree, for those that need one. Errors are values.
pub(super) fn value(answer: &[u8]) -> Result<Value, Malformed> {
    redis::parse_redis_value(answer).map_err(|_| Malformed("it can't be read"))
}

/// The same where only success, absence and errors matter: nothing is copied of a success.
pub(super) fn outcome(answer: &[u8]) -> Result<Value, Malformed> {
    match answer.first() {
        Some(b'-') => value(answer),
        _ if answer == b"$-1\r\n" || answer == b"*-1\r\n" => Ok(Value::Nil),
        _ => Ok(Value::Okay),
    }
}

/// The value at `at` and where the next one begins; `None` when its end has not come yet.
fn token(bytes: &[u8], at: usize) -> Result<Option<(Token<'_>, usize)>, Malformed> {
    let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) else { return Ok(None) };
    let is_text = matches!(rest[0], b'+' | b'-');
    let limit = if is_text { LINE_BYTES_MAX } else { NUMBER_BYTES_MAX };
    let searched = &rest[1..rest.len().min(limit)];
    let Some(end) = searched.iter().position(|byte| *byte == b'\r') else {
        return if rest.len() >= limit { Err(Malformed("a line is too long")) } else { Ok(None) };
    };
    let (line, next) = (&searched[..end], at + 1 + end + 2);
    if bytes.len() < next {
        return Ok(None);
    }
    if bytes[next - 1] != b'\n' {
        return Err(Malformed("a line does not end"));
    }
    let length = |line: &[u8]| match number(line) {
        Some(-1) => Ok(None),
        Some(length) => {
            usize::try_from(length).ok().filter(|length| *length <= ANSWER_BYTES_MAX).map(Some).ok_or(Malformed("a bad length"))
        }
        None => Err(Malformed("a bad length")),
    };
    let token = match rest[0] {
        b'+' => Token::Simple(line),
        b'-' => Token::Error(line),
        b':' => Token::Integer(number(line).ok_or(Malformed("a bad number"))?),
        b'*' => length(line)?.map_or(Token::Nil, Token::Array),
        b'$' => match length(line)? {
            None => Token::Nil,
            Some(length) => {
                let end = next + length;
                if bytes.len() < end + 2 {
                    return if end > ANSWER_BYTES_MAX { Err(Malformed("it is too long")) } else { Ok(None) };
                }
                if &bytes[end..end + 2] != b"\r\n" {
                    return Err(Malformed("a text does not end"));
                }
                return Ok(Some((Token::Bulk(&bytes[next..end]), end + 2)));
            }
        },
        _ => return Err(Malformed("an unknown kind of value")),
    };
    Ok(Some((token, next)))
}

fn number(line: &[u8]) -> Option<i64> {
    match line {
        [digit @ b'0'..=b'9'] => Some(i64::from(digit - b'0')),
        [one @ b'0'..=b'9', two @ b'0'..=b'9'] => Some(i64::from(one - b'0') * 10 + i64::from(two - b'0')),
        _ => std::str::from_utf8(line).ok()?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What RESP2 has, but no nesting of arrays in this shape's own leaves.
    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Nil),
            any::<i64>().prop_map(Value::Int),
            prop::collection::vec(any::<u8>(), 0..40).prop_map(Value::BulkString),
            "[a-z ]{1,12}".prop_map(Value::SimpleString),
        ];
        leaf.prop_recursive(4, 64, 6, |inner| prop::collection::vec(inner, 0..6).prop_map(Value::Array))
    }

    fn encode(value: &Value, bytes: &mut Vec<u8>) {
        match value {
            Value::Int(number) => bytes.extend_from_slice(format!(":{number}\r\n").as_bytes()),
            Value::SimpleString(text) => bytes.extend_from_slice(format!("+{text}\r\n").as_bytes()),
            Value::BulkString(text) => {
                bytes.extend_from_slice(format!("${}\r\n", text.len()).as_bytes());
                bytes.extend_from_slice(text);
                bytes.extend_from_slice(b"\r\n");
            }
            Value::Array(values) => {
                bytes.extend_from_slice(format!("*{}\r\n", values.len()).as_bytes());
                values.iter().for_each(|value| encode(value, bytes));
            }
            _ => bytes.extend_from_slice(b"$-1\r\n"),
        }
    }

    fn walked(walk: &mut Walk) -> Value {
        match walk.next().unwrap() {
            Token::Bulk(bytes) => Value::BulkString(bytes.to_vec()),
            Token::Simple(text) => Value::SimpleString(String::from_utf8(text.to_vec()).unwrap()),
            Token::Integer(number) => Value::Int(number),
            Token::Nil => Value::Nil,
            Token::Array(length) => Value::Array((0..length).map(|_| walked(walk)).collect()),
            Token::Error(_) => panic!("no error was sent"),
        }
    }

    proptest! {
        #[test]
        fn it_reads_what_redis_rs_reads(first in values(), second in values(), cut in any::<prop::sample::Index>()) {
            let mut bytes = Vec::new();
            encode(&first, &mut bytes);
            let length = bytes.len();
            encode(&second, &mut bytes);
            let mut scan = Scan::default();
            prop_assert_eq!(scan.end(&bytes[..cut.index(length)]), Ok(None), "not all of it is there");
            prop_assert_eq!(scan.end(&bytes), Ok(Some(length)), "goes on where it stopped");
            prop_assert_eq!(scan.end(&bytes[length..]), Ok(Some(bytes.len() - length)), "and begins anew after an answer");
            let read = redis::parse_redis_value(&bytes[..length]).unwrap();
            prop_assert_eq!(&walked(&mut Walk::new(&bytes[..length])), &read);
            prop_assert_eq!(&value(&bytes[..length]).unwrap(), &read);
            let mut walk = Walk::new(&bytes);
            walk.skip(1);
            prop_assert_eq!(walked(&mut walk), second);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[*$:+\\-0-9\r\na]{0,60}") {
            for bytes in [&bytes[..], text.as_bytes()] {
                let _ = Scan::default().end(bytes);
                let mut walk = Walk::new(bytes);
                while walk.next().is_some() {}
                Walk::new(bytes).skip(usize::MAX >> 1);
                let _ = (Walk::new(bytes).bulk(), Walk::new(bytes).array());
            }
        }
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for bytes in [&b"?1\r\n"[..], b"$x\r\n", b"$-2\r\n", b":1x\r\n", b"$1\r\nabc", b"+a\rb\r\n", b"*999999999\r\n", b"$99999999999\r\n"]
        {
            assert!(Scan::default().end(bytes).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
        assert!(Scan::default().end(&[b':', b'1'].repeat(40)).is_err(), "a number without an end");
    }

    #[test]
    fn outcomes_are_told_apart() {
        assert_eq!(outcome(b"$3\r\n1-1\r\n"), Ok(Value::Okay));
        assert_eq!(outcome(b"$-1\r\n"), Ok(Value::Nil));
        let Ok(Value::ServerError(error)) = outcome(b"-OOM command not allowed\r\n") else { panic!("no error") };
        assert_eq!(error.code(), "OOM");
    }
}

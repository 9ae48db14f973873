//! JSON text that is known to be valid and is passed on untouched, and the depth check that comes before any parsing.

use bytes::Bytes;
use serde_json::value::RawValue;

/// One JSON value as text; cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Json(Bytes);

impl Json {
    /// `null`.
    pub const NULL: Self = Self(Bytes::from_static(b"null"));

    /// Checks that `text` is one JSON value.
    ///
    /// # Errors
    /// The parser's, when it is not.
    pub fn parse(text: Bytes) -> Result<Self, serde_json::Error> {
        serde_json::from_slice::<&RawValue>(&text)?;
        Ok(Self(text))
    }

    /// Takes text that is known to be one JSON value. Not for what comes from outside.
    #[must_use]
    pub fn known(text: Bytes) -> Self {
        Self(text)
    }

    /// Encodes a value.
    ///
    /// # Errors
    /// When the value has no JSON form (a map with keys that are not text).
    pub fn encode<T: serde::Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        serde_json::to_vec(value).map(|text| Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text, to be kept.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// The text for serde, borrowed.
    ///
    /// # Errors
    /// Never for a value made by this type; the parser's otherwise.
    pub fn raw(&self) -> Result<&RawValue, serde_json::Error> {
        serde_json::from_slice(&self.0)
    }

    /// Whether it is `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.0.as_ref() == b"null"
    }
}

impl From<&RawValue> for Json {
    fn from(raw: &RawValue) -> Self {
        Self(Bytes::copy_from_slice(raw.get().as_bytes()))
    }
}

/// Whether arrays and objects nest deeper than `depth_max`. One pass, no recursion; text that is no JSON may answer anything.
#[must_use]
pub fn nests_deeper_than(text: &[u8], depth_max: usize) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                if depth > depth_max {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_strings() {
        assert!(!nests_deeper_than(br#"{"a":"[[[[[\"[[["}"#, 1));
        assert!(nests_deeper_than(b"[[1]]", 1));
        assert!(!nests_deeper_than(b"[[1],[2]]", 2));
        assert!(nests_deeper_than("[".repeat(200_000).as_bytes(), 64));
    }

    #[test]
    fn only_json_passes() {
        assert!(Json::parse(Bytes::from_static(b"{\"a\":1}")).is_ok());
        assert!(Json::parse(Bytes::from_static(b"{\"a\":1} x")).is_err());
        assert!(Json::parse(Bytes::from_static(b"\"\xff\"")).is_err());
    }
}

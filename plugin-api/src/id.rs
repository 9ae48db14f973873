//! Ids as applications have them: text, or the integers of a database.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An id that a handler gives to a connection or a user. Keeps the JSON type it was given in; compares by its decimal text.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Id {
    /// A JSON integer.
    Number(i64),
    /// A JSON string.
    Text(String),
}

impl fmt::Display for Id {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(formatter, "{number}"),
            Self::Text(text) => formatter.write_str(text),
        }
    }
}

impl PartialEq for Id {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Number(one), Self::Number(two)) => one == two,
            (Self::Text(one), Self::Text(two)) => one == two,
            (Self::Number(number), Self::Text(text)) | (Self::Text(text), Self::Number(number)) => *text == number.to_string(),
        }
    }
}

impl Eq for Id {}

impl From<&str> for Id {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Id {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Id {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<u32> for Id {
    fn from(number: u32) -> Self {
        Self::Number(i64::from(number))
    }
}

#[cfg(test)]
mod tests {
    use super::Id;

    #[test]
    fn compares_by_decimal_text() {
        assert_eq!(Id::from(7_i64), Id::from("7"));
        assert_ne!(Id::from("07"), Id::from(7_i64));
    }

    #[test]
    fn keeps_its_json_type() {
        for json in ["7", "\"7\""] {
            let id: Id = serde_json::from_str(json).unwrap();
            assert_eq!(serde_json::to_string(&id).unwrap(), json);
        }
    }
}

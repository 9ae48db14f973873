//! Identifiers: nodes, sessions, the partition a session hashes to, and the public ids a handler may not choose.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

/// Base32 without the letters that are misread.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const NODE_CHARS: usize = 12;
const SESSION_CHARS: usize = 24;

/// A running server or worker, named at random (60 bits) at its start.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// A fresh id.
    ///
    /// # Errors
    /// When the system's random source fails.
    pub fn random() -> Result<Self, getrandom::Error> {
        Ok(Self(random_text(NODE_CHARS)?.into()))
    }

    /// The id as it stands in keys.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Takes an id back from a key or a field.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        Self(text.into())
    }
}

/// So that tables of nodes can be asked without making an id.
impl Borrow<str> for NodeId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The server's side of one socket: `<node>.<120 random bits>`, never reused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(Arc<str>);

impl SessionId {
    /// A fresh id on `node`.
    ///
    /// # Errors
    /// When the system's random source fails.
    pub fn random(node: &NodeId) -> Result<Self, getrandom::Error> {
        Ok(Self(format!("{node}.{}", random_text(SESSION_CHARS)?).into()))
    }

    /// Reads a session id; `None` when `text` does not have the form of one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        is_session_form(text).then(|| Self(text.into()))
    }

    /// Takes an id back from a key or a field.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        Self(text.into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text, shared: where it is the connection's public id too, it is there once.
    #[must_use]
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }

    /// The node that holds the session.
    #[must_use]
    pub fn node(&self) -> NodeId {
        NodeId::from_text(self.node_str())
    }

    /// As [`Self::node`], as text.
    #[must_use]
    pub fn node_str(&self) -> &str {
        self.0.split('.').next().unwrap_or_default()
    }

    /// The partition of the incoming queue this session's jobs go to; part of the queue's contract.
    #[must_use]
    pub fn partition(&self, partitions: u32) -> u32 {
        let partition = xxh3_64(self.0.as_bytes()) % u64::from(partitions.max(1));
        u32::try_from(partition).unwrap_or_default()
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Names an entry of a stream, as Redis does: `<milliseconds>-<sequence>`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId {
    /// Milliseconds of the queue's clock.
    pub ms: u64,
    /// What tells entries of one millisecond apart.
    pub sequence: u64,
}

impl StreamId {
    /// Reads an id; `None` when `text` does not have the form of one.
    #[must_use]
    pub fn parse(text: &[u8]) -> Option<Self> {
        let dash = text.iter().position(|byte| *byte == b'-')?;
        Some(Self { ms: number(&text[..dash])?, sequence: number(&text[dash + 1..])? })
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.ms, self.sequence)
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    let add = |sum: u64, digit: &u8| sum.checked_mul(10)?.checked_add(u64::from(digit.checked_sub(b'0').filter(|digit| *digit <= 9)?));
    if digits.is_empty() { None } else { digits.iter().try_fold(0, add) }
}

/// Whether a handler may not choose this connection id: it has the form of a session id, or starts like a resumable one.
#[must_use]
pub fn is_reserved_connection_id(id: &str) -> bool {
    id.starts_with('~') || is_session_form(id)
}

fn is_session_form(text: &str) -> bool {
    // As ALPHABET has it.
    let is_random =
        |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'z') && !matches!(byte, b'i' | b'l' | b'o' | b'u'));
    let (text, dot) = (text.as_bytes(), NODE_CHARS);
    text.len() == dot + 1 + SESSION_CHARS && text[dot] == b'.' && is_random(&text[..dot]) && is_random(&text[dot + 1..])
}

fn random_text(chars: usize) -> Result<String, getrandom::Error> {
    let mut bytes = [0_u8; SESSION_CHARS];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().take(chars).map(|byte| char::from(ALPHABET[usize::from(byte % 32)])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_id_names_its_node_and_is_reserved() {
        let node = NodeId::random().unwrap();
        let session = SessionId::random(&node).unwrap();
        assert_eq!(session.node(), node);
        assert_eq!(SessionId::parse(session.as_str()), Some(session.clone()));
        assert!(is_reserved_connection_id(session.as_str()));
        assert!(is_reserved_connection_id("~abc"));
        assert!(!is_reserved_connection_id("alice.smith"));
    }

    #[test]
    fn the_form_is_that_of_the_alphabet() {
        for byte in 0..=127_u8 {
            let text = format!("0123456789a{0}.0123456789abcdefghjkmnp{0}", char::from(byte));
            assert_eq!(SessionId::parse(&text).is_some(), ALPHABET.contains(&byte), "{text:?}");
        }
        assert_eq!(SessionId::parse("0123456789ab.0123456789abcdefghjkmnpq1"), None);
        assert_eq!(SessionId::parse("0123456789ab-0123456789abcdefghjkmnpq"), None);
    }

    #[test]
    fn stream_ids_are_read_as_they_are_written() {
        for id in [StreamId::default(), StreamId { ms: 1_700_000_000_000, sequence: 7 }, StreamId { ms: u64::MAX, sequence: u64::MAX }] {
            assert_eq!(StreamId::parse(id.to_string().as_bytes()), Some(id));
        }
        for bad in ["", "-", "1-", "-1", "1", "1-x", "+1-1", "1-1-1", "18446744073709551616-0"] {
            assert_eq!(StreamId::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn the_partition_is_part_of_the_contract() {
        let session = SessionId::parse("0123456789ab.0123456789abcdefghjkmnpq").unwrap();
        assert_eq!(session.partition(64), 40, "changing the hash strands the jobs that are queued");
        assert_eq!(session.partition(1), 0);
    }
}

//! One entry of a partition's streams, as an operator names and sees it.

use std::fmt;
use std::str::FromStr;

use redis::Value;

use crate::queue::redis::answers::text;
use crate::wire::ids::{SessionId, StreamId};
use crate::wire::job::{JOB_FIELDS, Job, JobError};
use crate::wire::packed::{JOB_FIELD, take_job};

/// Names an entry: `<partition>/<stream id>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryId {
    /// The partition.
    pub partition: u32,
    /// Milliseconds of the stream id.
    pub ms: u64,
    /// What tells entries of one millisecond apart.
    pub sequence: u64,
}

impl EntryId {
    /// The part that Redis knows.
    #[must_use]
    pub fn stream_id(&self) -> String {
        format!("{}-{}", self.ms, self.sequence)
    }

    fn parse(partition: u32, stream_id: &str) -> Option<Self> {
        let StreamId { ms, sequence } = StreamId::parse(stream_id.as_bytes())?;
        Some(Self { partition, ms, sequence })
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}-{}", self.partition, self.ms, self.sequence)
    }
}

impl FromStr for EntryId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split_once('/')
            .and_then(|(partition, stream_id)| Self::parse(partition.parse().ok()?, stream_id))
            .ok_or_else(|| "expected PARTITION/ID as `dead list` prints it, for example 3/1700000000000-0".to_owned())
    }
}

/// An entry with its fields.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name.
    pub id: EntryId,
    fields: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// Reads one entry of XRANGE's answer.
    pub(super) fn read(partition: u32, value: &Value) -> Option<Self> {
        let Value::Array(parts) = value else { return None };
        let [id, Value::Array(flat)] = &parts[..] else { return None };
        let mut fields = Vec::with_capacity(flat.len() / 2);
        for pair in flat.chunks_exact(2) {
            if let [Value::BulkString(name), Value::BulkString(value)] = pair {
                fields.push((name.clone(), value.clone()));
            }
        }
        let fields = unpacked(&fields).unwrap_or(fields);
        Some(Self { id: EntryId::parse(partition, &text(id))?, fields })
    }

    /// The job in it.
    ///
    /// # Errors
    /// [`JobError`] when it is none.
    pub fn job(&self) -> Result<Job, JobError> {
        Job::from_fields(self.fields.iter().map(|(name, value)| (&name[..], &value[..])))
    }

    /// A field's text, for people.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<String> {
        let found = self.fields.iter().find(|(field, _)| field == name.as_bytes());
        found.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
    }

    /// All fields, for people.
    pub fn fields(&self) -> impl Iterator<Item = (String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        self.fields.iter().map(move |(name, value)| (text(name), text(value)))
    }

    /// Whose it is; `None` when it says nothing of it.
    pub(super) fn session(&self) -> Option<SessionId> {
        let (_, meta) = self.fields.iter().find(|(name, _)| name == b"m")?;
        session_of(meta)
    }

    pub(super) fn bytes(&self) -> usize {
        self.fields.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

/// A packed job's fields, as those of any other.
fn unpacked(fields: &[(Vec<u8>, Vec<u8>)]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let (_, packed) = fields.iter().find(|(name, _)| name == JOB_FIELD.as_bytes())?;
    let values = take_job(packed).ok()?.to_fields();
    let job = JOB_FIELDS.iter().zip(values).map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec()));
    let others = fields.iter().filter(|(name, _)| name != JOB_FIELD.as_bytes()).cloned();
    Some(job.chain(others).collect())
}

/// The session in a job's field `m`, which may be all that can be read of it.
pub(super) fn session_of(meta: &[u8]) -> Option<SessionId> {
    let meta: serde_json::Value = serde_json::from_slice(meta).ok()?;
    SessionId::parse(meta.get("session")?.as_str()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_printed() {
        let id: EntryId = "3/1700000000000-7".parse().unwrap();
        assert_eq!((id.partition, id.stream_id().as_str(), id.to_string().as_str()), (3, "1700000000000-7", "3/1700000000000-7"));
        for bad in ["", "3", "3/", "3/1700", "x/1-1", "3/1-x", "3/-1", "3/+1-1", "-1/1-1", "3/1-1-1"] {
            assert!(bad.parse::<EntryId>().is_err(), "{bad}");
        }
    }
}

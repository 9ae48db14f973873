//! One client message in the incoming queue, and its fields there.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::envelope::ClientId;
use super::ids::SessionId;
use super::json::Json;
use super::packed::{JOB_FIELD, take_job};

/// A client message on its way to an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// The session it came from: decides partition, lane and where the reply goes.
    pub session: SessionId,
    /// The sender's public id.
    pub connection_id: Arc<str>,
    /// The sender's user.
    pub user_id: Option<Arc<str>>,
    /// The action to run.
    pub action: String,
    /// Counts the session's messages from 1; 0 for jobs that a plugin scheduled.
    pub sequence: u64,
    /// When the server accepted it, milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// The frame's `id`.
    pub client_id: Option<ClientId>,
    /// The client's address.
    pub ip: String,
    /// Attempts already made.
    pub attempts: u32,
    /// How often it was put back because nobody served its action.
    pub unserved: u32,
    /// Set for jobs that a plugin scheduled; derived from session and sequence otherwise.
    pub scheduled_id: Option<String>,
    /// The client's data.
    pub data: Json,
}

/// Names of the stream fields, in the order they are written.
pub const JOB_FIELDS: [&str; 8] = ["c", "u", "a", "s", "t", "i", "m", "d"];

/// Longest data of a job, in bytes; far above what a client's frame may hold by default.
pub const JOB_DATA_BYTES_MAX: usize = 16 << 20;
/// Longest other field; names and ids are much shorter.
const FIELD_BYTES_MAX: usize = 16 << 10;

/// Why a stream entry is no job.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobError {
    /// A field is not there.
    #[error("field `{0}` is missing")]
    Missing(&'static str),
    /// A field is there and can't be read.
    #[error("field `{field}` can't be read: {reason}")]
    Bad {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// Field `m`: what does not deserve a field of its own.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct MetaField<'field> {
    #[serde(borrow)]
    session: Cow<'field, str>,
    #[serde(borrow, skip_serializing_if = "str::is_empty")]
    ip: Cow<'field, str>,
    #[serde(skip_serializing_if = "is_zero")]
    attempts: u32,
    #[serde(skip_serializing_if = "is_zero")]
    unserved: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Cow<'field, str>>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Job {
    /// Stable across attempts.
    #[must_use]
    pub fn message_id(&self) -> String {
        self.scheduled_id.clone().unwrap_or_else(|| format!("{}-{}", self.session, self.sequence))
    }

    /// The stream fields, named by [`JOB_FIELDS`]; absent ids are empty.
    #[must_use]
    pub fn to_fields(&self) -> [Bytes; 8] {
        self.with_fields(|fields| fields.map(Bytes::copy_from_slice))
    }

    /// As [`Self::to_fields`], lent.
    pub fn with_fields<T>(&self, lend: impl FnOnce([&[u8]; 8]) -> T) -> T {
        let (sequence, time) = (self.sequence.to_string(), self.time_ms.to_string());
        let meta = MetaField {
            session: Cow::Borrowed(self.session.as_str()),
            ip: Cow::Borrowed(&self.ip),
            attempts: self.attempts,
            unserved: self.unserved,
            id: self.scheduled_id.as_deref().map(Cow::Borrowed),
        };
        let meta = serde_json::to_vec(&meta).unwrap_or_default();
        lend([
            self.connection_id.as_bytes(),
            self.user_id.as_ref().map_or(&[], |user| user.as_bytes()),
            self.action.as_bytes(),
            sequence.as_bytes(),
            time.as_bytes(),
            self.client_id.as_ref().map_or(&[], |id| id.as_json().as_bytes()),
            &meta,
            self.data.as_bytes(),
        ])
    }

    /// Reads a job from stream fields, in any order, or from the one it is packed in; unknown ones are ignored.
    ///
    /// # Errors
    /// [`JobError`], naming the field.
    pub fn from_fields<'field>(fields: impl IntoIterator<Item = (&'field [u8], &'field [u8])>) -> Result<Self, JobError> {
        let mut found: [Option<&[u8]>; 8] = [None; 8];
        for (name, value) in fields {
            if name == JOB_FIELD.as_bytes() {
                return take_job(value).map_err(|error| JobError::Bad { field: JOB_FIELD, reason: error.to_string() });
            }
            if let Some(index) = JOB_FIELDS.iter().position(|field| field.as_bytes() == name) {
                found[index] = Some(value);
            }
        }
        for (field, value) in JOB_FIELDS.into_iter().zip(&found) {
            let (size, limit) = (value.map_or(0, <[u8]>::len), if field == "d" { JOB_DATA_BYTES_MAX } else { FIELD_BYTES_MAX });
            if size > limit {
                return Err(JobError::Bad { field, reason: format!("it has {size} bytes, the limit is {limit}") });
            }
        }
        let bytes = |index: usize| found[index].ok_or(JobError::Missing(JOB_FIELDS[index]));
        let bad = |index: usize, reason: String| JobError::Bad { field: JOB_FIELDS[index], reason };
        let text = |index: usize| std::str::from_utf8(bytes(index)?).map_err(|error| bad(index, error.to_string()));
        let number = |index: usize| text(index)?.parse::<u64>().map_err(|error| bad(index, error.to_string()));
        let meta: MetaField = serde_json::from_slice(bytes(6)?).map_err(|error| bad(6, error.to_string()))?;
        let session = SessionId::parse(&meta.session).ok_or_else(|| bad(6, format!("`{}` is no session id", meta.session)))?;
        let client_id = match text(5)? {
            "" => None,
            json => Some(ClientId::parse(json).ok_or_else(|| bad(5, "not a string or an integer".to_owned()))?),
        };
        Ok(Self {
            session,
            connection_id: text(0)?.into(),
            user_id: Some(text(1)?).filter(|user| !user.is_empty()).map(Into::into),
            action: text(2)?.to_owned(),
            sequence: number(3)?,
            time_ms: number(4)?,
            client_id,
            ip: meta.ip.into_owned(),
            attempts: meta.attempts,
            unserved: meta.unserved,
            scheduled_id: meta.id.map(Cow::into_owned),
            data: Json::parse(Bytes::copy_from_slice(bytes(7)?)).map_err(|error| bad(7, error.to_string()))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ids::NodeId;

    fn job() -> Job {
        let node = NodeId::random().unwrap();
        Job {
            session: SessionId::random(&node).unwrap(),
            connection_id: "alice".into(),
            user_id: Some("7".into()),
            action: "chat_text".to_owned(),
            sequence: 3,
            time_ms: 1_700_000_000_000,
            client_id: ClientId::parse("\"a\""),
            ip: "127.0.0.1".to_owned(),
            attempts: 1,
            unserved: 2,
            scheduled_id: None,
            data: Json::encode(&serde_json::json!({"text": "hi"})).unwrap(),
        }
    }

    fn pairs(fields: &[Bytes; 8]) -> Vec<(&[u8], &[u8])> {
        JOB_FIELDS.iter().zip(fields).map(|(name, value)| (name.as_bytes(), value.as_ref())).collect()
    }

    #[test]
    fn fields_come_back() {
        let job = job();
        assert_eq!(Job::from_fields(pairs(&job.to_fields())).unwrap(), job);
        let bare = Job { user_id: None, client_id: None, scheduled_id: Some("x".to_owned()), ..job };
        assert_eq!(Job::from_fields(pairs(&bare.to_fields())).unwrap(), bare);
    }

    #[test]
    fn a_missing_or_bad_field_is_named() {
        let fields = job().to_fields();
        let without_action = pairs(&fields).into_iter().filter(|(name, _)| *name != b"a");
        assert_eq!(Job::from_fields(without_action).unwrap_err().to_string(), "field `a` is missing");
        let mut fields = job().to_fields();
        fields[7] = Bytes::from_static(b"{");
        assert!(Job::from_fields(pairs(&fields)).unwrap_err().to_string().starts_with("field `d` can't be read"));
    }
}

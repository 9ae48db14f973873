//! A job, packed into one field of its stream entry.

use std::sync::Arc;

use bytes::Bytes;

use super::{PackedError, Parts, VERSION, put_number, put_text};
use crate::wire::envelope::ClientId;
use crate::wire::ids::SessionId;
use crate::wire::job::{JOB_DATA_BYTES_MAX, Job};
use crate::wire::json::Json;

/// The field's name.
pub const JOB_FIELD: &str = "j";

const HAS_CONNECTION_ID: u8 = 1;
const HAS_USER_ID: u8 = 2;
const HAS_CLIENT_ID: u8 = 4;
const HAS_SCHEDULED_ID: u8 = 8;

/// Appends a job. Its connection id is left out where it is the session's.
pub fn put_job(bytes: &mut Vec<u8>, job: &Job) {
    let connection_id = Some(&*job.connection_id).filter(|id| *id != job.session.as_str());
    let client_id = job.client_id.as_ref().map(ClientId::as_json);
    let parts = [connection_id, job.user_id.as_deref(), client_id, job.scheduled_id.as_deref()];
    let flags = parts.iter().enumerate().fold(0, |flags, (bit, part)| flags | u8::from(part.is_some()) << bit);
    bytes.extend_from_slice(&[VERSION, flags]);
    put_text(bytes, job.session.as_str());
    for number in [job.sequence, job.time_ms, u64::from(job.attempts), u64::from(job.unserved)] {
        put_number(bytes, number);
    }
    for text in [Some(&*job.action), Some(&*job.ip)].into_iter().chain(parts).flatten() {
        put_text(bytes, text);
    }
    bytes.extend_from_slice(job.data.as_bytes());
}

/// Reads a job back. That its data is JSON is not checked again: whoever packed it has.
///
/// # Errors
/// [`PackedError`]
pub fn take_job(packed: &[u8]) -> Result<Job, PackedError> {
    let mut parts = Parts { rest: packed };
    parts.version()?;
    let flags = parts.byte()?;
    let session = SessionId::parse(parts.text("session id")?).ok_or(PackedError::Bad("session id"))?;
    let (sequence, time_ms) = (parts.number()?, parts.number()?);
    let (attempts, unserved) = (parts.small("attempts")?, parts.small("unserved")?);
    let (action, ip) = (parts.text("action")?.to_owned(), parts.text("address")?.to_owned());
    let mut text = |flag: u8, part| if flags & flag == 0 { Ok(None) } else { parts.text(part).map(Some) };
    let connection_id = text(HAS_CONNECTION_ID, "connection id")?;
    let user_id = text(HAS_USER_ID, "user id")?;
    let client_id = text(HAS_CLIENT_ID, "client id")?;
    let scheduled_id = text(HAS_SCHEDULED_ID, "scheduled id")?;
    if parts.rest.len() > JOB_DATA_BYTES_MAX {
        return Err(PackedError::Bad("data"));
    }
    Ok(Job {
        connection_id: connection_id.map_or_else(|| session.shared(), Arc::from),
        session,
        user_id: user_id.map(Arc::from),
        action,
        sequence,
        time_ms,
        client_id: client_id.map(|json| ClientId::parse(json).ok_or(PackedError::Bad("client id"))).transpose()?,
        ip,
        attempts,
        unserved,
        scheduled_id: scheduled_id.map(str::to_owned),
        data: Json::known(Bytes::copy_from_slice(parts.rest)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ids::NodeId;

    fn job() -> Job {
        let session = SessionId::random(&NodeId::random().unwrap()).unwrap();
        Job {
            connection_id: session.shared(),
            session,
            user_id: Some("7".into()),
            action: "chat_text".to_owned(),
            sequence: 300,
            time_ms: 1_700_000_000_000,
            client_id: ClientId::parse("\"a\""),
            ip: "127.0.0.1".to_owned(),
            attempts: 1,
            unserved: 2,
            scheduled_id: None,
            data: Json::encode(&serde_json::json!({"text": "hi"})).unwrap(),
        }
    }

    fn packed(job: &Job) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_job(&mut bytes, job);
        bytes
    }

    #[test]
    fn jobs_come_back() {
        let full = job();
        let bare = Job { user_id: None, client_id: None, scheduled_id: Some("x".to_owned()), connection_id: "alice".into(), ..job() };
        for job in [full, bare] {
            assert_eq!(take_job(&packed(&job)), Ok(job));
        }
    }

    /// Jobs of this form may be queued while the release changes.
    #[test]
    fn the_form_is_golden() {
        let session = SessionId::parse("0123456789ab.0123456789abcdefghjkmnpq").unwrap();
        let job = Job { session, connection_id: "al".into(), user_id: None, client_id: ClientId::parse("7"), sequence: 200, ..job() };
        let golden = b"\x01\x05\x250123456789ab.0123456789abcdefghjkmnpq\xc8\x01\x80\xd0\x95\xff\xbc\x31\x01\x02\x09chat_text\x09127.0.0.1\x02al\x017{\"text\":\"hi\"}";
        assert_eq!(packed(&job), golden);
    }

    #[test]
    fn what_is_cut_is_an_error_or_has_less_data() {
        let job = job();
        let packed = packed(&job);
        let data = packed.len() - job.data.as_bytes().len();
        for length in 0..data {
            assert!(take_job(&packed[..length]).is_err(), "{length}");
        }
        assert_eq!(take_job(&packed[..data]).unwrap().data.as_bytes(), b"");
    }
}

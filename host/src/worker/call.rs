//! The bytes of a call: a job as its plugin gets it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::wire::envelope::ClientId;
use crate::wire::job::Job;

/// Room for what a call has beside the job's data.
const OVERHEAD_BYTES: usize = 384;

/// One attempt, as a [`MessageCall`](plugsocket_plugin::call::MessageCall); `job.attempts` are those already made. Written as text: the job's data is
/// JSON already, and serde would read it once more to write it.
pub(super) fn message_call(job: &Job, message_id: &str, timeout: Duration) -> Bytes {
    let data = job.data.as_bytes();
    let mut call = Call(Vec::with_capacity(OVERHEAD_BYTES + data.len()));
    call.text("{\"action\":", &job.action);
    call.text(",\"connection_id\":", &job.connection_id);
    if let Some(user_id) = &job.user_id {
        call.text(",\"user_id\":", user_id);
    }
    call.raw(",\"data\":");
    call.0.extend_from_slice(data);
    call.number(",\"meta\":{\"time\":", job.time_ms);
    call.text(",\"node\":", job.session.node_str());
    call.text(",\"ip\":", &job.ip);
    call.number(",\"attempt\":", u64::from(job.attempts.saturating_add(1)));
    call.text(",\"message_id\":", message_id);
    if let Some(client_id) = &job.client_id {
        call.text(",\"client_id\":", ClientId::as_json(client_id));
    }
    let deadline_ms = now_ms().saturating_add(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
    call.number("},\"deadline_ms\":", deadline_ms);
    call.raw("}");
    call.0.into()
}

/// JSON being written.
struct Call(Vec<u8>);

impl Call {
    fn raw(&mut self, text: &str) {
        self.0.extend_from_slice(text.as_bytes());
    }

    fn text(&mut self, name: &str, text: &str) {
        self.raw(name);
        // A string always has a JSON form, and memory takes everything.
        let _ = serde_json::to_writer(&mut self.0, text);
    }

    fn number(&mut self, name: &str, number: u64) {
        self.raw(name);
        let _ = serde_json::to_writer(&mut self.0, &number);
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use plugsocket_plugin::call::{MessageCall, Meta};

    use super::*;
    use crate::wire::ids::{NodeId, SessionId};
    use crate::wire::json::Json;

    #[test]
    fn a_call_reads_as_what_the_plugin_expects() {
        let session = SessionId::random(&NodeId::random().unwrap()).unwrap();
        let job = Job {
            connection_id: "al\"ice".into(),
            user_id: Some("7\n".into()),
            action: "chat_text".to_owned(),
            sequence: 3,
            time_ms: 5,
            client_id: ClientId::parse("\"a\""),
            ip: "::1".to_owned(),
            attempts: 1,
            unserved: 0,
            scheduled_id: None,
            data: Json::known(Bytes::from_static(b"{\"text\": \"hi\"}")),
            session,
        };
        for job in [Job { user_id: None, client_id: None, ..job.clone() }, job] {
            let bytes = message_call(&job, "m-3", Duration::from_secs(30));
            let call: MessageCall<'_> = serde_json::from_slice(&bytes).unwrap();
            assert_eq!((&*call.action, &*call.connection_id, call.user_id.as_deref()), ("chat_text", "al\"ice", job.user_id.as_deref()));
            assert_eq!(call.data.unwrap().get(), "{\"text\": \"hi\"}");
            let client_id = job.client_id.as_ref().map(|id| id.as_json().to_owned());
            let node = job.session.node().to_string();
            assert_eq!(call.meta, Meta { time: 5, node, ip: "::1".to_owned(), attempt: 2, message_id: "m-3".to_owned(), client_id });
            assert!((29_000..=30_000).contains(&(call.deadline_ms - now_ms())));
        }
    }
}

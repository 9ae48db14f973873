//! One frame to a client. Data goes in as the JSON text it already is.

use bytes::{BufMut, Bytes, BytesMut};

use super::codes::ErrorCode;
use super::envelope::ClientId;
use super::json::Json;

/// `{"action":…,"id":…,"data":…}`; `id` is left out when there is none.
#[must_use]
pub fn message(action: &str, id: Option<&ClientId>, data: &Json) -> Bytes {
    let mut frame = start(action, id, data.as_bytes().len());
    frame.put_slice(b",\"data\":");
    frame.put_slice(data.as_bytes());
    frame.put_u8(b'}');
    frame.freeze()
}

/// A frame without data: `accepted`, `pong`.
#[must_use]
pub fn bare(action: &str, id: Option<&ClientId>) -> Bytes {
    let mut frame = start(action, id, 0);
    frame.put_u8(b'}');
    frame.freeze()
}

/// Tells the client that the server goes away, and when to come back.
#[must_use]
pub fn draining(reconnect_after_ms: u64) -> Bytes {
    let data = Json::encode(&serde_json::json!({"reconnect_after_ms": reconnect_after_ms}));
    data.map_or_else(|_| bare("draining", None), |data| message("draining", None, &data))
}

/// An `expiring` frame: the client's token ends in so many milliseconds.
#[must_use]
pub fn expiring(in_ms: u64) -> Bytes {
    let data = Json::encode(&serde_json::json!({ "expires_in_ms": in_ms }));
    data.map_or_else(|_| bare("expiring", None), |data| message("expiring", None, &data))
}

/// An `error` frame. `code` is a plugin's own or [`ErrorCode::as_str`].
#[must_use]
pub fn error(id: Option<&ClientId>, code: &str, text: &str, retry_after_ms: Option<u64>) -> Bytes {
    let mut data = serde_json::json!({"code": code, "message": text});
    if let Some(retry_after_ms) = retry_after_ms {
        data["retry_after_ms"] = retry_after_ms.into();
    }
    Json::encode(&data).map_or_else(|_| bare("error", id), |data| message("error", id, &data))
}

/// An `error` frame with one of our own codes; `busy` and `rate_limited` say when to try again.
#[must_use]
pub fn coded_error(id: Option<&ClientId>, code: ErrorCode, text: &str) -> Bytes {
    error(id, code.as_str(), text, code.retry_after_ms())
}

fn start(action: &str, id: Option<&ClientId>, data_bytes: usize) -> BytesMut {
    let mut frame = BytesMut::with_capacity(32 + action.len() + data_bytes + id.map_or(0, |id| id.as_json().len() + 6));
    frame.put_slice(b"{\"action\":");
    // A string always has a JSON form.
    frame.put_slice(&serde_json::to_vec(action).unwrap_or_default());
    if let Some(id) = id {
        frame.put_slice(b",\"id\":");
        frame.put_slice(id.as_json().as_bytes());
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_frames() {
        let id = ClientId::parse("\"7\"");
        let data = Json::parse(Bytes::from_static(b"{\"text\":\"hi\"}")).unwrap();
        for (frame, golden) in [
            (message("chat_text", id.as_ref(), &data), r#"{"action":"chat_text","id":"7","data":{"text":"hi"}}"#),
            (message("chat_text", None, &Json::NULL), r#"{"action":"chat_text","data":null}"#),
            (message("q\"\n", None, &data), r#"{"action":"q\"\n","data":{"text":"hi"}}"#),
            (bare("accepted", id.as_ref()), r#"{"action":"accepted","id":"7"}"#),
            (draining(1500), r#"{"action":"draining","data":{"reconnect_after_ms":1500}}"#),
            (bare("pong", None), r#"{"action":"pong"}"#),
            (
                coded_error(None, ErrorCode::Busy, "queue is full"),
                r#"{"action":"error","data":{"code":"busy","message":"queue is full","retry_after_ms":1000}}"#,
            ),
            (error(id.as_ref(), "no_room", "no", None), r#"{"action":"error","id":"7","data":{"code":"no_room","message":"no"}}"#),
        ] {
            assert_eq!(std::str::from_utf8(&frame).unwrap(), golden);
        }
    }
}

//! The messages: an `echo` of 128 bytes that says whose it is and which one, and the check of its answer without a JSON parser.

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::frame;

/// Bytes of one message.
pub const PAYLOAD: usize = 128;
/// So that every id has ten digits.
const FIRST_ID: u64 = 1_000_000_000;
const DIGITS: usize = 10;
const CONNECTION_DIGITS: usize = 7;

/// One frame of a client, in which only digits change.
#[derive(Clone)]
pub struct Request {
    frame: Vec<u8>,
    id: usize,
    connection: usize,
    sequence: usize,
    data: std::ops::Range<usize>,
}

impl Request {
    pub fn new() -> Self {
        Self::with("", frame::TEXT, "", "")
    }

    /// One that is told to be `accepted` too, as soon as it is stored.
    pub fn with_receipt() -> Self {
        Self::with(r#""receipt":true,"#, frame::TEXT, "", "")
    }

    /// One as a client of NATS sends it: the same payload, published.
    pub fn to_nats(subject: &str) -> Self {
        Self::with("", frame::BINARY, &format!("PUB {subject} {PAYLOAD}\r\n"), "\r\n")
    }

    fn with(members: &str, opcode: u8, before: &str, behind: &str) -> Self {
        let payload = format!(r#"{{"action":"echo",{members}"id":{FIRST_ID},"data":"c0000000 s0000000000 "#);
        let payload = format!("{payload}{}\"}}", "x".repeat(PAYLOAD - payload.len() - 2));
        let mut bytes = Vec::new();
        frame::write(opcode, format!("{before}{payload}{behind}").as_bytes(), &mut bytes);
        let head = bytes.len() - payload.len() - behind.len();
        let place = |what: &str| payload.find(what).map_or(0, |at| head + at);
        let (id, data) = (place(&FIRST_ID.to_string()), place("c0000000"));
        Self { id, connection: data + 1, sequence: data + 2 + CONNECTION_DIGITS + 1, data: data..head + PAYLOAD - 2, frame: bytes }
    }

    /// The `sequence`th message of a connection, counted from 0.
    pub fn encode(&mut self, connection: usize, sequence: u64) -> &[u8] {
        digits(&mut self.frame[self.id..self.id + DIGITS], FIRST_ID + sequence);
        digits(&mut self.frame[self.connection..self.connection + CONNECTION_DIGITS], connection as u64);
        digits(&mut self.frame[self.sequence..self.sequence + DIGITS], sequence);
        &self.frame
    }

    fn id(&self) -> &[u8] {
        &self.frame[self.id..self.id + DIGITS]
    }

    fn data(&self) -> &[u8] {
        &self.frame[self.data.clone()]
    }
}

/// Writes a number with leading zeros.
fn digits(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// What a message from the server is.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// The answer that was expected, whole and unchanged.
    Answer,
    /// Something that answers nothing, such as a heartbeat.
    Other,
}

/// Knows how answers look from the first one on.
pub struct Check {
    request: Request,
    known: Option<Known>,
}

/// An answer, and where in it stand the id and the data.
struct Known {
    bytes: Vec<u8>,
    id: usize,
    data: usize,
}

impl Check {
    /// `request` is how they are asked.
    pub fn new(request: Request) -> Self {
        Self { request, known: None }
    }

    /// Whether this is the answer to that message of that connection.
    ///
    /// # Errors
    /// An answer of another message, of another connection, one that is not whole, or an error frame.
    pub fn answer(&mut self, payload: &[u8], connection: usize, sequence: u64) -> anyhow::Result<Kind> {
        self.request.encode(connection, sequence);
        if self.known.as_ref().is_some_and(|known| known.fits(payload, &self.request)) {
            return Ok(Kind::Answer);
        }
        self.look_closely(payload, connection, sequence)
    }

    fn look_closely(&mut self, payload: &[u8], connection: usize, sequence: u64) -> anyhow::Result<Kind> {
        let said = String::from_utf8_lossy(payload);
        let frame: Value = serde_json::from_slice(payload).with_context(|| format!("no JSON: {said}"))?;
        ensure!(frame["action"] != "error", "connection {connection} was told {said}");
        if frame["action"] != "echo" {
            ensure!(frame.get("id").is_none(), "connection {connection} was answered {said}");
            return Ok(Kind::Other);
        }
        let find = |what: &[u8]| payload.windows(what.len()).position(|window| window == what);
        let (id, data) = (find(self.request.id()), find(self.request.data()));
        match (id, data) {
            (Some(id), Some(data)) if frame["id"] == FIRST_ID + sequence => {
                self.known = Some(Known { bytes: payload.to_vec(), id, data });
                Ok(Kind::Answer)
            }
            _ => bail!("connection {connection} expected the answer to its message {sequence} and got {said}"),
        }
    }
}

impl Known {
    fn fits(&self, payload: &[u8], request: &Request) -> bool {
        let (id, data) = (self.id..self.id + DIGITS, self.data..self.data + request.data.len());
        let between = if id.end <= data.start { id.end..data.start } else { data.end..id.start };
        let (first, last) = (id.start.min(data.start), id.end.max(data.end));
        payload.len() == self.bytes.len()
            && payload[id] == *request.id()
            && payload[data] == *request.data()
            && payload[..first] == self.bytes[..first]
            && payload[between.clone()] == self.bytes[between]
            && payload[last..] == self.bytes[last..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(connection: usize, sequence: u64) -> Vec<u8> {
        Request::new().encode(connection, sequence)[8..].to_vec()
    }

    #[test]
    fn a_message_has_128_bytes_and_says_whose_it_is() {
        let payload = payload(42, 7);
        assert_eq!(payload.len(), PAYLOAD);
        let frame: Value = serde_json::from_slice(&payload).unwrap();
        assert_eq!(frame["id"], 1_000_000_007);
        assert!(frame["data"].as_str().unwrap().starts_with("c0000042 s0000000007 xxx"));
        let to_nats = Request::to_nats("jobs").encode(42, 7)[8..].to_vec();
        assert_eq!(to_nats, [b"PUB jobs 128\r\n", payload.as_slice(), b"\r\n"].concat());
    }

    fn reply(connection: usize, sequence: u64) -> Vec<u8> {
        let text = String::from_utf8(payload(connection, sequence)).unwrap();
        text.replace("\"data\":", "\"data\":{\"version\":\"1\",\"echo\":").replace("\"}", "\"}}").into_bytes()
    }

    #[test]
    fn answers_are_known_by_their_bytes() {
        for reply in [payload, reply] {
            let mut check = Check::new(Request::new());
            for sequence in 0..3 {
                assert_eq!(check.answer(&reply(1, sequence), 1, sequence).unwrap(), Kind::Answer);
            }
            assert_eq!(check.answer(&reply(2, 0), 2, 0).unwrap(), Kind::Answer);
        }
    }

    #[test]
    fn what_is_not_the_answer_is_an_error() {
        let mut check = Check::new(Request::new());
        check.answer(&reply(1, 0), 1, 0).unwrap();
        let changed = String::from_utf8(reply(1, 1)).unwrap().replace("xxx\"", "xxy\"").into_bytes();
        let twice = reply(1, 0);
        for (wrong, why) in [(twice, "twice"), (reply(1, 2), "one is missing"), (reply(2, 1), "of another"), (changed, "changed")] {
            assert!(check.answer(&wrong, 1, 1).is_err(), "{why}");
        }
        let error = br#"{"action":"error","id":1000000001,"data":{"code":"busy"}}"#;
        assert!(check.answer(error, 1, 1).unwrap_err().to_string().contains("busy"));
        assert_eq!(check.answer(br#"{"action":"heartbeat","data":{}}"#, 1, 1).unwrap(), Kind::Other);
    }
}

//! A WebSocket client that speaks bytes: frames as the test writes them, right or wrong, and what comes back.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use super::PATIENCE;

/// Last frame of a message.
pub const FIN: u8 = 0x80;
/// Opcodes.
pub const CONTINUE: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A masked frame; `first` is its first byte: FIN, reserved bits and opcode.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = head(first, 0x80, payload.len());
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// A frame as only servers send them.
pub fn unmasked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = head(first, 0, payload.len());
    bytes.extend(payload);
    bytes
}

/// A close frame.
pub fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(FIN | CLOSE, &[&code.to_be_bytes(), reason].concat())
}

/// One message, cut into fragments of this many bytes.
pub fn fragments(opcode: u8, payload: &[u8], bytes: usize) -> Vec<u8> {
    let count = payload.len().div_ceil(bytes);
    let parts = payload.chunks(bytes).enumerate().map(|(index, part)| {
        let fin = if index + 1 == count { FIN } else { 0 };
        frame(fin | if index == 0 { opcode } else { CONTINUE }, part)
    });
    parts.collect::<Vec<_>>().concat()
}

fn head(first: u8, mask: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![first];
    match length {
        0..126 => bytes.push(mask | u8::try_from(length).unwrap()),
        126..65_536 => {
            bytes.push(mask | 126);
            bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
        _ => {
            bytes.push(mask | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes
}

/// How the server ended a connection, and what it said before: messages put together, and pongs.
#[derive(Debug, PartialEq, Eq)]
pub struct Heard {
    pub messages: Vec<(u8, Vec<u8>)>,
    /// Of its close frame; `Some(None)` for one without a code.
    pub code: Option<Option<u16>>,
}

/// One connection behind its handshake. Nothing waits longer than [`PATIENCE`].
pub struct Raw {
    pub stream: TcpStream,
    unread: Vec<u8>,
}

impl Raw {
    /// Connects to `ws://host:port/` and upgrades.
    ///
    /// # Panics
    /// When that is refused.
    pub fn open(url: &str) -> Self {
        let mut raw = Self::connect(url);
        raw.stream.write_all(upgrade().as_bytes()).unwrap();
        let answer = raw.read_head();
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        raw
    }

    /// Connects and says nothing.
    ///
    /// # Panics
    /// When there is no connection.
    pub fn connect(url: &str) -> Self {
        let stream = TcpStream::connect(address(url)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, unread: Vec::new() }
    }

    /// The head of an HTTP answer, as far as there is one.
    pub fn read_head(&mut self) -> String {
        while !self.unread.windows(4).any(|window| window == b"\r\n\r\n") {
            if !self.fill() {
                break;
            }
        }
        let end = self.unread.windows(4).position(|window| window == b"\r\n\r\n").map_or(self.unread.len(), |at| at + 4);
        String::from_utf8_lossy(&self.unread.drain(..end).collect::<Vec<_>>()).into_owned()
    }

    /// Sends bytes, `step` at a time. The server may have ended the connection meanwhile, which is no error.
    pub fn send(&mut self, bytes: &[u8], step: usize) {
        for part in bytes.chunks(step) {
            if self.stream.write_all(part).is_err() {
                return;
            }
        }
    }

    /// Everything up to the end of the connection.
    ///
    /// # Panics
    /// When a frame is masked, a message is not put together rightly, or the connection does not end.
    pub fn hear(&mut self) -> Heard {
        let (mut messages, mut open, mut code) = (Vec::new(), None::<(u8, Vec<u8>)>, None);
        while let Some((first, payload)) = self.read_frame() {
            assert!(code.is_none(), "a frame behind the close frame: {first:#x}");
            assert_eq!(first & 0x70, 0, "reserved bits");
            match first & 0x0f {
                CLOSE => code = Some(payload.get(..2).map(|code| u16::from_be_bytes(code.try_into().unwrap()))),
                opcode @ (PING | PONG) => messages.push((opcode, payload)),
                opcode => {
                    assert_eq!(opcode == CONTINUE, open.is_some(), "fragments in order");
                    let (_, whole) = open.get_or_insert((opcode, Vec::new()));
                    whole.extend(payload);
                    if first & FIN != 0 {
                        messages.extend(open.take());
                    }
                }
            }
        }
        Heard { messages, code }
    }

    /// The code the server closes with, after whatever else it says; `None` when the connection breaks off before.
    pub fn hear_code(&mut self) -> Option<u16> {
        let mut code = None;
        while let Some((first, payload)) = self.read_frame() {
            if first & 0x0f == CLOSE {
                code = payload.get(..2).map(|code| u16::from_be_bytes(code.try_into().unwrap()));
            }
        }
        code
    }

    /// First byte and payload of the next frame; `None` at the end of the connection.
    pub fn read_frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let [first, second, rest @ ..] = self.unread.as_slice() {
                assert_eq!(second & 0x80, 0, "a server's frame is never masked");
                let length = match second {
                    126 => rest.get(..2).map(|length| (4, usize::from(u16::from_be_bytes(length.try_into().unwrap())))),
                    127 => rest.get(..8).map(|length| (10, usize::try_from(u64::from_be_bytes(length.try_into().unwrap())).unwrap())),
                    length => Some((2, usize::from(*length))),
                };
                if let Some((head, length)) = length
                    && self.unread.len() >= head + length
                {
                    let first = *first;
                    let payload = self.unread.drain(..head + length).skip(head).collect();
                    return Some((first, payload));
                }
            }
            if !self.fill() {
                return None;
            }
        }
    }

    fn fill(&mut self) -> bool {
        let mut bytes = [0; 64 * 1024];
        match super::uninterrupted(|| self.stream.read(&mut bytes)) {
            Ok(count) => {
                self.unread.extend(&bytes[..count]);
                count > 0
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => false,
            Err(error) => panic!("the server neither speaks nor ends the connection: {error}"),
        }
    }
}

/// `host:port` of an address that a server announced.
pub fn address(url: &str) -> &str {
    url.trim_start_matches("ws://").trim_end_matches('/')
}

/// A good upgrade request.
pub fn upgrade() -> String {
    "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        .to_owned()
}

//! WebSocket frames as bytes: what a client sends, with a mask of zeros, and what it reads.

use anyhow::{bail, ensure};

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// No server of ours sends longer ones here.
const PAYLOAD_MAX: u64 = 1 << 24;

/// One whole frame that was read.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'bytes> {
    pub opcode: u8,
    /// Whether the message ends with it.
    pub is_last: bool,
    pub payload: &'bytes [u8],
    /// Bytes of frame and head.
    pub taken: usize,
}

/// The first frame of `bytes`; `None` when it is not whole yet.
///
/// # Errors
/// A masked frame, reserved bits, and a frame over 16 MiB: none of it is expected from a server here.
pub fn read(bytes: &[u8]) -> anyhow::Result<Option<Frame<'_>>> {
    let &[first, second, ..] = bytes else { return Ok(None) };
    ensure!(first & 0x70 == 0, "a frame with reserved bits: {first:#x}");
    ensure!(second & 0x80 == 0, "a masked frame from the server");
    let (head, length) = match second {
        126 => match bytes.get(2..4) {
            Some(&[high, low]) => (4, u64::from(u16::from_be_bytes([high, low]))),
            _ => return Ok(None),
        },
        127 => match bytes.get(2..10).and_then(|length| length.try_into().ok()) {
            Some(length) => (10, u64::from_be_bytes(length)),
            None => return Ok(None),
        },
        short => (2, u64::from(short)),
    };
    if length > PAYLOAD_MAX {
        bail!("a frame of {length} bytes");
    }
    let taken = head + length as usize;
    Ok(bytes.get(head..taken).map(|payload| Frame { opcode: first & 0x0f, is_last: first & 0x80 != 0, payload, taken }))
}

/// Appends a frame of a client; with a mask of zeros the payload goes as it is.
pub fn write(opcode: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.push(0x80 | opcode);
    match payload.len() {
        short @ ..=125 => out.push(0x80 | short as u8),
        middle @ ..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(middle as u16).to_be_bytes());
        }
        long => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a server would send what a client wrote: without the mask.
    fn from_server(length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(TEXT, &vec![b'x'; length], &mut bytes);
        bytes[1] &= 0x7f;
        let mask = match bytes[1] {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        bytes.drain(mask..mask + 4);
        bytes
    }

    #[test]
    fn frames_of_every_length_come_back() {
        for length in [0, 1, 125, 126, 128, 65_535, 65_536, 100_000] {
            let mut bytes = from_server(length);
            let whole = bytes.len();
            bytes.extend_from_slice(b"next");
            let frame = read(&bytes).unwrap().unwrap();
            assert_eq!((frame.opcode, frame.is_last, frame.payload.len(), frame.taken), (TEXT, true, length, whole));
        }
    }

    #[test]
    fn what_is_not_whole_waits() {
        for length in [0, 5, 200, 70_000] {
            let bytes = from_server(length);
            for cut in (0..bytes.len()).step_by(1 + length / 50) {
                assert_eq!(read(&bytes[..cut]).unwrap(), None, "{length}: {cut}");
            }
        }
    }

    #[test]
    fn what_no_server_sends_is_an_error() {
        for bytes in [[0xc1, 0x00], [0x91, 0x00], [0x81, 0x80]] {
            assert!(read(&bytes).is_err(), "{bytes:?}");
        }
        assert!(read(&[0x81, 127, 0, 0, 0, 1, 0, 0, 0, 0]).is_err(), "too long");
    }
}

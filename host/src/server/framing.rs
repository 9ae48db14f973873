//! The frames of RFC 6455 as bytes: their heads, their masks, and what a close frame may say.

/// Kinds of frames.
pub(super) mod opcode {
    /// A further piece of a message.
    pub const CONTINUE: u8 = 0;
    /// A text message, or its first piece.
    pub const TEXT: u8 = 1;
    /// A binary message, or its first piece.
    pub const BINARY: u8 = 2;
    /// The end.
    pub const CLOSE: u8 = 8;
    /// Asks whether the other side is there.
    pub const PING: u8 = 9;
    /// The answer to that.
    pub const PONG: u8 = 10;
}

const FINAL: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0f;
/// Control frames have this bit in their opcode.
const CONTROL: u8 = 0x08;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;
const MASK_BYTES: usize = 4;
/// The longest head that a server writes: two bytes, and eight of length.
pub(super) const HEAD_BYTES_MAX: usize = 10;
/// Most of a control frame's payload.
const CONTROL_BYTES_MAX: u8 = 125;
/// 1002, and why: the answer to a close code that is none.
const VIOLATION: &[u8] = b"\x03\xeaProtocol violation";

/// Why a client's frames are no WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// A rule is broken; a sentence for the client.
    Protocol(&'static str),
    /// A message over the limit.
    TooLong,
    /// Text that is not UTF-8.
    NotUtf8,
}

/// What stands before a client's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// See [`opcode`].
    pub opcode: u8,
    /// The last piece of its message.
    pub is_final: bool,
    /// See [`unmask`].
    pub mask: [u8; MASK_BYTES],
    /// Its own length.
    pub bytes: usize,
    /// The payload's.
    pub payload_bytes: u64,
}

impl Head {
    /// Reads the head that `bytes` begin with; `None` while there is not all of it.
    ///
    /// # Errors
    /// [`Fault::Protocol`], as soon as a byte shows it.
    pub fn read(bytes: &[u8]) -> Result<Option<Self>, Fault> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        let (opcode, is_final, short) = (first & OPCODE, first & FINAL != 0, second & LENGTH);
        if first & RESERVED != 0 {
            return Err(Fault::Protocol("reserved bits are set, and no extension was agreed on"));
        }
        if !matches!(opcode, opcode::CONTINUE..=opcode::BINARY | opcode::CLOSE..=opcode::PONG) {
            return Err(Fault::Protocol("a frame of an unknown kind"));
        }
        if second & MASKED == 0 {
            return Err(Fault::Protocol("clients mask their frames"));
        }
        if opcode & CONTROL != 0 && !is_final {
            return Err(Fault::Protocol("control frames are not cut into pieces"));
        }
        if opcode & CONTROL != 0 && short > CONTROL_BYTES_MAX {
            return Err(Fault::Protocol("control frames have at most 125 bytes"));
        }
        let length_bytes = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let Some((length, rest)) = rest.split_at_checked(length_bytes) else { return Ok(None) };
        let payload_bytes =
            if length.is_empty() { u64::from(short) } else { length.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)) };
        let Some(mask) = rest.first_chunk() else { return Ok(None) };
        Ok(Some(Self { opcode, is_final, mask: *mask, bytes: 2 + length_bytes + MASK_BYTES, payload_bytes }))
    }
}

/// Takes the mask off a payload.
pub(super) fn unmask(payload: &mut [u8], mask: [u8; MASK_BYTES]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// Writes the head of a server's frame.
pub(super) fn put_head(opcode: u8, is_final: bool, payload_bytes: usize, out: &mut Vec<u8>) {
    out.push(if is_final { FINAL | opcode } else { opcode });
    match (u8::try_from(payload_bytes), u16::try_from(payload_bytes)) {
        (Ok(short), _) if short < 126 => out.push(short),
        (_, Ok(middle)) => {
            out.push(126);
            out.extend(middle.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend((payload_bytes as u64).to_be_bytes());
        }
    }
}

/// The payload that answers a client's close frame.
///
/// # Errors
/// [`Fault`], when it breaks the rules.
pub(super) fn close_answer(payload: &[u8]) -> Result<&[u8], Fault> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() { Ok(payload) } else { Err(Fault::Protocol("half a close code")) };
    };
    std::str::from_utf8(reason).map_err(|_| Fault::NotUtf8)?;
    let is_allowed = matches!(u16::from_be_bytes(*code), 1000..=1003 | 1007..=1013 | 3000..=4999);
    Ok(if is_allowed { payload } else { VIOLATION })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

    use super::*;

    #[test]
    fn heads_are_those_of_another_implementation() {
        for (bytes, is_final) in [0, 1, 125, 126, 127, 255, 256, 65_535, 65_536, 70_000].into_iter().zip([true, false].into_iter().cycle())
        {
            let mut ours = Vec::new();
            put_head(opcode::TEXT, is_final, bytes, &mut ours);
            assert!(ours.len() <= HEAD_BYTES_MAX);
            let mut theirs = Vec::new();
            let header = FrameHeader { is_final, opcode: OpCode::Data(Data::Text), ..FrameHeader::default() };
            header.format(bytes as u64, &mut theirs).unwrap();
            assert_eq!(ours, theirs, "{bytes} bytes");
        }
    }

    #[test]
    fn a_head_is_complete_with_its_last_byte_and_a_fault_shows_early() {
        for (head, payload_bytes) in [
            (&[0x81, 0x85, 1, 2, 3, 4][..], 5),
            (&[0x01, 0xfe, 1, 2, 1, 2, 3, 4], 0x0102),
            (&[0x80, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 7, 1, 2, 3, 4], 0xff00_0000_0000_0007),
        ] {
            for end in 0..head.len() {
                assert_eq!(Head::read(&head[..end]), Ok(None));
            }
            let read = Head::read(&[head, b"rest"].concat()).unwrap().unwrap();
            assert_eq!((read.bytes, read.payload_bytes, read.mask), (head.len(), payload_bytes, [1, 2, 3, 4]));
            assert_eq!((read.opcode, read.is_final), (head[0] & 0x0f, head[0] & 0x80 != 0));
        }
        for faulty in [[0x91, 0x80], [0x83, 0x80], [0x8b, 0x80], [0x81, 0x01], [0x09, 0x80], [0x89, 0xfe]] {
            assert!(matches!(Head::read(&faulty), Err(Fault::Protocol(_))), "{faulty:x?}");
        }
    }

    #[test]
    fn a_close_frame_is_answered_as_it_came_or_called_what_it_is() {
        assert_eq!(close_answer(b""), Ok(&b""[..]));
        assert_eq!(close_answer(b"\x03\xe8bye"), Ok(&b"\x03\xe8bye"[..]));
        assert_eq!(close_answer(b"\x03\xed"), Ok(VIOLATION), "1005");
        assert_eq!(close_answer(b"\x03\xe8\xff"), Err(Fault::NotUtf8));
        assert!(matches!(close_answer(b"\x03"), Err(Fault::Protocol(_))));
    }

    proptest! {
        #[test]
        fn a_mask_is_taken_off_whatever_the_length(payload in proptest::collection::vec(any::<u8>(), 0..100), mask in any::<[u8; 4]>()) {
            let mut masked = payload.clone();
            unmask(&mut masked, mask);
            prop_assert!(masked.iter().zip(&payload).enumerate().all(|(at, (masked, plain))| masked ^ plain == mask[at % 4]));
        }
    }
}

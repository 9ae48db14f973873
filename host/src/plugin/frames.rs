//! What host and runner write to each other: frames over a socket pair. Both are the same executable, so this is nobody else's format.

use bytes::{Buf as _, Bytes, BytesMut};

/// First bytes of every frame: plugin code may write whatever it likes to a descriptor that it was not given.
const MAGIC: u16 = 0x9B5D;
/// Magic, kind, code, length, number, request.
const HEADER_BYTES: usize = 2 + 1 + 1 + 4 + 8 + 8;
/// Longest payload. An answer has 16 MiB at most, a message less.
pub(super) const PAYLOAD_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Changes when frames or crumbs do: a runner of another release refuses to serve.
pub(super) const PROTOCOL: u32 = 4;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Host: what to load, as `Hello`. The crumbs' descriptor comes with it.
    Hello = 1,
    /// Host: run the call `number`; `code` is its operation. With a `request`: behind the call of that number, which is the last one that was
    /// sent, and only when that goes well and quickly.
    Call = 2,
    /// Host: do not begin the call `number` any more.
    Cancel = 3,
    /// Host: the answer to `request` of the call `number`; `code` is its status.
    Response = 4,
    /// Host: finish what came before, then end.
    Close = 5,
    /// Runner: loaded; the manifest.
    Ready = 16,
    /// Runner: not loaded; `code` says whether the constructor failed (1) or something else (0), with the text.
    Refused = 17,
    /// Runner: the call `number` has ended; `code` is its status.
    Answer = 18,
    /// Runner: the call `number` asks for something; `code` is the operation.
    Request = 19,
    /// Runner: an event for the log.
    Log = 20,
    /// Runner: the call `number` that was cancelled has begun and runs.
    Running = 21,
    /// Runner: the call `number` that was cancelled does not run, and never will.
    Cancelled = 22,
    /// Runner: the call `number` does not run, because of the one before it, and never will.
    NotBegun = 23,
}

const KINDS: [Kind; 13] = [
    Kind::Hello,
    Kind::Call,
    Kind::Cancel,
    Kind::Response,
    Kind::Close,
    Kind::Ready,
    Kind::Refused,
    Kind::Answer,
    Kind::Request,
    Kind::Log,
    Kind::Running,
    Kind::Cancelled,
    Kind::NotBegun,
];

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) code: u8,
    pub(super) number: u64,
    pub(super) request: u64,
    pub(super) payload: Bytes,
}

/// What was read is no frame: the two sides do not understand each other any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("garbage on the socket between host and runner")]
pub(super) struct Garbage;

/// The facts of a frame besides its payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) code: u8,
    pub(super) number: u64,
    pub(super) request: u64,
}

impl Head {
    /// Of a frame that belongs to no call.
    pub(super) fn of(kind: Kind) -> Self {
        Self { kind, code: 0, number: 0, request: 0 }
    }

    /// Of a frame that belongs to a call.
    pub(super) fn call(kind: Kind, code: u8, number: u64) -> Self {
        Self { kind, code, number, request: 0 }
    }

    /// Appends the frame to `buffer`. `payload` must not be longer than what the other side takes; the callers' own limits see to it.
    pub(super) fn put(self, buffer: &mut Vec<u8>, payload: &[u8]) {
        buffer.reserve(HEADER_BYTES + payload.len());
        buffer.extend_from_slice(&MAGIC.to_le_bytes());
        buffer.extend_from_slice(&[self.kind as u8, self.code]);
        buffer.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes());
        buffer.extend_from_slice(&self.number.to_le_bytes());
        buffer.extend_from_slice(&self.request.to_le_bytes());
        buffer.extend_from_slice(payload);
    }
}

/// What a frame with this payload takes up.
pub(super) fn frame_bytes(payload: &[u8]) -> usize {
    HEADER_BYTES + payload.len()
}

/// Takes the first frame off `buffer`; `None` while it is not complete.
///
/// # Errors
/// [`Garbage`]; nothing that follows can be read either.
pub(super) fn take(buffer: &mut BytesMut) -> Result<Option<Frame>, Garbage> {
    let Some(mut header) = buffer.get(..HEADER_BYTES) else {
        // Garbage that is shorter than a header must not wait for ever.
        let is_ours = buffer.iter().zip(MAGIC.to_le_bytes()).all(|(byte, magic)| *byte == magic);
        return if is_ours { Ok(None) } else { Err(Garbage) };
    };
    if header.get_u16_le() != MAGIC {
        return Err(Garbage);
    }
    let (kind, code) = (header.get_u8(), header.get_u8());
    let kind = KINDS.into_iter().find(|known| *known as u8 == kind).ok_or(Garbage)?;
    let bytes = header.get_u32_le() as usize;
    let (number, request) = (header.get_u64_le(), header.get_u64_le());
    if bytes > PAYLOAD_BYTES_MAX {
        return Err(Garbage);
    }
    if buffer.len() < HEADER_BYTES + bytes {
        buffer.reserve(HEADER_BYTES + bytes - buffer.len());
        return Ok(None);
    }
    buffer.advance(HEADER_BYTES);
    let payload = buffer.split_to(bytes).freeze();
    Ok(Some(Frame { kind, code, number, request, payload }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_they_are_cut(
            frames in prop::collection::vec((0..KINDS.len(), any::<u8>(), any::<u64>(), any::<u64>(), prop::collection::vec(any::<u8>(), 0..300)), 1..8),
            cut in 1_usize..97,
        ) {
            let mut bytes = Vec::new();
            for (kind, code, number, request, payload) in &frames {
                Head { kind: KINDS[*kind], code: *code, number: *number, request: *request }.put(&mut bytes, payload);
            }
            let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
            for part in bytes.chunks(cut) {
                buffer.extend_from_slice(part);
                while let Some(frame) = take(&mut buffer).unwrap() {
                    found.push((KINDS.iter().position(|kind| *kind == frame.kind).unwrap(), frame.code, frame.number, frame.request, frame.payload.to_vec()));
                }
            }
            prop_assert_eq!(found, frames);
        }

        #[test]
        fn garbage_is_never_waited_for_nor_taken_for_a_frame(bytes in prop::collection::vec(any::<u8>(), 2..200)) {
            prop_assume!(bytes[..2] != MAGIC.to_le_bytes());
            prop_assert_eq!(take(&mut BytesMut::from(bytes.as_slice())), Err(Garbage));
        }
    }

    #[test]
    fn lengths_and_kinds_beyond_the_limits_are_garbage() {
        let mut bytes = Vec::new();
        Head::of(Kind::Log).put(&mut bytes, b"");
        let sound = BytesMut::from(bytes.as_slice());
        assert!(take(&mut sound.clone()).unwrap().is_some());
        let mut long = sound.clone();
        long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(take(&mut long), Err(Garbage));
        let mut unknown = sound;
        unknown[2] = 99;
        assert_eq!(take(&mut unknown), Err(Garbage));
    }
}

//! What comes from a client: its bytes, in a buffer that connections use in turn, the frames in them, and the messages in those.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::framing::{Fault, Head, opcode, unmask};
use super::spare;

/// Frames of so many bytes and more do not count: what they cost is their bytes. So a message may have any length, in fragments as clients make
/// them.
const LONG_BYTES: u64 = 1024;

/// One frame of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    /// The last one of a text message, which is [`Intake::payload`] now.
    Text,
    /// The last one of a binary message, likewise.
    Binary,
    /// One of a message that is to go on.
    Fragment,
    /// A ping; [`Intake::payload`] is for the pong.
    Ping,
    /// A pong.
    Pong,
    /// A close frame, with that payload.
    Close,
}

/// The bytes that were read and are not used yet, and the message that they continue.
pub(super) struct Intake {
    /// Empty while there is nothing in it; beyond `unread` there is whatever was there before.
    buffer: Vec<u8>,
    unread: Range<usize>,
    /// Length of the frame that `unread` begins with, as far as is known.
    frame_bytes: usize,
    payload: Range<usize>,
    pieces: Option<Box<Pieces>>,
    /// The pieces are a whole message, which has been handed out.
    is_whole: bool,
    message_bytes_max: usize,
    /// See [`Self::take_frames`].
    frames: u32,
}

/// A message that came in pieces.
struct Pieces {
    is_text: bool,
    bytes: Vec<u8>,
    /// So many of them are UTF-8.
    checked_bytes: usize,
}

impl Intake {
    /// For messages of at most so many bytes. `rest` has been read already.
    pub fn new(rest: Vec<u8>, message_bytes_max: usize) -> Self {
        let unread = 0..rest.len();
        Self { buffer: rest, unread, frame_bytes: 0, payload: 0..0, pieces: None, is_whole: false, message_bytes_max, frames: 0 }
    }

    /// Reads once. Answers how much came: nothing at the end.
    pub fn poll_fill(&mut self, context: &mut Context<'_>, stream: &mut (impl AsyncRead + Unpin)) -> Poll<io::Result<usize>> {
        self.make_room();
        let mut room = ReadBuf::new(&mut self.buffer[self.unread.end..]);
        ready!(Pin::new(stream).poll_read(context, &mut room))?;
        let bytes = room.filled().len();
        self.unread.end += bytes;
        Poll::Ready(Ok(bytes))
    }

    /// The next frame of those that were read. What [`Self::payload`] answered before is gone.
    ///
    /// # Errors
    /// [`Fault`]; nothing more can be read then.
    pub fn next(&mut self) -> Result<Option<Received>, Fault> {
        if std::mem::take(&mut self.is_whole) {
            self.pieces = None;
        }
        let Some(head) = Head::read(&self.buffer[self.unread.clone()])? else { return Ok(None) };
        let payload_bytes = self.check(&head)?;
        self.frame_bytes = head.bytes + payload_bytes;
        if self.frame_bytes > self.unread.len() {
            return Ok(None);
        }
        self.payload = self.unread.start + head.bytes..self.unread.start + self.frame_bytes;
        self.unread.start = self.payload.end;
        self.frames += u32::from(head.payload_bytes < LONG_BYTES);
        unmask(&mut self.buffer[self.payload.clone()], head.mask);
        Ok(Some(match head.opcode {
            opcode::PING => Received::Ping,
            opcode::PONG => Received::Pong,
            opcode::CLOSE => Received::Close,
            opcode::TEXT if head.is_final => Received::Text,
            opcode::BINARY if head.is_final => Received::Binary,
            _ => self.put_together(&head)?,
        }))
    }

    /// Of the frame that [`Self::next`] has answered last; of its whole message, when it was the last of one.
    pub fn payload(&self) -> &[u8] {
        match &self.pieces {
            Some(pieces) if self.is_whole => &pieces.bytes,
            _ => &self.buffer[self.payload.clone()],
        }
    }

    /// Frames since the last call, but for long ones.
    pub fn take_frames(&mut self) -> u32 {
        std::mem::take(&mut self.frames)
    }

    /// Gives up the room that is not needed before more comes. What [`Self::payload`] answered before is gone.
    pub fn settle(&mut self) {
        if std::mem::take(&mut self.is_whole) {
            self.pieces = None;
        }
        if self.buffer.len() < spare::INPUT_BYTES && !self.unread.is_empty() {
            return;
        }
        if self.unread.len() < spare::INPUT_BYTES {
            self.payload = 0..0;
            let kept = self.buffer[self.unread.clone()].to_vec();
            self.unread = 0..kept.len();
            spare::give_input(std::mem::replace(&mut self.buffer, kept));
        }
    }

    /// Whether the frame may be here, and its length; judged by its head, before its payload is waited for.
    fn check(&self, head: &Head) -> Result<usize, Fault> {
        let before = match (head.opcode, &self.pieces) {
            (opcode::CONTINUE, None) => return Err(Fault::Protocol("there is no message to continue")),
            (opcode::TEXT | opcode::BINARY, Some(_)) => return Err(Fault::Protocol("a message begins within another")),
            (opcode::CONTINUE, Some(pieces)) => pieces.bytes.len(),
            _ => 0,
        };
        let payload_bytes = usize::try_from(head.payload_bytes).map_err(|_| Fault::TooLong)?;
        let is_message = matches!(head.opcode, opcode::CONTINUE..=opcode::BINARY);
        if is_message && payload_bytes > self.message_bytes_max.saturating_sub(before) {
            return Err(Fault::TooLong);
        }
        Ok(payload_bytes)
    }

    fn put_together(&mut self, head: &Head) -> Result<Received, Fault> {
        let is_text = head.opcode == opcode::TEXT;
        let pieces = self.pieces.get_or_insert_with(|| Box::new(Pieces { is_text, bytes: Vec::new(), checked_bytes: 0 }));
        pieces.bytes.extend_from_slice(&self.buffer[self.payload.clone()]);
        pieces.check(head.is_final)?;
        self.is_whole = head.is_final;
        Ok(match (head.is_final, pieces.is_text) {
            (false, _) => Received::Fragment,
            (true, true) => Received::Text,
            (true, false) => Received::Binary,
        })
    }

    fn make_room(&mut self) {
        if self.buffer.len() < spare::INPUT_BYTES {
            let mut buffer = spare::input();
            let unread = &self.buffer[self.unread.clone()];
            buffer[..unread.len()].copy_from_slice(unread);
            self.unread = 0..unread.len();
            self.buffer = buffer;
        } else if self.unread.is_empty() {
            self.unread = 0..0;
        } else if self.unread.start > 0 {
            self.buffer.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
        }
        if self.unread.end == self.buffer.len() {
            // One frame, longer than the buffer: what it says of its length is believed as far as it has come.
            let bytes = self.frame_bytes.min(2 * self.buffer.len()).max(self.buffer.len() + 1);
            self.buffer.reserve_exact(bytes - self.buffer.len());
            self.buffer.resize(bytes, 0);
        }
    }
}

impl Pieces {
    /// Text is judged piece by piece; a character may be cut in two.
    fn check(&mut self, is_whole: bool) -> Result<(), Fault> {
        if !self.is_text {
            return Ok(());
        }
        match std::str::from_utf8(&self.bytes[self.checked_bytes..]) {
            Ok(_) => self.checked_bytes = self.bytes.len(),
            Err(error) if error.error_len().is_none() && !is_whole => self.checked_bytes += error.valid_up_to(),
            Err(_) => return Err(Fault::NotUtf8),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MASK: [u8; 4] = [1, 2, 3, 250];

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        super::super::framing::put_head(first & 0x0f, true, payload.len(), &mut bytes);
        bytes[0] = first;
        bytes[1] |= 0x80;
        bytes.extend(MASK);
        let mut payload = payload.to_vec();
        unmask(&mut payload, MASK);
        bytes.extend(payload);
        bytes
    }

    /// Reads what `wire` has to say, so many bytes at once, with the pauses of a connection that waits.
    fn read(wire: &[u8], step: usize, intake: &mut Intake) -> Result<Vec<(Received, Vec<u8>)>, Fault> {
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut all = Vec::new();
        for mut chunk in wire.chunks(step) {
            while !chunk.is_empty() {
                assert!(matches!(intake.poll_fill(&mut context, &mut chunk), Poll::Ready(Ok(bytes)) if bytes > 0));
                while let Some(received) = intake.next()? {
                    all.push((received, intake.payload().to_vec()));
                }
            }
            intake.settle();
        }
        Ok(all)
    }

    #[test]
    fn frames_and_messages_are_the_same_however_they_are_cut() {
        let (long, longer) = ("ä".repeat(2_000), "x".repeat(60_000));
        let wire = [
            frame(0x81, b"one"),
            frame(0x01, "tw\u{f6}".as_bytes().split_last().unwrap().1),
            frame(0x89, b"ping"),
            frame(0x00, &[0xb6]),
            frame(0x80, b""),
            frame(0x82, long.as_bytes()),
            frame(0x81, longer.as_bytes()),
            frame(0x8a, b""),
            frame(0x88, &[3, 232]),
        ]
        .concat();
        let expected = [
            (Received::Text, b"one".to_vec()),
            (Received::Fragment, b"tw\xc3".to_vec()),
            (Received::Ping, b"ping".to_vec()),
            (Received::Fragment, vec![0xb6]),
            (Received::Text, "tw\u{f6}".into()),
            (Received::Binary, long.clone().into()),
            (Received::Text, longer.clone().into()),
            (Received::Pong, Vec::new()),
            (Received::Close, vec![3, 232]),
        ];
        for step in [1, 2, 7, 100, 5_000, wire.len()] {
            let mut intake = Intake::new(Vec::new(), 60_000);
            assert!(read(&wire, step, &mut intake).unwrap() == expected, "by {step} bytes");
            assert_eq!((intake.take_frames(), intake.take_frames()), (7, 0), "all but the two long ones");
            assert_eq!(intake.buffer.capacity(), 0, "nothing is kept");
            assert!(intake.pieces.is_none());
        }
        let mut intake = Intake::new(wire.clone(), 60_000);
        let mut count = 0;
        while intake.next().unwrap().is_some() {
            count += 1;
        }
        assert_eq!(count, expected.len(), "what came behind the request counts too");
    }

    #[test]
    fn half_a_frame_is_kept_and_nothing_beside_it() {
        let wire = frame(0x81, &[b'x'; 40_000]);
        let mut intake = Intake::new(Vec::new(), 60_000);
        assert_eq!(read(&wire[..100], 100, &mut intake), Ok(Vec::new()));
        assert_eq!(intake.buffer.capacity(), 100);
        assert_eq!(read(&wire[100..20_000], 10_000, &mut intake), Ok(Vec::new()));
        assert!(intake.buffer.capacity() <= 2 * spare::INPUT_BYTES, "{}", intake.buffer.capacity());
        assert_eq!(read(&wire[20_000..], 10_000, &mut intake).unwrap()[0].1.len(), 40_000);
        assert_eq!(intake.buffer.capacity(), 0);
    }

    #[test]
    fn a_message_over_the_limit_is_judged_by_its_head() {
        let mut intake = Intake::new(Vec::new(), 10);
        assert_eq!(read(&frame(0x82, &[0; 11])[..6], 100, &mut intake), Err(Fault::TooLong));
        let mut intake = Intake::new(Vec::new(), 10);
        let pieces = [frame(0x02, &[0; 6]), frame(0x80, &[0; 5])].concat();
        assert_eq!(read(&pieces[..pieces.len() - 5], 100, &mut intake), Err(Fault::TooLong));
        let mut intake = Intake::new(Vec::new(), 10);
        assert_eq!(read(&[0x82, 0xff, 255, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3, 4], 100, &mut intake), Err(Fault::TooLong));
    }

    #[test]
    fn text_in_pieces_is_judged_as_it_comes_and_ends_with_a_whole_character() {
        let mut intake = Intake::new(Vec::new(), 100);
        assert_eq!(read(&[frame(0x01, b"a\xc3"), frame(0x00, b"b")].concat(), 100, &mut intake), Err(Fault::NotUtf8));
        let mut intake = Intake::new(Vec::new(), 100);
        assert_eq!(read(&[frame(0x01, b"a"), frame(0x80, b"\xc3")].concat(), 100, &mut intake), Err(Fault::NotUtf8));
    }

    proptest! {
        /// Whatever comes is frames or a fault, and is never waited for in vain.
        #[test]
        fn any_bytes_do_no_harm(wire in proptest::collection::vec(any::<u8>(), 1..300), step in 1_usize..50) {
            let mut intake = Intake::new(Vec::new(), 1000);
            let _ = read(&wire, step, &mut intake);
        }
    }
}

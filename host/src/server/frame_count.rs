//! Counts the frames that come in, below tungstenite, which tells of whole messages and control frames and never of fragments.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// So many frames are read before they have to be accounted for: tungstenite reads fragments without coming back.
const UNACCOUNTED_MAX: u32 = 1024;
/// Frames of so many bytes and more do not count: what they cost is their bytes. So a message may have any length, in fragments as clients make
/// them.
const LONG_BYTES: u64 = 1024;
/// Two bytes, and at most eight of length.
const HEAD_BYTES_MAX: usize = 10;
const MASK_BYTES: u64 = 4;

/// A connection whose frames are counted as they are read.
pub(crate) struct FrameCount<S> {
    stream: S,
    tally: Tally,
}

impl<S> FrameCount<S> {
    /// `rest` was read from the stream before, and counts too.
    pub fn new(stream: S, rest: &[u8]) -> Self {
        let mut tally = Tally::default();
        tally.read(rest);
        Self { stream, tally }
    }

    /// Frames begun since the last call, but for long ones; `None` when not even a byte has come. Reading goes on only when they are taken from
    /// time to time.
    pub fn take_frames(&mut self) -> Option<u32> {
        let frames = std::mem::take(&mut self.tally.frames);
        std::mem::take(&mut self.tally.has_read).then_some(frames)
    }

    /// The connection itself.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// The connection itself, for when it speaks frames no more.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for FrameCount<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.tally.frames >= UNACCOUNTED_MAX {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.tally.read(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for FrameCount<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Where in a frame the bytes read so far end. What a frame says is for tungstenite to judge.
#[derive(Default)]
struct Tally {
    frames: u32,
    has_read: bool,
    head: [u8; HEAD_BYTES_MAX],
    head_bytes: u8,
    /// Bytes of the present frame, behind its length, that are still to come.
    unread: u64,
}

impl Tally {
    fn read(&mut self, mut bytes: &[u8]) {
        self.has_read |= !bytes.is_empty();
        while let Some((byte, rest)) = bytes.split_first() {
            if self.unread > 0 {
                let skipped = usize::try_from(self.unread).unwrap_or(usize::MAX).min(bytes.len());
                self.unread -= skipped as u64;
                bytes = &bytes[skipped..];
                continue;
            }
            bytes = rest;
            self.head[usize::from(self.head_bytes)] = *byte;
            self.head_bytes += 1;
            if self.head_bytes > 1
                && let Some(payload) = self.payload_bytes()
            {
                self.frames = self.frames.saturating_add(u32::from(payload < LONG_BYTES));
                let mask = if self.head[1] & 0x80 == 0 { 0 } else { MASK_BYTES };
                self.unread = payload.saturating_add(mask);
                self.head_bytes = 0;
            }
        }
    }

    /// Length of the payload, once all of it is there.
    fn payload_bytes(&self) -> Option<u64> {
        let length_bytes = match self.head[1] & 0x7f {
            126 => 2,
            127 => 8,
            short => return Some(u64::from(short)),
        };
        let length = self.head[..usize::from(self.head_bytes)].get(2..2 + length_bytes)?;
        Some(length.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of all three forms of length, with and without mask.
    fn wire() -> Vec<u8> {
        let mut bytes = vec![0x89, 0x80, 1, 2, 3, 4, 0x81, 0x03, b'a', b'b', b'c'];
        bytes.extend([0x01, 0xfe, 0x01, 0x00, 9, 9, 9, 9]);
        bytes.extend([0x81; 256]);
        bytes.extend([0x80, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
        bytes.extend([0x89; 65_536]);
        bytes.extend([0x8a, 0x00]);
        bytes
    }

    #[test]
    fn every_short_frame_counts_once_however_it_is_cut() {
        for step in [1, 2, 3, 7, 4096, usize::MAX] {
            let mut tally = Tally::default();
            wire().chunks(step.min(wire().len())).for_each(|chunk| tally.read(chunk));
            assert_eq!((tally.frames, tally.unread, tally.head_bytes), (4, 0, 0), "{step}: all but the long one");
        }
    }

    #[test]
    fn a_long_message_in_fragments_of_4_kib_is_no_flood() {
        let mut tally = Tally::default();
        for _ in 0..4096 {
            tally.read(&[0x00, 126, 0x10, 0x00]);
            tally.read(&[b'x'; 4096]);
        }
        assert_eq!((tally.frames, tally.unread), (0, 0));
    }

    #[test]
    fn an_impossible_length_does_no_harm() {
        let mut tally = Tally::default();
        tally.read(&[0x82, 0xff, 255, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3, 4, 5, 0x81, 0x81]);
        assert_eq!((tally.frames, tally.has_read), (0, true));
    }

    #[tokio::test]
    async fn reading_stops_until_frames_are_accounted_for() {
        use tokio::io::AsyncReadExt;
        let wire = [0x80, 0x00].repeat(4096);
        let mut stream = FrameCount::new(wire.as_slice(), &[0x80, 0x00]);
        assert_eq!((stream.take_frames(), stream.take_frames()), (Some(1), None));
        let mut bytes = [0; 4096];
        assert_eq!(stream.read(&mut bytes).await.unwrap(), 4096);
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut buffer = ReadBuf::new(&mut bytes);
        assert!(Pin::new(&mut stream).poll_read(&mut context, &mut buffer).is_pending());
        assert!(stream.take_frames().unwrap() >= UNACCOUNTED_MAX);
        assert!(Pin::new(&mut stream).poll_read(&mut context, &mut buffer).is_ready());
    }
}

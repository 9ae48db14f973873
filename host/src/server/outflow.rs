//! What goes to a client: many small frames leave as one write, long ones in pieces, and what has passed is counted.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::AsyncWrite;

use super::backlog::Backlog;
use super::framing::{HEAD_BYTES_MAX, opcode, put_head};
use super::spare;

/// Longer messages leave in fragments of this length, so that a close frame need not wait for all of one.
const FRAGMENT_BYTES: usize = 4 * 1024;
/// With so much waiting for the flush, it is written before more is taken.
const BATCH_BYTES_MAX: usize = spare::OUTPUT_BYTES - FRAGMENT_BYTES - HEAD_BYTES_MAX;

/// Frames on their way, in a buffer that is only there while it holds something: an idle connection keeps none.
pub(super) struct Outflow {
    batch: Vec<u8>,
    /// So much of the batch has left.
    sent: usize,
    /// The rest of a long message that has begun.
    long: Bytes,
    /// The newest pong for which there was no room: only the last ping needs its answer.
    pong: Option<Bytes>,
    /// A close frame was the last.
    is_closed: bool,
    /// Not all has reached the system.
    is_unflushed: bool,
    /// So much has left in all; a client that takes something makes it grow.
    written: u64,
    backlog: Arc<Backlog>,
}

impl Outflow {
    /// Nothing waits. What passes is counted in `backlog`.
    pub fn new(backlog: Arc<Backlog>) -> Self {
        let (batch, long) = (Vec::new(), Bytes::new());
        Self { batch, sent: 0, long, pong: None, is_closed: false, is_unflushed: false, written: 0, backlog }
    }

    /// The bytes that the system has taken so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Whether all has left.
    pub fn is_flushed(&self) -> bool {
        !self.is_unflushed
    }

    /// Adds a frame; nothing follows a close frame. When there is no room, [`Self::poll_room`] comes first.
    pub fn put(&mut self, opcode: u8, payload: Bytes) {
        if self.is_closed {
            return;
        }
        self.is_closed = opcode == opcode::CLOSE;
        self.is_unflushed = true;
        if self.batch.capacity() < spare::OUTPUT_BYTES {
            let mut batch = spare::output();
            batch.extend_from_slice(&self.batch);
            self.batch = batch;
        }
        self.long = payload;
        self.put_fragment(opcode);
    }

    fn put_fragment(&mut self, opcode: u8) {
        let payload = self.long.split_to(self.long.len().min(FRAGMENT_BYTES));
        put_head(opcode, self.long.is_empty(), payload.len(), &mut self.batch);
        self.batch.extend_from_slice(&payload);
        if self.long.is_empty() {
            // What is empty may still hold the message that it was cut from.
            self.long = Bytes::new();
        }
    }

    /// Leaves the message that has begun unfinished, for a close frame.
    pub fn cut_short(&mut self) {
        self.long = Bytes::new();
    }

    /// Adds a pong, now or when there is room.
    pub fn put_pong(&mut self, payload: &[u8]) {
        let payload = Bytes::copy_from_slice(payload);
        if self.has_room() {
            self.put(opcode::PONG, payload);
        } else {
            self.pong = Some(payload);
        }
    }

    /// Writes until there is room for another frame.
    pub fn poll_room(&mut self, context: &mut Context<'_>, stream: &mut (impl AsyncWrite + Unpin)) -> Poll<io::Result<()>> {
        if !self.has_room() {
            ready!(self.poll_write(context, stream))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes all of it.
    pub fn poll_flush(&mut self, context: &mut Context<'_>, stream: &mut (impl AsyncWrite + Unpin)) -> Poll<io::Result<()>> {
        ready!(self.poll_write(context, stream))?;
        ready!(Pin::new(stream).poll_flush(context))?;
        self.is_unflushed = false;
        Poll::Ready(Ok(()))
    }

    fn has_room(&self) -> bool {
        self.long.is_empty() && self.batch.len() < BATCH_BYTES_MAX
    }

    fn poll_write(&mut self, context: &mut Context<'_>, stream: &mut (impl AsyncWrite + Unpin)) -> Poll<io::Result<()>> {
        loop {
            while !self.long.is_empty() && self.batch.len() < BATCH_BYTES_MAX {
                self.put_fragment(opcode::CONTINUE);
            }
            if self.sent == self.batch.len() {
                self.batch.clear();
                self.sent = 0;
                if !self.long.is_empty() {
                    continue;
                }
                spare::give_output(std::mem::take(&mut self.batch));
                match self.pong.take() {
                    Some(pong) => self.put(opcode::PONG, pong),
                    None => return Poll::Ready(Ok(())),
                }
            }
            match Pin::new(&mut *stream).poll_write(context, &self.batch[self.sent..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(bytes)) => {
                    self.sent += bytes;
                    self.written += bytes as u64;
                    self.backlog.bytes_out.fetch_add(bytes as u64, Relaxed);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.keep_what_waits();
                    return Poll::Pending;
                }
            }
        }
    }

    /// A client that takes nothing for now has no use for a buffer that others could use.
    fn keep_what_waits(&mut self) {
        if self.sent > 0 || self.batch.capacity() == spare::OUTPUT_BYTES {
            let kept = self.batch[self.sent..].to_vec();
            self.sent = 0;
            spare::give_output(std::mem::replace(&mut self.batch, kept));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes at most `takes` bytes in all, and notes what came in each write.
    #[derive(Default)]
    struct Wire {
        writes: Vec<Vec<u8>>,
        takes: usize,
    }

    impl AsyncWrite for Wire {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let taken = bytes.len().min(self.takes);
            if taken == 0 {
                return Poll::Pending;
            }
            self.takes -= taken;
            self.writes.push(bytes[..taken].to_vec());
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn context() -> Context<'static> {
        Context::from_waker(std::task::Waker::noop())
    }

    fn text(bytes: usize) -> Bytes {
        vec![b'x'; bytes].into()
    }

    fn lengths(wire: &Wire) -> Vec<usize> {
        wire.writes.iter().map(Vec::len).collect()
    }

    /// Puts frames of these lengths as a session does.
    fn feed(outflow: &mut Outflow, wire: &mut Wire, payloads: impl IntoIterator<Item = usize>) -> usize {
        let mut fed = 0;
        for bytes in payloads {
            if outflow.poll_room(&mut context(), wire).is_pending() {
                break;
            }
            outflow.put(opcode::TEXT, text(bytes));
            fed += 1;
        }
        fed
    }

    #[test]
    fn many_small_frames_are_one_write_and_nothing_is_kept() {
        let backlog = Arc::<Backlog>::default();
        let (mut outflow, mut wire) = (Outflow::new(Arc::clone(&backlog)), Wire { takes: usize::MAX, ..Wire::default() });
        feed(&mut outflow, &mut wire, [100; 100]);
        assert!(outflow.poll_flush(&mut context(), &mut wire).is_ready() && outflow.is_flushed());
        assert_eq!(lengths(&wire), [100 * 102]);
        assert_eq!((outflow.batch.capacity(), outflow.written()), (0, 10_200));
        assert_eq!(backlog.bytes_out.load(Relaxed), 10_200);
    }

    #[test]
    fn a_batch_has_a_limit_and_a_long_message_leaves_in_fragments() {
        let (mut outflow, mut wire) = (Outflow::new(Arc::default()), Wire { takes: usize::MAX, ..Wire::default() });
        feed(&mut outflow, &mut wire, [100, 70_000, 100]);
        assert!(outflow.poll_flush(&mut context(), &mut wire).is_ready());
        assert!(lengths(&wire).iter().all(|bytes| *bytes <= spare::OUTPUT_BYTES), "{:?}", lengths(&wire));
        let all = wire.writes.concat();
        let (mut rest, mut firsts, mut payload_bytes) = (&all[102..], Vec::new(), 0);
        while let [first, 126, high, low, after @ ..] = rest {
            let bytes = usize::from(u16::from_be_bytes([*high, *low]));
            firsts.push(*first);
            payload_bytes += bytes;
            rest = &after[bytes..];
        }
        assert_eq!((firsts[0], &firsts[1..17], firsts[17], firsts.len()), (0x01, &[0x00; 16][..], 0x80, 18));
        assert_eq!((payload_bytes, rest.len()), (70_000, 102));
        assert_eq!(outflow.batch.capacity(), 0);
    }

    #[test]
    fn a_close_frame_does_not_wait_for_a_long_message() {
        let (mut outflow, mut wire) = (Outflow::new(Arc::default()), Wire { takes: 10_000, ..Wire::default() });
        feed(&mut outflow, &mut wire, [500_000, 1]);
        outflow.cut_short();
        wire.takes = usize::MAX;
        assert!(outflow.poll_room(&mut context(), &mut wire).is_ready());
        outflow.put(opcode::CLOSE, Bytes::new());
        assert!(outflow.poll_flush(&mut context(), &mut wire).is_ready());
        let all = wire.writes.concat();
        assert!(all.len() < 40_000 && all.ends_with(&[0x88, 0]), "{} bytes", all.len());
    }

    #[test]
    fn what_the_system_does_not_take_is_held_within_the_limit_and_arrives_in_order() {
        let (mut outflow, mut wire) = (Outflow::new(Arc::default()), Wire { takes: 5_000, ..Wire::default() });
        let fed = feed(&mut outflow, &mut wire, [1000; 100]);
        assert!((15..=23).contains(&fed), "{fed} frames were taken");
        assert!(outflow.batch.len() <= spare::OUTPUT_BYTES && outflow.written() == 5_000);
        for pong in 0..100 {
            outflow.put_pong(&[pong]);
        }
        assert!(outflow.batch.capacity() <= spare::OUTPUT_BYTES, "pongs that nobody reads are not kept");
        outflow.put(opcode::CLOSE, Bytes::new());
        outflow.put(opcode::TEXT, text(1));
        // By and by, a few bytes at a time.
        while outflow.poll_flush(&mut context(), &mut wire).is_pending() {
            wire.takes = 333;
        }
        let all = wire.writes.concat();
        let mut rest = &all[..];
        for _ in 0..fed {
            assert_eq!(rest[..4], [0x81, 126, 3, 232]);
            rest = &rest[1004..];
        }
        while let [0x8a, 1, _, after @ ..] = rest {
            rest = after;
        }
        assert_eq!(rest, [0x88, 0], "the close frame, and nothing behind it");
        assert_eq!(outflow.batch.capacity(), 0);
    }
}

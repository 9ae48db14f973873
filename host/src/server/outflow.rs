//! The bytes of a WebSocket on their way: many small writes leave as one, and what has passed is counted.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::backlog::Backlog;

/// So many bytes leave in one write at most; beyond, they are written without waiting for the flush.
const BATCH_BYTES_MAX: usize = 16 * 1024;

/// A stream whose writes wait for the flush, in a buffer that is only there while it holds something: an idle connection keeps none.
pub(super) struct Outflow<S> {
    stream: S,
    batch: Vec<u8>,
    /// So much of the batch has left.
    sent: usize,
    /// So much has left in all; a client that takes something makes it grow.
    written: u64,
    backlog: Arc<Backlog>,
}

impl<S> Outflow<S> {
    pub fn new(stream: S, backlog: Arc<Backlog>) -> Self {
        Self { stream, batch: Vec::new(), sent: 0, written: 0, backlog }
    }

    /// The stream below.
    pub fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// The bytes that the system has taken so far.
    pub fn written(&self) -> u64 {
        self.written
    }
}

impl<S: AsyncWrite + Unpin> Outflow<S> {
    fn poll_through(&mut self, context: &mut Context<'_>, bytes: Option<&[u8]>) -> Poll<io::Result<usize>> {
        let bytes = bytes.unwrap_or(&self.batch[self.sent..]);
        let taken = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.written += taken as u64;
        self.backlog.bytes_out.fetch_add(taken as u64, Relaxed);
        Poll::Ready(Ok(taken))
    }

    fn poll_batch(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.batch.len() {
            match ready!(self.poll_through(context, None))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                taken => self.sent += taken,
            }
        }
        (self.batch, self.sent) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Outflow<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.batch.len() + bytes.len() > BATCH_BYTES_MAX {
            ready!(this.poll_batch(context))?;
            if bytes.len() > BATCH_BYTES_MAX {
                return this.poll_through(context, Some(bytes));
            }
        }
        this.batch.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_batch(context))?;
        Pin::new(&mut this.stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_batch(context))?;
        Pin::new(&mut this.stream).poll_shutdown(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Outflow<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (this, before) = (self.get_mut(), buffer.filled().len());
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        this.backlog.bytes_in.fetch_add((buffer.filled().len() - before) as u64, Relaxed);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::SinkExt;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::super::socket::config;
    use super::*;

    /// Takes everything and notes the length of each write; takes nothing while `is_stuck`.
    #[derive(Default)]
    struct Wire {
        writes: Vec<usize>,
        is_stuck: bool,
    }

    impl AsyncWrite for Wire {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            if self.is_stuck {
                return Poll::Pending;
            }
            self.writes.push(bytes.len());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncRead for Wire {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    async fn socket() -> (WebSocketStream<Outflow<Wire>>, Arc<Backlog>) {
        let backlog = Arc::<Backlog>::default();
        let outflow = Outflow::new(Wire::default(), Arc::clone(&backlog));
        (WebSocketStream::from_raw_socket(outflow, Role::Server, Some(config(1024))).await, backlog)
    }

    #[tokio::test]
    async fn many_small_frames_are_one_write_and_nothing_is_kept() {
        let (mut socket, backlog) = socket().await;
        for _ in 0..100 {
            socket.feed(Message::text("x".repeat(100))).await.unwrap();
        }
        socket.flush().await.unwrap();
        let outflow = socket.get_mut();
        assert_eq!(outflow.stream.writes, [100 * 102]);
        assert_eq!((outflow.batch.capacity(), outflow.written()), (0, 10_200));
        assert_eq!(backlog.bytes_out.load(Relaxed), 10_200);
    }

    #[tokio::test]
    async fn a_batch_has_a_limit_and_a_long_frame_passes_by() {
        let (mut socket, _) = socket().await;
        for bytes in [100, 2 * BATCH_BYTES_MAX, 100] {
            socket.feed(Message::text("x".repeat(bytes))).await.unwrap();
        }
        socket.flush().await.unwrap();
        assert_eq!(socket.get_mut().stream.writes, [102, 2 * BATCH_BYTES_MAX + 4, 102]);
    }

    #[tokio::test]
    async fn what_the_system_does_not_take_is_held_within_the_limit() {
        let (mut socket, _) = socket().await;
        socket.get_mut().stream.is_stuck = true;
        let mut fed = 0;
        let feeding = async {
            loop {
                socket.feed(Message::text("x".repeat(1000))).await.unwrap();
                fed += 1;
            }
        };
        let stuck = tokio::time::timeout(std::time::Duration::from_millis(50), feeding).await;
        assert!(stuck.is_err() && (16..=18).contains(&fed), "{fed} frames were taken");
        assert!(socket.get_mut().batch.len() <= BATCH_BYTES_MAX && socket.get_mut().written() == 0);
    }
}

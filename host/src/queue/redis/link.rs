//! A connection of our own to Redis for the hot path: bytes go out as they are, answers are found in one buffer, nobody else is on it.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use redis::{Pipeline, Value};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time;

use super::resp::{self, Malformed, Scan};

/// Room for one read from the socket.
const READ_BYTES: usize = 64 << 10;

/// A socket, whatever its kind.
pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> Socket for S {}

/// Why a connection is of no use any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("no answer from Redis in {}s", .0.as_secs())]
    Late(Duration),
    #[error("Redis refused the connection: {0}")]
    Refused(String),
}

/// One connection. Dropping it closes the socket.
pub(super) struct Link {
    socket: Box<dyn Socket>,
    outgoing: VecDeque<Bytes>,
    incoming: BytesMut,
    scan: Scan,
    unflushed: bool,
}

impl Link {
    pub(super) fn new(socket: Box<dyn Socket>) -> Self {
        Self { socket, outgoing: VecDeque::new(), incoming: BytesMut::new(), scan: Scan::default(), unflushed: false }
    }

    /// Puts commands behind those that were put before; [`Self::receive`] writes them.
    pub(super) fn queue(&mut self, commands: Bytes) {
        if !commands.is_empty() {
            self.outgoing.push_back(commands);
        }
    }

    /// The next answer that is there to its end.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, LinkError> {
        let end = self.scan.end(&self.incoming)?;
        Ok(end.map(|end| self.incoming.split_to(end).freeze()))
    }

    /// As [`Self::next`], for those who only look at it.
    pub(super) fn next_with<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> Result<Option<T>, LinkError> {
        let Some(end) = self.scan.end(&self.incoming)? else { return Ok(None) };
        let read = read(&self.incoming[..end]);
        self.incoming.advance(end);
        Ok(Some(read))
    }

    /// Writes what is queued, and resolves when more has come. Cancel-safe.
    pub(super) async fn receive(&mut self) -> Result<(), LinkError> {
        poll_fn(|context| self.poll_receive(context)).await.map_err(LinkError::Io)
    }

    fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(Err(error)) = self.poll_send(context) {
            return Poll::Ready(Err(error));
        }
        self.incoming.reserve(READ_BYTES);
        if ready!(pin!(self.socket.read_buf(&mut self.incoming)).poll(context))? == 0 {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "Redis closed the connection")));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(first) = self.outgoing.front_mut() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(context, first))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            first.advance(written);
            if first.is_empty() {
                self.outgoing.pop_front();
            }
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.socket).poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Sends one command and waits for its answer. Whoever drops this must drop the connection too: its answer would be taken for the next one's.
    pub(super) async fn call(&mut self, command: Bytes, within: Duration) -> Result<Bytes, LinkError> {
        self.queue(command);
        let answered = async {
            loop {
                if let Some(answer) = self.next()? {
                    return Ok(answer);
                }
                self.receive().await?;
            }
        };
        time::timeout(within, answered).await.unwrap_or(Err(LinkError::Late(within)))
    }

    /// As [`Self::call`], several at once.
    pub(super) async fn run(&mut self, commands: &Pipeline, within: Duration) -> Result<Vec<Value>, LinkError> {
        self.queue(commands.get_packed_pipeline().into());
        let answered = async {
            let mut answers = Vec::with_capacity(commands.len());
            while answers.len() < commands.len() {
                match self.next_with(resp::value)? {
                    Some(answer) => answers.push(answer?),
                    None => self.receive().await?,
                }
            }
            Ok(answers)
        };
        time::timeout(within, answered).await.unwrap_or(Err(LinkError::Late(within)))
    }
}

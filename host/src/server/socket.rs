//! One WebSocket: reading, writing and ending it. Frames are fed as they come and flushed once, when there is nothing left to read.

use std::borrow::Cow;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout, timeout_at};

use super::backlog::Backlog;
use super::framing::{Fault, close_answer, opcode};
use super::handshake;
use super::intake::{Intake, Received};
use super::outflow::Outflow;
use super::outlet::{Closing, Outgoing, Outlet};
use super::rate::Bucket;
use super::session::Session;
use super::stream::Stream;
use crate::wire::codes::CloseCode;

/// So many frames that are no messages are read before others have their turn.
const UNINTERRUPTED_MAX: u32 = 1024;
/// How long a client may take for what was sent before an end that was asked for.
const REST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the closing handshake may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// A close frame's payload is 125 bytes, two of them the code.
const CLOSE_TEXT_BYTES_MAX: usize = 123;

/// How a session ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ending {
    /// Why, as the handler is told.
    pub code: CloseCode,
    /// The close frame's text; `None` when the client closed or is gone, and no close frame is due.
    pub text: Option<Cow<'static, str>>,
    /// The client takes nothing: there is no use in telling it.
    is_cut: bool,
}

impl Ending {
    const CLIENT: Self = Self { code: CloseCode::Normal, text: None, is_cut: false };
    /// What a client gets for a message that is not text.
    pub const BINARY: Self =
        Self { code: CloseCode::Unsupported, text: Some(Cow::Borrowed("only text frames are understood")), is_cut: false };

    fn fault(code: CloseCode, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, text: Some(text.into()), is_cut: false }
    }
}

impl From<Closing> for Ending {
    fn from(closing: Closing) -> Self {
        Self { code: closing.code, text: Some(closing.text), is_cut: closing.is_cut }
    }
}

impl From<io::Error> for Ending {
    /// The connection broke off; there is nobody to tell.
    fn from(_: io::Error) -> Self {
        Self::CLIENT
    }
}

/// What came of a turn.
pub(crate) enum Event {
    /// A text message: [`Socket::text`].
    Text,
    /// A binary message: [`Socket::bytes`].
    Binary,
    /// It is over.
    Ended(Ending),
}

/// The socket, owned by its session's task.
pub(crate) struct Socket {
    stream: Stream,
    intake: Intake,
    outflow: Outflow,
    frames: Bucket,
    message_bytes_max: usize,
    /// When something was last read.
    read_ms: u64,
    /// What the client had taken when it last took nothing.
    written: u64,
    backlog: Arc<Backlog>,
}

impl Socket {
    /// Takes an upgraded socket over. `rest` is what was read behind the request head, at `now_ms` of the clock of [`Self::poll_event`].
    pub fn open(stream: Stream, rest: Vec<u8>, message_bytes_max: usize, (backlog, now_ms): (Arc<Backlog>, u64)) -> Self {
        Self {
            stream,
            intake: Intake::new(rest, message_bytes_max),
            outflow: Outflow::new(Arc::clone(&backlog)),
            // Filled up to the burst by the first frames.
            frames: Bucket::new(u32::MAX, 0),
            message_bytes_max,
            read_ms: now_ms,
            written: 0,
            backlog,
        }
    }

    /// The message of [`Event::Text`], until the next call of [`Self::poll_event`].
    ///
    /// # Errors
    /// It is not UTF-8; that is how the session ends.
    pub fn text(&self) -> Result<&str, Ending> {
        std::str::from_utf8(self.intake.payload()).map_err(|_| self.ending(Fault::NotUtf8))
    }

    /// The message of the last event, until the next call of [`Self::poll_event`].
    pub fn bytes(&self) -> &[u8] {
        self.intake.payload()
    }

    /// When it came.
    pub fn read_ms(&self) -> u64 {
        self.read_ms
    }

    /// Writes what waits in the session's outlet and, when `is_reading`, answers the next message. Resumes when a frame comes, the outlet has
    /// something, or the socket takes more.
    pub fn poll_event(&mut self, context: &mut Context<'_>, session: &Session, now_ms: impl Fn() -> u64, is_reading: bool) -> Poll<Event> {
        session.outlet.register(context.waker());
        let fed = self.poll_feed(context, session);
        if let Poll::Ready(Err(ending)) = fed {
            return Poll::Ready(Event::Ended(ending));
        }
        if fed.is_pending() {
            self.note_stall(session, now_ms());
        }
        if is_reading && let Poll::Ready(event) = self.poll_read(context, session, &now_ms) {
            return Poll::Ready(event);
        }
        self.intake.settle();
        if fed.is_ready() && !self.outflow.is_flushed() {
            match self.outflow.poll_flush(context, &mut self.stream) {
                Poll::Ready(Ok(())) => session.flows(),
                Poll::Ready(Err(error)) => return Poll::Ready(Event::Ended(error.into())),
                Poll::Pending => self.note_stall(session, now_ms()),
            }
        }
        Poll::Pending
    }

    fn note_stall(&mut self, session: &Session, now_ms: u64) {
        let before = std::mem::replace(&mut self.written, self.outflow.written());
        session.stalled(now_ms, before != self.written);
    }

    fn poll_read(&mut self, context: &mut Context<'_>, session: &Session, now_ms: &impl Fn() -> u64) -> Poll<Event> {
        let mut uninterrupted = 0;
        loop {
            let received = match self.intake.next() {
                Ok(received) => received,
                Err(fault) => return Poll::Ready(Event::Ended(self.ending(fault))),
            };
            let frames = self.intake.take_frames();
            if frames > 0 {
                let (per_second, burst) = session.frame_rate();
                if self.frames.take_many(frames, per_second, burst, self.read_ms).is_err() {
                    let text = "you send more frames than this server allows (limits.frames_per_message)";
                    return Poll::Ready(Event::Ended(Ending::fault(CloseCode::Policy, text)));
                }
            }
            match received {
                Some(Received::Text) => return Poll::Ready(Event::Text),
                Some(Received::Binary) => return Poll::Ready(Event::Binary),
                Some(Received::Fragment | Received::Pong) => {}
                Some(Received::Ping) => {
                    if let Poll::Ready(Err(error)) = self.outflow.poll_room(context, &mut self.stream) {
                        return Poll::Ready(Event::Ended(error.into()));
                    }
                    self.outflow.put_pong(self.intake.payload());
                }
                Some(Received::Close) => return Poll::Ready(Event::Ended(self.answer_close())),
                None => {
                    let bytes = match ready!(self.intake.poll_fill(context, &mut self.stream)) {
                        Ok(bytes) if bytes > 0 => bytes,
                        Ok(_) | Err(_) => return Poll::Ready(Event::Ended(Ending::CLIENT)),
                    };
                    self.backlog.bytes_in.fetch_add(bytes as u64, Relaxed);
                    // A long message takes its time; who is in the middle of one is not silent.
                    self.read_ms = now_ms();
                    session.heard(self.read_ms);
                    continue;
                }
            }
            uninterrupted += 1;
            if uninterrupted >= UNINTERRUPTED_MAX {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    fn answer_close(&mut self) -> Ending {
        match close_answer(self.intake.payload()) {
            Ok(answer) => {
                self.outflow.put(opcode::CLOSE, Bytes::copy_from_slice(answer));
                Ending::CLIENT
            }
            Err(fault) => self.ending(fault),
        }
    }

    fn ending(&self, fault: Fault) -> Ending {
        match fault {
            Fault::Protocol(text) => Ending::fault(CloseCode::Protocol, text),
            Fault::NotUtf8 => Ending::fault(CloseCode::InvalidText, "text must be UTF-8"),
            Fault::TooLong => Ending::fault(CloseCode::TooLarge, format!("messages may have at most {} bytes", self.message_bytes_max)),
        }
    }

    /// Moves frames from the outlet into the socket's own small buffer; pending while the socket takes nothing. The error is how the session ends.
    fn poll_feed(&mut self, context: &mut Context<'_>, session: &Session) -> Poll<Result<(), Ending>> {
        loop {
            match self.outflow.poll_room(context, &mut self.stream) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                // The session does not wait for the frames before an end that was asked for; `close` still writes them.
                Poll::Pending => return session.outlet.closing().map_or(Poll::Pending, |closing| Poll::Ready(Err(closing.into()))),
            }
            match session.outlet.take() {
                None => return Poll::Ready(Ok(())),
                Some(Outgoing::Frame(text)) => self.outflow.put(opcode::TEXT, text),
                Some(Outgoing::Ping) => self.outflow.put(opcode::PING, Bytes::new()),
                Some(Outgoing::Close(closing)) => return Poll::Ready(Err(closing.into())),
            }
        }
    }

    /// Sends a whole message past the outlet, and waits until the socket has taken it. Not for sessions, whose frames go through their outlet.
    ///
    /// # Errors
    /// How the session ends.
    pub async fn send(&mut self, opcode: u8, payload: Bytes) -> Result<(), Ending> {
        self.room().await?;
        self.outflow.put(opcode, payload);
        Ok(self.flush().await?)
    }

    async fn room(&mut self) -> io::Result<()> {
        poll_fn(|context| self.outflow.poll_room(context, &mut self.stream)).await
    }

    async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|context| self.outflow.poll_flush(context, &mut self.stream)).await
    }

    /// Writes the `rest` that waits, sends the close frame, when one is due, and ends the connection, within a bounded time. Who takes too
    /// little is cut: what the system still has for it would wait for minutes.
    pub async fn close(mut self, ending: Ending, rest: Option<&Outlet>) {
        // Nothing of it is read any more: a client that takes its time to leave keeps no buffer meanwhile.
        self.intake = Intake::new(Vec::new(), 0);
        let mut is_cut = ending.is_cut;
        if let Some(rest) = rest {
            is_cut = is_cut || timeout(REST_TIMEOUT, self.send_rest(rest)).await.is_err();
        }
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        let told = if is_cut { None } else { timeout_at(deadline, self.tell(ending)).await.ok() };
        match told {
            Some(Ok(())) => {
                let _ = timeout_at(deadline, handshake::linger(&mut self.stream)).await;
            }
            Some(Err(_)) => {}
            None => {
                let tcp = match &self.stream {
                    Stream::Plain(stream) => stream,
                    Stream::Tls(stream) => stream.get_ref().0,
                };
                let _ = tcp.set_zero_linger(); // Fails only on a connection that is gone.
            }
        }
    }

    async fn send_rest(&mut self, outlet: &Outlet) -> io::Result<()> {
        self.room().await?;
        while let Some(Outgoing::Frame(text)) = outlet.take() {
            self.outflow.put(opcode::TEXT, text);
            self.room().await?;
        }
        Ok(())
    }

    async fn tell(&mut self, ending: Ending) -> io::Result<()> {
        if let Some(text) = ending.text {
            self.outflow.cut_short();
            self.room().await?;
            let code = ending.code.number().to_be_bytes();
            self.outflow.put(opcode::CLOSE, [&code, within(&text, CLOSE_TEXT_BYTES_MAX).as_bytes()].concat().into());
        }
        self.flush().await
    }
}

fn within(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::within;

    #[test]
    fn a_close_text_is_cut_between_characters() {
        assert_eq!(within("äöü", 3), "ä");
        assert_eq!(within("abc", 123), "abc");
    }
}

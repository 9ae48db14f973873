//! One WebSocket: reading, writing and ending it. Frames are fed as they come and flushed once, when there is nothing left to read.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::{Sink, SinkExt, Stream};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, coding};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message, Utf8Bytes};

use super::backlog::Backlog;
use super::frame_count::FrameCount;
use super::handshake;
use super::outflow::Outflow;
use super::outlet::{Closing, Outgoing, Outlet};
use super::rate::Bucket;
use super::session::Session;
use super::stream::Stream as Wire;
use crate::wire::codes::CloseCode;

/// tungstenite's own default is 128 KiB for each of the two, per connection.
const READ_BUFFER_BYTES: usize = 4096;
/// Each frame goes on at once: what collects them is below, and keeps no memory once they have left.
const WRITE_BUFFER_BYTES: usize = 0;
/// Pongs for a client that does not read go no further than this; a frame of ours fits beside them.
const WRITE_BUFFER_BYTES_MAX: usize = 64 * 1024;
/// Longer messages leave in fragments of this length: tungstenite's write buffer never shrinks, so one long frame would be kept in memory for
/// the rest of the connection's life.
const FRAGMENT_BYTES: usize = 4 * 1024;
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

impl From<Error> for Ending {
    fn from(error: Error) -> Self {
        match error {
            Error::Capacity(CapacityError::MessageTooLong { max_size, .. }) => {
                Self::fault(CloseCode::TooLarge, format!("messages may have at most {max_size} bytes"))
            }
            // Only pongs can fill the buffer: frames of ours wait until the socket takes them.
            Error::WriteBufferFull(_) => Self::fault(CloseCode::SlowConsumer, "you do not read fast enough"),
            Error::Utf8(_) => Self::fault(CloseCode::InvalidText, "text must be UTF-8"),
            // The connection broke off; there is nobody to tell.
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) | Error::Io(_) => Self::CLIENT,
            Error::ConnectionClosed | Error::AlreadyClosed => Self::CLIENT,
            Error::Protocol(error) => Self::fault(CloseCode::Protocol, error.to_string()),
            other => Self::fault(CloseCode::Protocol, other.to_string()),
        }
    }
}

/// What came of a turn.
pub(crate) enum Event {
    /// A text message.
    Text(Utf8Bytes),
    /// A binary message.
    Binary(Bytes),
    /// It is over.
    Ended(Ending),
}

/// The socket, owned by its session's task.
pub(crate) struct Socket {
    stream: WebSocketStream<FrameCount<Outflow<Wire>>>,
    frames: Bucket,
    /// What is still to be sent of a long message.
    unsent: Bytes,
    is_unflushed: bool,
    /// What the client had taken when it last took nothing.
    written: u64,
}

/// tungstenite's settings for messages of at most `frame_bytes_max`.
pub(super) fn config(frame_bytes_max: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
        .max_message_size(Some(frame_bytes_max))
        .max_frame_size(Some(frame_bytes_max))
}

impl Socket {
    /// Takes an upgraded socket over. `rest` is what was read behind the request head.
    pub async fn open(socket: Wire, rest: Vec<u8>, frame_bytes_max: usize, backlog: Arc<Backlog>) -> Self {
        let counted = FrameCount::new(Outflow::new(socket, backlog), &rest);
        let stream = WebSocketStream::from_partially_read(counted, rest, Role::Server, Some(config(frame_bytes_max))).await;
        // Filled up to the burst by the first frames.
        Self { stream, frames: Bucket::new(u32::MAX, 0), unsent: Bytes::new(), is_unflushed: false, written: 0 }
    }

    /// Writes what waits in the session's outlet and, when `is_reading`, answers the next text frame. Resumes when a frame comes, the outlet has
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
        if self.is_unflushed && fed.is_ready() {
            match Pin::new(&mut self.stream).poll_flush(context) {
                Poll::Ready(Ok(())) => {
                    self.is_unflushed = false;
                    session.flows();
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Event::Ended(error.into())),
                Poll::Pending => self.note_stall(session, now_ms()),
            }
        }
        Poll::Pending
    }

    fn note_stall(&mut self, session: &Session, now_ms: u64) {
        let before = std::mem::replace(&mut self.written, self.stream.get_ref().get_ref().written());
        session.stalled(now_ms, before != self.written);
    }

    fn poll_read(&mut self, context: &mut Context<'_>, session: &Session, now_ms: &impl Fn() -> u64) -> Poll<Event> {
        loop {
            let read = Pin::new(&mut self.stream).poll_next(context);
            let (frames, now_ms) = (self.stream.get_mut().take_frames(), now_ms());
            if frames.is_some() {
                // A long message takes its time; who is in the middle of one is not silent.
                session.heard(now_ms);
            }
            if let Some(frames) = frames.filter(|frames| *frames > 0) {
                let (per_second, burst) = session.frame_rate();
                if self.frames.take_many(frames, per_second, burst, now_ms).is_err() {
                    let text = "you send more frames than this server allows (limits.frames_per_message)";
                    return Poll::Ready(Event::Ended(Ending::fault(CloseCode::Policy, text)));
                }
            }
            let message = ready!(read);
            return Poll::Ready(match message {
                Some(Ok(Message::Text(text))) => Event::Text(text),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Ok(Message::Binary(bytes))) => Event::Binary(bytes),
                Some(Ok(Message::Close(_))) | None => Event::Ended(Ending::CLIENT),
                Some(Err(error)) => Event::Ended(error.into()),
            });
        }
    }

    /// Moves frames from the outlet into the socket's own small buffer; pending while the socket takes nothing. The error is how the session ends.
    fn poll_feed(&mut self, context: &mut Context<'_>, session: &Session) -> Poll<Result<(), Ending>> {
        let mut stream = Pin::new(&mut self.stream);
        loop {
            match stream.as_mut().poll_ready(context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                // The session does not wait for the frames before an end that was asked for; `close` still writes them.
                Poll::Pending => return session.outlet.closing().map_or(Poll::Pending, |closing| Poll::Ready(Err(closing.into()))),
            }
            let message = match next(&mut self.unsent, &session.outlet) {
                Ok(Some(message)) => message,
                Ok(None) => return Poll::Ready(Ok(())),
                Err(closing) => return Poll::Ready(Err(closing.into())),
            };
            self.is_unflushed = true;
            if let Err(error) = stream.as_mut().start_send(message) {
                return Poll::Ready(Err(error.into()));
            }
        }
    }

    /// Sends a whole message past the outlet, a long one in fragments, and waits until the socket has taken it. Not for sessions, whose frames
    /// go through their outlet.
    ///
    /// # Errors
    /// How the session ends.
    pub async fn send(&mut self, message: Message) -> Result<(), Ending> {
        let kind = if message.is_text() { coding::Data::Text } else { coding::Data::Binary };
        if message.len() > FRAGMENT_BYTES {
            self.unsent = message.into_data();
            self.stream.feed(fragment(&mut self.unsent, kind)).await?;
            while !self.unsent.is_empty() {
                self.stream.feed(fragment(&mut self.unsent, coding::Data::Continue)).await?;
            }
        } else {
            self.stream.feed(message).await?;
        }
        Ok(self.stream.flush().await?)
    }

    /// Writes the `rest` that waits, sends the close frame, when one is due, and ends the connection, within a bounded time. Who takes too
    /// little is cut: what the system still has for it would wait for minutes.
    pub async fn close(mut self, ending: Ending, rest: Option<&Outlet>) {
        let mut is_cut = ending.is_cut;
        if let Some(rest) = rest {
            is_cut = is_cut || timeout(REST_TIMEOUT, self.send_rest(rest)).await.is_err();
        }
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        let told = if is_cut { None } else { timeout_at(deadline, self.tell(ending)).await.ok() };
        let wire = self.stream.get_mut().get_mut().stream();
        match told {
            Some(Ok(())) => {
                let _ = timeout_at(deadline, handshake::linger(wire)).await;
            }
            Some(Err(_)) => {}
            None => {
                let tcp = match wire {
                    Wire::Plain(stream) => &*stream,
                    Wire::Tls(stream) => stream.get_ref().0,
                };
                let _ = tcp.set_zero_linger(); // Fails only on a connection that is gone.
            }
        }
    }

    async fn send_rest(&mut self, outlet: &Outlet) -> Result<(), Error> {
        while let Ok(Some(message)) = next(&mut self.unsent, outlet) {
            self.stream.feed(message).await?;
        }
        Ok(())
    }

    async fn tell(&mut self, ending: Ending) -> Result<(), Error> {
        if let Some(text) = ending.text {
            let code = coding::CloseCode::from(ending.code.number());
            let frame = CloseFrame { code, reason: within(&text, CLOSE_TEXT_BYTES_MAX).into() };
            self.stream.send(Message::Close(Some(frame))).await?;
        } else {
            self.stream.flush().await?;
        }
        // After both close frames tungstenite ends without flushing what is below it.
        self.stream.get_mut().flush().await.map_err(Error::Io)
    }
}

/// What is to be written next: the rest of a long message comes before anything else. The error is how the session ends.
fn next(unsent: &mut Bytes, outlet: &Outlet) -> Result<Option<Message>, Closing> {
    if !unsent.is_empty() {
        return Ok(Some(fragment(unsent, coding::Data::Continue)));
    }
    match outlet.take() {
        None => Ok(None),
        Some(Outgoing::Frame(text)) if text.len() > FRAGMENT_BYTES => {
            *unsent = text.into();
            Ok(Some(fragment(unsent, coding::Data::Text)))
        }
        Some(Outgoing::Frame(text)) => Ok(Some(Message::Text(text))),
        Some(Outgoing::Ping) => Ok(Some(Message::Ping(Bytes::new()))),
        Some(Outgoing::Close(closing)) => Err(closing),
    }
}

/// Takes the next fragment off a long message.
fn fragment(unsent: &mut Bytes, kind: coding::Data) -> Message {
    let payload = unsent.split_to(unsent.len().min(FRAGMENT_BYTES));
    Message::Frame(Frame::message(payload, coding::OpCode::Data(kind), unsent.is_empty()))
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

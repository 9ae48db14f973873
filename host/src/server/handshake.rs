//! From an accepted TCP socket to a WebSocket: the request head within its limits of size and time, and the answer.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use super::head::{self, Head, Rejection};
use super::stream::Stream;
use crate::config::Settings;

/// Room for the first read of a head; most requests fit.
const FIRST_READ_BYTES: usize = 1024;
/// How long a refused client may take to read why.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// Most of what a refused client still sends that is read and dropped.
const LINGER_BYTES_MAX: usize = 1024 * 1024;

/// A request that may be upgraded, and is not answered yet.
pub(crate) struct Request {
    /// The checked head.
    pub head: Head,
    /// `Sec-WebSocket-Accept`.
    accept: String,
    /// The one the answer names in `Sec-WebSocket-Protocol`; a token that comes as a subprotocol may set it.
    pub subprotocol: Option<String>,
    /// What came behind the head: the client's first frames.
    pub rest: Vec<u8>,
}

/// Why there is no request to upgrade.
pub(crate) enum Unanswered {
    /// The client is still to be told.
    Refused(Rejection),
    /// There is nobody to tell.
    Gone,
}

/// Reads the request head, until `deadline`, and checks it; answers nothing yet.
///
/// Dropping the future leaves the client without an answer.
///
/// # Errors
/// [`Unanswered`]
pub(crate) async fn read(stream: &mut Stream, settings: &Settings, deadline: Instant) -> Result<Request, Unanswered> {
    let head_bytes_max = usize::try_from(settings.limits.headers_max.as_u64()).unwrap_or(usize::MAX);
    let reading = timeout_at(deadline, read_head(stream, head_bytes_max)).await;
    let (mut bytes, end) = reading.unwrap_or(Err(Unanswered::Refused(head::TIMED_OUT)))?;
    let rest = bytes.split_off(end).to_vec();
    let (head, accept) = Head::check(&bytes, settings).map_err(Unanswered::Refused)?;
    let subprotocol = head.chosen_subprotocol(&settings.server.subprotocols);
    Ok(Request { head, accept, subprotocol, rest })
}

/// Answers that from here on it is a WebSocket.
///
/// # Errors
/// The client takes no answer, or not in time.
pub(crate) async fn accept(stream: &mut Stream, request: &Request, limit: Duration) -> io::Result<()> {
    let accept = &request.accept;
    let mut response =
        format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n");
    if let Some(subprotocol) = &request.subprotocol {
        response.push_str(&format!("Sec-WebSocket-Protocol: {subprotocol}\r\n"));
    }
    response.push_str("\r\n");
    timeout(limit, async {
        stream.write_all(response.as_bytes()).await?;
        stream.flush().await
    })
    .await?
}

/// Answers with a refusal, and lets the client read it before the socket is closed.
pub(crate) async fn refuse(stream: &mut Stream, rejection: &Rejection) {
    let _ = timeout(LINGER_TIMEOUT, async {
        stream.write_all(rejection.response().as_bytes()).await?;
        linger(stream).await
    })
    .await;
}

/// Lets the client of a socket that has been answered already read that before it is closed.
pub(crate) async fn let_read(stream: &mut Stream) {
    let _ = timeout(LINGER_TIMEOUT, linger(stream)).await;
}

/// Ends our side and reads on, bounded, until the client ends its own: closing a socket with unread input makes the kernel send a reset, which
/// destroys what the client has not read yet.
pub(super) async fn linger(stream: &mut Stream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut dropped = BytesMut::with_capacity(FIRST_READ_BYTES);
    let mut dropped_bytes = 0;
    while dropped_bytes < LINGER_BYTES_MAX {
        dropped.clear();
        match stream.read_buf(&mut dropped).await? {
            0 => break,
            bytes => dropped_bytes += bytes,
        }
    }
    Ok(())
}

/// Reads up to the empty line that ends the head; answers the bytes so far and where the head ends.
async fn read_head(stream: &mut Stream, head_bytes_max: usize) -> Result<(BytesMut, usize), Unanswered> {
    let mut bytes = BytesMut::with_capacity(FIRST_READ_BYTES.min(head_bytes_max));
    loop {
        let seen = bytes.len();
        match stream.read_buf(&mut bytes).await {
            Ok(0) | Err(_) => return Err(Unanswered::Gone),
            Ok(_) => {}
        }
        if !bytes[0].is_ascii_uppercase() {
            return Err(Unanswered::Refused(match stream {
                Stream::Plain(_) => head::NOT_HTTP, // most often a TLS hello
                Stream::Tls(_) => head::NOT_HTTP_IN_TLS,
            }));
        }
        // Only the new bytes are searched: a head that trickles in costs no more than one that comes at once.
        let from = seen.saturating_sub(3);
        let end = bytes[from..].windows(4).position(|window| window == b"\r\n\r\n").map(|at| from + at + 4);
        match end {
            Some(end) if end <= head_bytes_max => return Ok((bytes, end)),
            None if bytes.len() < head_bytes_max => bytes.reserve(FIRST_READ_BYTES),
            Some(_) | None => return Err(Unanswered::Refused(head::TOO_LARGE)),
        }
    }
}

//! From an accepted TCP socket to a WebSocket: the request head within its limits of size and time, and the answer.

use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::head::{self, Head, Rejection};
use crate::config::Limits;

/// Room for the first read of a head; most requests fit.
const FIRST_READ_BYTES: usize = 1024;
/// How long a refused client may take to read why.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// Most of what a refused client still sends that is read and dropped.
const LINGER_BYTES_MAX: usize = 1024 * 1024;

/// A socket that has been upgraded.
pub(crate) struct Upgraded {
    /// The request.
    pub head: Head,
    /// What came behind the head: the client's first frames.
    pub rest: Vec<u8>,
}

/// Reads the request head and answers it. `None` when the upgrade was refused, the answer given, or the client left.
///
/// Dropping the future leaves the client without an answer.
pub(crate) async fn upgrade(socket: &mut TcpStream, limits: &Limits) -> Option<Upgraded> {
    let head_bytes_max = usize::try_from(limits.headers_max.as_u64()).unwrap_or(usize::MAX);
    let read = timeout(limits.handshake_timeout, read_head(socket, head_bytes_max)).await;
    let checked = match read.unwrap_or(Err(Stop::Refused(head::TIMED_OUT))) {
        Ok((mut bytes, end)) => {
            let rest = bytes.split_off(end).to_vec();
            Head::check(&bytes, &limits.origins).map(|(head, accept)| (Upgraded { head, rest }, accept))
        }
        Err(Stop::Refused(rejection)) => Err(rejection),
        Err(Stop::Gone) => return None,
    };
    match checked {
        Ok((upgraded, accept)) => {
            let response = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            let written = timeout(limits.handshake_timeout, socket.write_all(response.as_bytes())).await;
            matches!(written, Ok(Ok(()))).then_some(upgraded)
        }
        Err(rejection) => {
            refuse(socket, &rejection).await;
            None
        }
    }
}

/// Answers with a refusal, and lets the client read it before the socket is closed.
pub(crate) async fn refuse(socket: &mut TcpStream, rejection: &Rejection) {
    metrics::counter!("plugsocket_handshakes_refused_total", "status" => &rejection.status[..3]).increment(1);
    let _ = timeout(LINGER_TIMEOUT, async {
        socket.write_all(rejection.response().as_bytes()).await?;
        linger(socket).await
    })
    .await;
}

/// Ends our side and reads on, bounded, until the client ends its own: closing a socket with unread input makes the kernel send a reset, which
/// destroys what the client has not read yet.
pub(super) async fn linger(socket: &mut TcpStream) -> std::io::Result<()> {
    socket.shutdown().await?;
    let mut dropped = BytesMut::with_capacity(FIRST_READ_BYTES);
    let mut dropped_bytes = 0;
    while dropped_bytes < LINGER_BYTES_MAX {
        dropped.clear();
        match socket.read_buf(&mut dropped).await? {
            0 => break,
            bytes => dropped_bytes += bytes,
        }
    }
    Ok(())
}

enum Stop {
    Refused(Rejection),
    Gone,
}

/// Reads up to the empty line that ends the head; answers the bytes so far and where the head ends.
async fn read_head(socket: &mut TcpStream, head_bytes_max: usize) -> Result<(BytesMut, usize), Stop> {
    let mut bytes = BytesMut::with_capacity(FIRST_READ_BYTES.min(head_bytes_max));
    loop {
        let seen = bytes.len();
        match socket.read_buf(&mut bytes).await {
            Ok(0) | Err(_) => return Err(Stop::Gone),
            Ok(_) => {}
        }
        if !bytes[0].is_ascii_uppercase() {
            return Err(Stop::Refused(head::NOT_HTTP)); // most often a TLS hello
        }
        // Only the new bytes are searched: a head that trickles in costs no more than one that comes at once.
        let from = seen.saturating_sub(3);
        let end = bytes[from..].windows(4).position(|window| window == b"\r\n\r\n").map(|at| from + at + 4);
        match end {
            Some(end) if end <= head_bytes_max => return Ok((bytes, end)),
            None if bytes.len() < head_bytes_max => bytes.reserve(FIRST_READ_BYTES),
            Some(_) | None => return Err(Stop::Refused(head::TOO_LARGE)),
        }
    }
}

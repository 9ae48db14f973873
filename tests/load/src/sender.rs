//! Who sends to clients from outside: the HTTP API, and the Redis list of PHP.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, ensure};

use crate::notice::{ACTION, data};
use crate::redis::{Client, pack};

/// One way to send.
pub enum Sender {
    Http(Http),
    Php { client: Client, list: Vec<u8> },
}

/// A connection that is kept, with requests written before the answers to earlier ones have come.
pub struct Http {
    stream: TcpStream,
    address: SocketAddr,
    asked: u64,
    answered: u64,
    rest: Vec<u8>,
}

impl Sender {
    pub fn http(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).context("the HTTP API")?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self::Http(Http { stream, address, asked: 0, answered: 0, rest: Vec::new() }))
    }

    pub fn php(client: Client, app: &str) -> Self {
        Self::Php { client, list: format!("queues:{app}_out").into_bytes() }
    }

    /// Sends number `number` to whom `to` names, a JSON object.
    pub fn send(&mut self, to: &str, number: u64) -> anyhow::Result<()> {
        let body = format!(r#"{{"to":{to},"action":"{ACTION}","data":{}}}"#, data(number));
        match self {
            Self::Http(http) => {
                let request = format!(
                    "POST /v1/send HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                    http.address,
                    body.len()
                );
                http.asked += 1;
                http.stream.write_all(request.as_bytes()).context("writing to the HTTP API")
            }
            Self::Php { client, list } => {
                let mut bytes = Vec::new();
                pack(&[b"RPUSH", list, body.as_bytes()], &mut bytes);
                client.send(&bytes)?;
                client.reply().map(drop)
            }
        }
    }

    /// Looks at the answers that have come; all must say 202.
    pub fn look(&mut self) -> anyhow::Result<()> {
        let Self::Http(http) = self else { return Ok(()) };
        let mut buffer = [0; 16 << 10];
        while http.answered < http.asked {
            match http.stream.read(&mut buffer) {
                Ok(0) => anyhow::bail!("the HTTP API closed its connection"),
                Ok(read) => http.rest.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("reading from the HTTP API"),
            }
            const START: &[u8] = b"HTTP/1.1 ";
            let mut at = 0;
            while let Some(found) = http.rest[at..].windows(START.len()).position(|window| window == START) {
                let Some(status) = http.rest.get(at + found + START.len()..at + found + START.len() + 3) else { break };
                ensure!(status == b"202", "the HTTP API answered {}", String::from_utf8_lossy(&http.rest[at..]));
                http.answered += 1;
                at += found + START.len() + 3;
            }
            // The beginning of the next answer may be there in part.
            let keep = at.max(http.rest.len().saturating_sub(START.len() + 2));
            http.rest.drain(..keep);
        }
        Ok(())
    }
}

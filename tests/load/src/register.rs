//! Clients that register: each sends its frame as soon as it may, and is counted when it was admitted.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;

use crate::clock;
use crate::frame;
use crate::net::{Net, PATIENCE, Receiver};
use crate::reference::nats;

const ADMITTED: &[u8] = br#"{"action":"registered""#;

/// Who is on the other side.
#[derive(PartialEq, Eq)]
enum To {
    Plugsocket,
    EchoServer,
    Nats,
}

/// What a client says of itself.
pub struct Register {
    admitted: usize,
    /// The user that the first so many of them are; each other one is its own.
    user: Option<(&'static str, usize)>,
    to: To,
    /// What the server called each of them.
    pub ids: Vec<String>,
}

impl Register {
    pub fn new() -> Self {
        Self { admitted: 0, user: None, to: To::Plugsocket, ids: Vec::new() }
    }

    /// The first so many of them as one user.
    pub fn as_user(user: &'static str, connections: usize) -> Self {
        Self { user: Some((user, connections)), ..Self::new() }
    }

    /// A bare echo server, which has no registration.
    pub fn nowhere() -> Self {
        Self { to: To::EchoServer, ..Self::new() }
    }

    /// A NATS server.
    pub fn at_nats() -> Self {
        Self { to: To::Nats, ..Self::new() }
    }

    /// `count` more connections, registered.
    pub fn connect(&mut self, net: &mut Net, address: SocketAddr, count: usize) -> anyhow::Result<()> {
        let goal = net.len() + count;
        net.connect(address, count, self)?;
        let end = clock::now() + PATIENCE;
        while self.to != To::EchoServer && self.admitted < goal {
            net.turn(Some(Duration::from_millis(50)), self)?;
            ensure!(clock::now() < end, "{} of {goal} were registered", self.admitted);
        }
        Ok(())
    }
}

impl Receiver for Register {
    fn opened(&mut self, connection: usize, out: &mut Vec<u8>) -> anyhow::Result<()> {
        if self.to == To::Nats {
            frame::write(frame::BINARY, &nats::hello(connection), out);
        }
        if self.to == To::Plugsocket {
            let user =
                self.user.filter(|(_, count)| connection < *count).map(|(user, _)| format!(r#","user_id":"{user}""#)).unwrap_or_default();
            let text = format!(r#"{{"action":"register","data":{{"nickname":"c{connection}"{user}}}}}"#);
            frame::write(frame::TEXT, text.as_bytes(), out);
        }
        Ok(())
    }

    fn message(&mut self, connection: usize, payload: &[u8], _now: u64) -> anyhow::Result<()> {
        let text = String::from_utf8_lossy(payload);
        if self.to == To::Nats {
            self.admitted += text.matches("PONG\r\n").count();
            return Ok(());
        }
        ensure!(payload.starts_with(ADMITTED), "connection {connection} was told {text}");
        self.admitted += 1;
        if let Some((_, rest)) = text.split_once(r#""connection_id":""#) {
            self.ids.resize(self.ids.len().max(connection + 1), String::new());
            self.ids[connection] = rest.split('"').next().unwrap_or("").to_owned();
        }
        Ok(())
    }
}

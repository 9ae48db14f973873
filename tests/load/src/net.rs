//! The clients' sockets: one thread, one epoll, few system calls. What comes in goes to a [`Receiver`], and what it wants to say goes out in one write.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, ipproto, socket_with, sockopt};

use crate::clock::{self, SECOND, Timer};
use crate::frame;

/// Connections from one address, far fewer than it has ports.
const PER_ADDRESS: usize = 20_000;
/// Connections on their way at once.
const OPENING: usize = 128;
const BUFFER: usize = 256 << 10;
const EVENTS: usize = 1_024;
const TIMER: Token = Token(usize::MAX);
/// Nothing may stand still for longer.
pub const PATIENCE: u64 = 20 * SECOND;

/// What is done with what comes in.
pub trait Receiver {
    /// The upgrade is done; `out` goes to the server.
    fn opened(&mut self, connection: usize, out: &mut Vec<u8>) -> anyhow::Result<()> {
        let _ = (connection, out);
        Ok(())
    }

    /// One message; `now` is when it was read.
    fn message(&mut self, connection: usize, payload: &[u8], now: u64) -> anyhow::Result<()>;

    /// Everything that was there has been given to [`Self::message`]; `out` goes to the server.
    fn after(&mut self, connection: usize, out: &mut Vec<u8>) -> anyhow::Result<()> {
        let _ = (connection, out);
        Ok(())
    }
}

struct Connection {
    stream: TcpStream,
    is_open: bool,
    is_writable: bool,
    /// What came in and is no whole frame yet.
    rest: Vec<u8>,
    /// What the kernel did not take yet.
    out: Vec<u8>,
    /// The beginning of a message that comes in several frames.
    begun: Vec<u8>,
}

/// All connections of one run.
pub struct Net {
    poll: Poll,
    events: Events,
    timer: Timer,
    connections: Vec<Connection>,
    open: usize,
    buffer: Vec<u8>,
    scratch: Vec<u8>,
    /// System calls that read and wrote.
    pub calls: u64,
}

impl Net {
    pub fn new() -> anyhow::Result<Self> {
        let poll = Poll::new()?;
        let timer = Timer::new(poll.registry(), TIMER)?;
        Ok(Self {
            poll,
            timer,
            events: Events::with_capacity(EVENTS),
            connections: Vec::new(),
            open: 0,
            buffer: vec![0; BUFFER],
            scratch: Vec::with_capacity(BUFFER),
            calls: 0,
        })
    }

    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Connects `count` more; [`Receiver::opened`] is called for each, and it returns when all are open.
    pub fn connect(&mut self, address: SocketAddr, count: usize, receiver: &mut impl Receiver) -> anyhow::Result<()> {
        let SocketAddr::V4(address) = address else { bail!("no IPv4 address: {address}") };
        let (goal, end) = (self.connections.len() + count, clock::now() + 3 * PATIENCE);
        while self.open < goal {
            while self.connections.len() < goal && self.connections.len() - self.open < OPENING {
                self.start(address)?;
            }
            self.turn(Some(Duration::from_millis(100)), receiver)?;
            ensure!(clock::now() < end, "{} of {goal} connections opened in {} s", self.open, 3 * PATIENCE / SECOND);
        }
        Ok(())
    }

    fn start(&mut self, server: SocketAddrV4) -> anyhow::Result<()> {
        let index = self.connections.len();
        let fd = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, Some(ipproto::TCP))
            .context("a socket (raise `ulimit -n`?)")?;
        sockopt::set_tcp_nodelay(&fd, true)?;
        if index >= PER_ADDRESS {
            let last = u8::try_from(1 + index / PER_ADDRESS).context("too many connections")?;
            bind(&fd, &SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, last), 0))?;
        }
        match connect(&fd, &server) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error).context("connecting"),
        }
        let mut stream = TcpStream::from_std(std::net::TcpStream::from(fd));
        self.poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {server}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        let out = request.into_bytes();
        self.connections.push(Connection { stream, is_open: false, is_writable: false, rest: Vec::new(), out, begun: Vec::new() });
        Ok(())
    }

    /// Wakes the next [`Self::turn`] at that moment.
    pub fn wake_at(&self, moment: u64) -> anyhow::Result<()> {
        self.timer.wake_at(moment)
    }

    /// Waits for something and works it off.
    pub fn turn(&mut self, timeout: Option<Duration>, receiver: &mut impl Receiver) -> anyhow::Result<()> {
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            other => other.context("epoll")?,
        }
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        for event in &events {
            if event.token() != TIMER {
                let index = event.token().0;
                self.event(index, event, receiver).with_context(|| format!("connection {index}"))?;
            }
        }
        self.events = events;
        Ok(())
    }

    fn event(&mut self, index: usize, event: &Event, receiver: &mut impl Receiver) -> anyhow::Result<()> {
        if event.is_writable() {
            self.connections[index].is_writable = true;
            self.flush(index)?;
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.read(index, receiver)?;
        }
        Ok(())
    }

    /// Sends these frames.
    pub fn send(&mut self, index: usize, frames: &[u8]) -> anyhow::Result<()> {
        let connection = &mut self.connections[index];
        if connection.out.is_empty() && connection.is_writable {
            self.calls += 1;
            let written = match connection.stream.write(frames) {
                Ok(written) => written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(error) => return Err(error).context("writing"),
            };
            if written < frames.len() {
                connection.is_writable = false;
                connection.out.extend_from_slice(&frames[written..]);
            }
        } else {
            connection.out.extend_from_slice(frames);
        }
        Ok(())
    }

    fn flush(&mut self, index: usize) -> anyhow::Result<()> {
        let connection = &mut self.connections[index];
        let mut written = 0;
        while written < connection.out.len() {
            self.calls += 1;
            match connection.stream.write(&connection.out[written..]) {
                Ok(more) => written += more,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    connection.is_writable = false;
                    break;
                }
                Err(error) => return Err(error).context("writing"),
            }
        }
        if written == connection.out.len() {
            connection.out = Vec::new();
        } else {
            connection.out.drain(..written);
        }
        Ok(())
    }

    /// Reads once more than needed only when the buffer was filled: a short read means that the socket is empty.
    fn read(&mut self, index: usize, receiver: &mut impl Receiver) -> anyhow::Result<()> {
        loop {
            let connection = &mut self.connections[index];
            let kept = connection.rest.len();
            ensure!(kept < self.buffer.len() / 2, "a frame that is too long for the buffer");
            self.buffer[..kept].copy_from_slice(&connection.rest);
            self.calls += 1;
            let read = match connection.stream.read(&mut self.buffer[kept..]) {
                Ok(0) => bail!("the server closed it"),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("reading"),
            };
            let now = clock::now();
            let (mut at, end) = (0, kept + read);
            let mut out = std::mem::take(&mut self.scratch);
            out.clear();
            if !connection.is_open {
                let head = self.buffer[..end].windows(4).position(|four| four == b"\r\n\r\n");
                match head {
                    Some(head) => {
                        let line = String::from_utf8_lossy(&self.buffer[..head]);
                        ensure!(line.starts_with("HTTP/1.1 101"), "the upgrade was answered {}", line.lines().next().unwrap_or(""));
                        at = head + 4;
                        connection.is_open = true;
                        self.open += 1;
                        receiver.opened(index, &mut out)?;
                    }
                    None => at = 0,
                }
            }
            if connection.is_open {
                while let Some(frame) = frame::read(&self.buffer[at..end])? {
                    match frame.opcode {
                        frame::TEXT | frame::BINARY if frame.is_last => receiver.message(index, frame.payload, now)?,
                        frame::TEXT | frame::BINARY | frame::CONTINUATION => {
                            connection.begun.extend_from_slice(frame.payload);
                            if frame.is_last {
                                receiver.message(index, &std::mem::take(&mut connection.begun), now)?;
                            }
                        }
                        frame::PING => frame::write(frame::PONG, frame.payload, &mut out),
                        frame::CLOSE => bail!("the server closed it: {:?}", String::from_utf8_lossy(frame.payload)),
                        _ => {}
                    }
                    at += frame.taken;
                }
                receiver.after(index, &mut out)?;
            }
            if at == end {
                connection.rest = Vec::new();
            } else {
                connection.rest.clear();
                connection.rest.extend_from_slice(&self.buffer[at..end]);
            }
            if !out.is_empty() {
                self.send(index, &out)?;
            }
            self.scratch = out;
            if end < self.buffer.len() {
                return Ok(());
            }
        }
    }
}

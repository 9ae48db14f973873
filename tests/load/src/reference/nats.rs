//! NATS JetStream as it would be used for the same: clients publish over WebSocket into a stream, a responder takes from a durable consumer, answers and acknowledges.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;

use crate::procs::{self, Process};

/// The hidden argument that makes this program the responder; the server's address follows.
pub const ARGUMENT: &str = "__nats-responder";
/// What clients publish to.
pub const SUBJECT: &str = "jobs";
const DELIVERED: &str = "work";
const PATIENCE: Duration = Duration::from_secs(10);
const BUFFER: usize = 256 << 10;

/// Server and responder; both end with this.
pub struct Nats {
    pub server: Process,
    pub responder: Process,
    /// For WebSocket clients.
    pub address: SocketAddr,
    _folder: TempDir,
}

/// Whether there is a `nats-server` to run.
pub fn is_there() -> bool {
    Command::new("nats-server").arg("--version").output().is_ok_and(|output| output.status.success())
}

pub fn start() -> anyhow::Result<Nats> {
    let folder = procs::folder()?;
    let config = folder.path().join("nats.conf");
    let text = format!(
        "listen: \"127.0.0.1:-1\"\njetstream {{ store_dir: \"{}\" }}\nwebsocket {{ host: \"127.0.0.1\", port: -1, no_tls: true }}\n",
        folder.path().display()
    );
    fs::write(&config, text)?;
    let mut command = Command::new("nats-server");
    command.arg("--config").arg(&config);
    let server = Process::start("nats-server", command)?;
    let sockets = server.wait_for("Listening for websocket clients on ws://")?;
    let clients = server.wait_for("Listening for client connections on ")?;
    server.wait_for("Server is ready")?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args([ARGUMENT, &clients]);
    let responder = Process::start("the responder", command)?;
    responder.wait_for("responder ready")?;
    Ok(Nats { server, responder, address: sockets.parse()?, _folder: folder })
}

/// What a client says first; the answer to its `PING` says that it may publish.
pub fn hello(connection: usize) -> Vec<u8> {
    format!("CONNECT {{\"verbose\":false,\"pedantic\":false}}\r\nSUB inbox.{connection} 1\r\nPING\r\n").into_bytes()
}

/// What a server sent, cut into messages: `MSG subject sid [reply] length`, the payload, and a line end. What is not whole stays.
///
/// # Errors
/// `-ERR`, and what is no message at all.
pub fn messages(bytes: &mut Vec<u8>, mut each: impl FnMut(&str, &[u8]) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut at = 0;
    while let Some(end) = bytes[at..].windows(2).position(|two| two == b"\r\n") {
        let line = std::str::from_utf8(&bytes[at..at + end])?;
        let start = at + end + 2;
        match line.split(' ').next() {
            Some("MSG") => {
                let length: usize = line.rsplit(' ').next().and_then(|length| length.parse().ok()).context("MSG without a length")?;
                if bytes.len() < start + length + 2 {
                    break;
                }
                each(line, &bytes[start..start + length])?;
                at = start + length + 2;
            }
            Some("INFO" | "PING" | "PONG" | "+OK") => at = start,
            _ => bail!("nats-server said {line}"),
        }
    }
    bytes.drain(..at);
    Ok(())
}

/// Makes the stream and the consumer, and answers until it is killed.
pub fn respond(address: &str) -> anyhow::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\nSUB api 1\r\n")?;
    ask(
        &mut stream,
        "$JS.API.STREAM.CREATE.JOBS",
        &format!(r#"{{"name":"JOBS","subjects":["{SUBJECT}"],"retention":"workqueue","storage":"memory","no_ack":true}}"#),
    )?;
    stream.write_all(format!("SUB {DELIVERED} 2\r\n").as_bytes())?;
    ask(
        &mut stream,
        "$JS.API.CONSUMER.DURABLE.CREATE.JOBS.worker",
        &format!(
            r#"{{"stream_name":"JOBS","config":{{"durable_name":"worker","deliver_subject":"{DELIVERED}","ack_policy":"explicit","max_ack_pending":20000}}}}"#
        ),
    )?;
    println!("responder ready");
    stream.set_read_timeout(None)?;
    let (mut bytes, mut buffer, mut out) = (Vec::new(), vec![0; BUFFER], Vec::new());
    loop {
        let read = stream.read(&mut buffer)?;
        ensure!(read > 0, "nats-server closed the connection");
        if buffer[..read].windows(6).any(|six| six == b"PING\r\n") {
            out.extend_from_slice(b"PONG\r\n");
        }
        bytes.extend_from_slice(&buffer[..read]);
        messages(&mut bytes, |line, payload| {
            let reply = line.split(' ').nth(3).context("a job without a place to acknowledge it")?;
            // Whose it is stands in its data: `"c0000042 s…`.
            let at = payload.windows(2).position(|two| two == b"\"c").context("a job of nobody")?;
            let connection: usize = std::str::from_utf8(&payload[at + 2..at + 9])?.parse()?;
            write!(out, "PUB inbox.{connection} {}\r\n", payload.len())?;
            out.extend_from_slice(payload);
            write!(out, "\r\nPUB {reply} 4\r\n+ACK\r\n")?;
            Ok(())
        })?;
        stream.write_all(&out)?;
        out.clear();
    }
}

/// One request to JetStream's API.
fn ask(stream: &mut TcpStream, subject: &str, body: &str) -> anyhow::Result<()> {
    stream.write_all(format!("PUB {subject} api {}\r\n{body}\r\n", body.len()).as_bytes())?;
    let (mut bytes, mut buffer, mut answer) = (Vec::new(), [0; 16 << 10], None);
    while answer.is_none() {
        match stream.read(&mut buffer) {
            Ok(0) => bail!("nats-server closed the connection"),
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("JetStream does not answer"),
        }
        messages(&mut bytes, |_, payload| {
            answer = Some(String::from_utf8_lossy(payload).into_owned());
            Ok(())
        })?;
    }
    let answer = answer.unwrap_or_default();
    ensure!(!answer.contains("\"error\""), "JetStream answered {answer}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_where_they_end() {
        let mut bytes =
            b"INFO {}\r\nMSG inbox.1 1 5\r\nhello\r\nPONG\r\nMSG work 2 $JS.ACK.1 4\r\n\r\n\r\n\r\nMSG inbox.1 1 5\r\nhel".to_vec();
        let mut found = Vec::new();
        messages(&mut bytes, |line, payload| {
            found.push((line.to_owned(), payload.to_vec()));
            Ok(())
        })
        .unwrap();
        assert_eq!(found[0], ("MSG inbox.1 1 5".to_owned(), b"hello".to_vec()));
        assert_eq!(found[1], ("MSG work 2 $JS.ACK.1 4".to_owned(), b"\r\n\r\n".to_vec()));
        assert_eq!((found.len(), bytes.as_slice()), (2, &b"MSG inbox.1 1 5\r\nhel"[..]));
        assert!(messages(&mut b"-ERR 'no'\r\n".to_vec(), |_, _| Ok(())).is_err());
    }
}

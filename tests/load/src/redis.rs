//! A private redis-server on a Unix socket, and the plainest client of it.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;

use crate::procs::{self, Process, START_PATIENCE};

/// Ends with the program.
pub struct Redis {
    process: Process,
    folder: TempDir,
}

impl Redis {
    pub fn start() -> anyhow::Result<Self> {
        let folder = procs::folder()?;
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--daemonize", "no", "--unixsocket"]);
        command.arg(folder.path().join("redis.sock")).arg("--dir").arg(folder.path());
        let process = Process::start("redis-server", command).context("install redis-server (7.0 or newer) with your package manager")?;
        let redis = Self { process, folder };
        let started = Instant::now();
        while redis.client().and_then(|mut client| client.call(&[b"PING"])).is_err() {
            ensure!(started.elapsed() < START_PATIENCE, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(redis)
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    pub fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    pub fn client(&self) -> anyhow::Result<Client> {
        Client::connect(&self.socket())
    }

    pub fn flush(&self) -> anyhow::Result<()> {
        self.client()?.call(&[b"FLUSHALL", b"SYNC"]).map(drop)
    }

    pub fn version(&self) -> anyhow::Result<String> {
        let info = self.client()?.call(&[b"INFO", b"server"])?.text();
        Ok(info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or("unknown").trim().to_owned())
    }

    /// How often each command was called so far.
    pub fn calls(&self) -> anyhow::Result<HashMap<String, u64>> {
        let info = self.client()?.call(&[b"INFO", b"commandstats"])?.text();
        let of = |line: &str| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
        };
        Ok(info.lines().filter_map(of).collect())
    }
}

/// An answer of Redis.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    Nil,
    Text(Vec<u8>),
    List(Vec<Reply>),
}

impl Reply {
    pub fn text(&self) -> String {
        match self {
            Self::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            _ => String::new(),
        }
    }

    pub fn list(&self) -> &[Reply] {
        match self {
            Self::List(items) => items,
            _ => &[],
        }
    }
}

/// One blocking connection.
pub struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    pub fn connect(socket: &Path) -> anyhow::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(START_PATIENCE))?;
        Ok(Self { stream: BufReader::with_capacity(256 << 10, stream) })
    }

    pub fn call(&mut self, arguments: &[&[u8]]) -> anyhow::Result<Reply> {
        let mut bytes = Vec::new();
        pack(arguments, &mut bytes);
        self.send(&bytes)?;
        self.reply()
    }

    pub fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.stream.get_mut().write_all(bytes).context("writing to Redis")
    }

    pub fn reply(&mut self) -> anyhow::Result<Reply> {
        let mut line = String::new();
        self.stream.read_line(&mut line).context("reading from Redis")?;
        let line = line.trim_end();
        let number = || line.get(1..).and_then(|digits| digits.parse::<i64>().ok()).with_context(|| format!("Redis answered `{line}`"));
        match line.as_bytes().first() {
            Some(b'+' | b':') => Ok(Reply::Text(line.as_bytes()[1..].to_vec())),
            Some(b'$') => {
                let Ok(length) = usize::try_from(number()?) else { return Ok(Reply::Nil) };
                let mut bytes = vec![0; length + 2];
                self.stream.read_exact(&mut bytes)?;
                bytes.truncate(length);
                Ok(Reply::Text(bytes))
            }
            Some(b'*') => {
                let Ok(length) = usize::try_from(number()?) else { return Ok(Reply::Nil) };
                (0..length).map(|_| self.reply()).collect::<Result<_, _>>().map(Reply::List)
            }
            _ => bail!("Redis answered `{line}`"),
        }
    }
}

/// Appends a command as it goes over the wire.
pub fn pack(arguments: &[&[u8]], bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(format!("*{}\r\n", arguments.len()).as_bytes());
    for argument in arguments {
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
}

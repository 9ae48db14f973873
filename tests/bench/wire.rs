//! The plainest client there can be, for references: one command, one answer, on a blocking socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, bail};

/// One connection.
pub struct Wire {
    stream: BufReader<UnixStream>,
}

impl Wire {
    pub fn connect(socket: &Path) -> anyhow::Result<Self> {
        Ok(Self { stream: BufReader::new(UnixStream::connect(socket)?) })
    }

    /// Runs a command whose answer is no array; gives back the text of it.
    pub fn call(&mut self, arguments: &[&[u8]]) -> anyhow::Result<String> {
        self.stream.get_mut().write_all(&packed(arguments))?;
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let line = line.trim_end();
        match line.split_at_checked(1) {
            Some(("$", "-1")) => Ok(String::new()),
            Some(("$", length)) => {
                let mut bytes = vec![0; length.parse::<usize>()? + 2];
                self.stream.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                Ok(String::from_utf8(bytes)?)
            }
            Some(("+" | ":", text)) => Ok(text.to_owned()),
            _ => bail!("Redis answered `{line}`"),
        }
    }
}

/// A command as it goes over the wire.
pub fn packed(arguments: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments {
        bytes.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Reads and drops whatever comes, until the connection closes: a subscriber.
pub fn drain(socket: &Path, first: &[&[u8]]) -> anyhow::Result<std::thread::JoinHandle<()>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(&packed(first))?;
    let mut answer = [0; 4096];
    stream.read(&mut answer).context("no answer")?;
    Ok(std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
    }))
}

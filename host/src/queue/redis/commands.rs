//! Commands as they go over the wire, many in one piece of memory, each to be found again.

use std::fmt;
use std::io::Write as _;

use bytes::Bytes;
use redis::Cmd;

use super::resp::Walk;
use super::scripts::DELIVER;

/// An entry's id has 41 bytes at most, a partition's key 64 of the app's name and 20 more.
const SHOWN_BYTES_MAX: usize = 96;

/// Commands being put together.
#[derive(Debug, Default)]
pub(super) struct Packing {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Packing {
    pub(super) fn add(&mut self, command: &Cmd) {
        command.write_packed_command(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    /// Adds a command that is packed already.
    pub(super) fn add_packed(&mut self, command: &[u8]) {
        self.bytes.extend_from_slice(command);
        self.ends.push(self.bytes.len());
    }

    /// Adds a command of these arguments.
    pub(super) fn add_arguments<'argument>(&mut self, count: usize, arguments: impl IntoIterator<Item = &'argument [u8]>) {
        head(&mut self.bytes, count);
        arguments.into_iter().for_each(|argument| put(&mut self.bytes, argument));
        self.ends.push(self.bytes.len());
    }

    /// Adds a command of these arguments and `count` more that are packed already.
    pub(super) fn add_with(&mut self, first: &[&[u8]], count: usize, packed: &[u8]) {
        head(&mut self.bytes, first.len() + count);
        first.iter().for_each(|argument| put(&mut self.bytes, argument));
        self.add_packed(packed);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub(super) fn finish(self) -> Commands {
        Commands { bytes: self.bytes.into(), ends: self.ends }
    }
}

/// Commands that are not changed any more.
#[derive(Debug, Clone, Default)]
pub(super) struct Commands {
    bytes: Bytes,
    ends: Vec<usize>,
}

impl Commands {
    #[cfg(test)]
    fn len(&self) -> usize {
        self.ends.len()
    }

    /// All of them.
    pub(super) fn bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    #[cfg(test)]
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// One of them; empty when there is none.
    pub(super) fn get(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(Some(0), |before| self.ends.get(before).copied());
        let range = start.zip(self.ends.get(index).copied());
        range.and_then(|(start, end)| self.bytes.get(start..end)).unwrap_or_default()
    }
}

/// Begins a command of `count` arguments.
pub(super) fn head(bytes: &mut Vec<u8>, count: usize) {
    length(bytes, b'*', count);
}

/// Adds one argument.
pub(super) fn put(bytes: &mut Vec<u8>, argument: &[u8]) {
    length(bytes, b'$', argument.len());
    bytes.extend_from_slice(argument);
    bytes.extend_from_slice(b"\r\n");
}

/// Adds the text of something as an argument, without memory of its own: for keys and ids of every message, which have at most
/// [`SHOWN_BYTES_MAX`] bytes.
pub(super) fn put_shown(bytes: &mut Vec<u8>, shown: impl fmt::Display) {
    let mut text = [0; SHOWN_BYTES_MAX];
    let mut rest = &mut text[..];
    let _ = write!(rest, "{shown}");
    let length = SHOWN_BYTES_MAX - rest.len();
    put(bytes, &text[..length]);
}

fn length(bytes: &mut Vec<u8>, kind: u8, length: usize) {
    bytes.push(kind);
    match u8::try_from(length) {
        Ok(digit @ 0..=9) => bytes.push(b'0' + digit),
        Ok(two @ 10..=99) => bytes.extend_from_slice(&[b'0' + two / 10, b'0' + two % 10]),
        _ => bytes.extend_from_slice(length.to_string().as_bytes()),
    }
    bytes.extend_from_slice(b"\r\n");
}

/// The script for a delivery's XADD, which a full Redis runs as well; `None` for a command that is none.
pub(super) fn deliver(command: &[u8]) -> Option<Vec<u8>> {
    let mut walk = Walk::new(command);
    let count = walk.array()?;
    if walk.bulk()? != b"XADD" {
        return None;
    }
    let key = walk.bulk()?;
    // NOMKSTREAM and the id are the script's own.
    walk.skip(2);
    let mut script = Vec::with_capacity(command.len() + 64);
    head(&mut script, count);
    for argument in [b"EVALSHA", DELIVER.hash().as_bytes(), b"1", key] {
        put(&mut script, argument);
    }
    script.extend_from_slice(walk.rest());
    Some(script)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_packed_as_redis_rs_packs_them() {
        let long = vec![b'x'; 1234];
        let mut command = redis::cmd("XADD");
        command.arg("key").arg("").arg(&long[..]).arg("twelve bytes");
        let mut packing = Packing::default();
        packing.add(&command);
        packing.add_arguments(5, [&b"XADD"[..], b"key", b"", &long, b"twelve bytes"]);
        let mut end = Vec::new();
        put(&mut end, &long);
        put(&mut end, b"twelve bytes");
        packing.add_with(&[b"XADD", b"key", b""], 2, &end);
        let commands = packing.finish();
        assert_eq!(commands.len(), 3);
        for index in 0..3 {
            assert_eq!(commands.get(index), command.get_packed_command());
        }
        assert_eq!(commands.get(3), b"");
        assert_eq!(commands.bytes().len(), command.get_packed_command().len() * 3);
    }

    #[test]
    fn a_delivery_becomes_its_script() {
        let mut command = redis::cmd("XADD");
        command.arg("stream").arg("NOMKSTREAM").arg("*").arg("h").arg("1").arg("d").arg("2");
        let mut script = redis::cmd("EVALSHA");
        script.arg(DELIVER.hash()).arg(1).arg("stream").arg("h").arg("1").arg("d").arg("2");
        assert_eq!(deliver(&command.get_packed_command()), Some(script.get_packed_command()));
        assert_eq!(deliver(&redis::cmd("PING").get_packed_command()), None);
    }
}

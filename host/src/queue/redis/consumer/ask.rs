//! The command that reads partitions: most of it is the same again and again, and is made once.

use std::time::Duration;

use bytes::Bytes;

use crate::queue::redis::commands::{head, put};
use crate::queue::redis::keys::{GROUP, Keys};

/// Sets of partitions whose keys are kept: all of them, and the parts that one who is behind reads in turn.
const KEPT_MAX: usize = 8;

/// The keys of the partitions that were read last.
#[derive(Default)]
pub(super) struct Asks {
    kept: Vec<Ask>,
}

/// Some partitions, their keys, and the end of the command that reads them.
pub(super) struct Ask {
    partitions: Vec<u32>,
    keys: Vec<String>,
    streams: Vec<u8>,
}

impl Asks {
    pub(super) fn of(&mut self, keys: &Keys, partitions: &[u32]) -> &Ask {
        let index = self.kept.iter().position(|ask| ask.partitions == partitions).unwrap_or_else(|| {
            if self.kept.len() >= KEPT_MAX {
                self.kept.clear();
            }
            self.kept.push(Ask::new(keys, partitions));
            self.kept.len() - 1
        });
        &self.kept[index]
    }
}

impl Ask {
    fn new(keys: &Keys, partitions: &[u32]) -> Self {
        let keys: Vec<String> = partitions.iter().map(|partition| keys.incoming(*partition)).collect();
        let mut streams = Vec::new();
        put(&mut streams, b"STREAMS");
        keys.iter().for_each(|key| put(&mut streams, key.as_bytes()));
        keys.iter().for_each(|_| put(&mut streams, b">"));
        Self { partitions: partitions.to_vec(), keys, streams }
    }

    /// Reads `count` entries of each for `worker`, waiting for the first one when `block` is given.
    pub(super) fn command(&self, worker: &str, count: usize, block: Option<Duration>) -> Bytes {
        let mut command = Vec::with_capacity(self.streams.len() + 160);
        let count = count.to_string();
        let block = block.map(|wait| wait.as_millis().to_string());
        head(&mut command, 6 + if block.is_some() { 2 } else { 0 } + 1 + 2 * self.keys.len());
        for argument in ["XREADGROUP", "GROUP", GROUP, worker, "COUNT", &count] {
            put(&mut command, argument.as_bytes());
        }
        if let Some(block) = &block {
            put(&mut command, b"BLOCK");
            put(&mut command, block.as_bytes());
        }
        command.extend_from_slice(&self.streams);
        command.into()
    }

    /// The partition that a key belongs to. Redis answers in the order of asking: `from` is where to look first, and is moved on.
    pub(super) fn partition_of(&self, key: &[u8], from: &mut usize) -> Option<u32> {
        let found = |(_, name): &(usize, &String)| name.as_bytes() == key;
        let (before, behind) = self.keys.split_at_checked(*from)?;
        let behind = behind.iter().enumerate().map(|(index, key)| (index + before.len(), key));
        let (index, _) = behind.chain(before.iter().enumerate()).find(found)?;
        *from = index + 1;
        self.partitions.get(index).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_the_one_redis_rs_would_make() {
        let (keys, mut asks) = (Keys::new("app").unwrap(), Asks::default());
        for block in [None, Some(Duration::from_millis(10))] {
            let mut expected = redis::cmd("XREADGROUP");
            expected.arg("GROUP").arg(GROUP).arg("w1").arg("COUNT").arg(3);
            if block.is_some() {
                expected.arg("BLOCK").arg(10);
            }
            expected.arg("STREAMS").arg(keys.incoming(7)).arg(keys.incoming(9)).arg(">").arg(">");
            assert_eq!(asks.of(&keys, &[7, 9]).command("w1", 3, block), expected.get_packed_command());
        }
        assert_eq!(asks.kept.len(), 1);
        (0..100).for_each(|partition| drop(asks.of(&keys, &[partition]).command("w1", 1, None)));
        assert!(asks.kept.len() <= KEPT_MAX);
    }

    #[test]
    fn keys_are_found_in_any_order() {
        let (keys, mut asks) = (Keys::new("app").unwrap(), Asks::default());
        let ask = asks.of(&keys, &[5, 6, 7]);
        let mut from = 0;
        for (partition, found) in [(6, Some(6)), (7, Some(7)), (5, Some(5)), (5, Some(5)), (8, None), (7, Some(7))] {
            assert_eq!(ask.partition_of(keys.incoming(partition).as_bytes(), &mut from), found);
        }
    }
}

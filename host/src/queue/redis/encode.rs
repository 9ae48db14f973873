//! How writes become the commands of one pipeline: deliveries packed, acknowledgements gathered.

use std::sync::Arc;

use super::batch::{Batch, DELIVERY, Done, Settlements, Slot, Write, bytes_of};
use super::commands::{Packing, put_shown};
use super::keys::{GROUP, Keys};
use super::scripts::DELIVER;
use crate::queue::Stored;
use crate::wire::ids::{NodeId, SessionId, StreamId};
use crate::wire::packed::{DELIVERIES_FIELD, DELIVERIES_HEAD};

/// A pipeline is closed when it holds this much.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Acknowledgements are written at the latest when there are so many, or have been held back so often.
const ACKS_MAX: usize = 512;
const ACKS_HELD_MAX: u32 = 8;
/// With fewer of either, and of other writes, they go along at once: a trip of their own would cost more than gathering saves.
const WRITES_MIN: usize = 8;
/// Deliveries to one node share a stream entry up to this size; a larger one goes alone.
const PACK_BYTES_MAX: usize = 16 << 10;

/// Deliveries to one node, on their way into one entry.
struct Pack {
    node: NodeId,
    /// The value of the entry's one field.
    field: Vec<u8>,
}

/// Entries of one partition to be settled together.
pub(super) struct Acks {
    pub(super) partition: u32,
    pub(super) entries: Vec<StreamId>,
    pub(super) to: Arc<dyn Settlements>,
}

/// Acknowledgements that wait for the next batch: many of one partition in one command cost Redis less. They never wait alone: whoever holds
/// them back has sent something whose answer wakes the writer.
#[derive(Default)]
pub(super) struct Gathered {
    acks: Vec<Acks>,
    entries: usize,
    /// How often they have been held back.
    held: u32,
}

impl Gathered {
    pub(super) fn is_empty(&self) -> bool {
        self.acks.is_empty()
    }

    fn add(&mut self, partition: u32, entry: StreamId, to: Arc<dyn Settlements>) {
        self.entries += 1;
        let is_same = |acks: &&mut Acks| acks.partition == partition && Arc::ptr_eq(&acks.to, &to);
        match self.acks.iter_mut().find(is_same) {
            Some(acks) => acks.entries.push(entry),
            None => self.acks.push(Acks { partition, entries: vec![entry], to }),
        }
    }

    /// `writes`: how many go out without them.
    fn may_wait(&self, writes: usize) -> bool {
        let is_light = self.entries < WRITES_MIN && writes < WRITES_MIN;
        !is_light && self.entries < ACKS_MAX && self.held < ACKS_HELD_MAX
    }

    /// Answers those who wait: nothing will be sent.
    pub(super) fn abandon(&mut self) {
        for Acks { partition, entries, to } in std::mem::take(self).acks {
            to.settled(partition, &entries);
        }
    }
}

/// Turns writes into a [`Batch`].
pub(super) struct Encoder<'writer> {
    keys: &'writer Keys,
    gathered: &'writer mut Gathered,
    commands: Packing,
    slots: Vec<Slot>,
    marks: Vec<Done>,
    packs: Vec<Pack>,
    bytes: usize,
    writes: usize,
    full: bool,
}

impl<'writer> Encoder<'writer> {
    /// `full`: deliveries go by a script that a full Redis runs as well.
    pub(super) fn new(keys: &'writer Keys, gathered: &'writer mut Gathered, full: bool) -> Self {
        let commands = Packing::default();
        Self { keys, gathered, commands, slots: Vec::new(), marks: Vec::new(), packs: Vec::new(), bytes: 0, writes: 0, full }
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES_MAX
    }

    pub(super) fn push(&mut self, write: Write) {
        self.writes += 1;
        match write {
            Write::Command { command, done } => {
                // It may be a delivery as well (a route script), which must not overtake those before it.
                self.close_packs();
                self.bytes += bytes_of(&command);
                self.commands.add(&command);
                self.slots.push(Slot::One(done));
            }
            Write::Packed { command, done } => {
                self.bytes += command.len();
                self.commands.add_packed(&command);
                self.slots.push(Slot::One(done));
            }
            Write::Node { session, packed } => self.pack(&session, &packed),
            Write::Ack { partition, entry, to } => self.gathered.add(partition, entry, to),
            Write::Mark(done) => self.marks.push(done),
            Write::Refused { on_stored, reason } => on_stored(Stored::No(reason.to_owned())),
        }
    }

    fn pack(&mut self, session: &SessionId, packed: &[u8]) {
        self.bytes += packed.len();
        let node = session.node_str();
        let mut found = self.packs.iter().position(|pack| pack.node.as_str() == node);
        if let Some(index) = found.filter(|index| self.packs[*index].field.len() + packed.len() > PACK_BYTES_MAX) {
            let pack = self.packs.swap_remove(index);
            self.close_pack(&pack);
            found = None;
        }
        let index = found.unwrap_or_else(|| {
            self.packs.push(Pack { node: session.node(), field: DELIVERIES_HEAD.to_vec() });
            self.packs.len() - 1
        });
        self.packs[index].field.extend_from_slice(packed);
    }

    fn close_packs(&mut self) {
        for pack in std::mem::take(&mut self.packs) {
            self.close_pack(&pack);
        }
    }

    fn close_pack(&mut self, pack: &Pack) {
        let key = self.keys.outgoing(&pack.node);
        let first: [&[u8]; 4] = match self.full {
            false => [b"XADD", key.as_bytes(), b"NOMKSTREAM", b"*"],
            true => [b"EVALSHA", DELIVER.hash().as_bytes(), b"1", key.as_bytes()],
        };
        self.commands.add_arguments(6, first.into_iter().chain([DELIVERIES_FIELD.as_bytes(), &pack.field]));
        self.slots.push(Slot::One(Done::Nobody(DELIVERY)));
    }

    pub(super) fn finish(mut self) -> Batch {
        self.close_packs();
        // What is sent without them wakes the writer when it is answered.
        let may_wait = !self.slots.is_empty() && self.marks.is_empty();
        if may_wait && self.gathered.may_wait(self.writes) {
            self.gathered.held += u32::from(!self.gathered.is_empty());
        } else {
            self.settle();
        }
        Batch { commands: self.commands.finish(), slots: self.slots, marks: self.marks, sent: None, is_doubtful: false }
    }

    fn settle(&mut self) {
        for acks in std::mem::take(self.gathered).acks {
            let key = self.keys.incoming(acks.partition);
            let (count, mut entries) = (acks.entries.len(), Vec::new());
            acks.entries.iter().for_each(|entry| put_shown(&mut entries, entry));
            self.commands.add_with(&[b"XDEL", key.as_bytes()], count, &entries);
            self.slots.push(Slot::One(Done::Nobody("settlement")));
            // After XDEL: a crash between them leaves a pending entry without content, which taking over cleans up.
            self.commands.add_with(&[b"XACK", key.as_bytes(), GROUP.as_bytes()], count, &entries);
            self.slots.push(Slot::Acks(acks));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::queue::redis::commands::Commands;
    use crate::queue::redis::resp::Walk;

    #[derive(Default)]
    struct Told(Mutex<Vec<StreamId>>);

    impl Settlements for Told {
        fn settled(&self, _partition: u32, entries: &[StreamId]) {
            self.0.lock().unwrap().extend_from_slice(entries);
        }
    }

    fn ack(partition: u32, entry: u64, to: &Arc<Told>) -> Write {
        Write::Ack { partition, entry: StreamId { ms: entry, sequence: 0 }, to: Arc::clone(to) as _ }
    }

    fn delivery() -> Write {
        Write::Node { session: SessionId::from_text("n1.x"), packed: b"12".to_vec() }
    }

    fn encode(gathered: &mut Gathered, writes: Vec<Write>) -> Vec<String> {
        let keys = Keys::new("app").unwrap();
        let mut encoder = Encoder::new(&keys, gathered, false);
        writes.into_iter().for_each(|write| encoder.push(write));
        texts(&encoder.finish().commands)
    }

    fn texts(commands: &Commands) -> Vec<String> {
        let mut walk = Walk::new(commands.as_bytes());
        let mut texts = Vec::new();
        while let Some(count) = walk.array() {
            let arguments: Vec<String> = (0..count).map(|_| String::from_utf8_lossy(walk.bulk().unwrap()).into_owned()).collect();
            texts.push(arguments.join(" "));
        }
        texts
    }

    const DELIVERED: &str = "XADD ps:{app:n:n1}:out NOMKSTREAM * b \u{1}12";

    #[test]
    fn alone_they_go_at_once_deletion_first() {
        let (mut gathered, told) = (Gathered::default(), Arc::new(Told::default()));
        let commands = encode(&mut gathered, vec![ack(3, 1, &told), ack(4, 2, &told), ack(3, 3, &told)]);
        let expected =
            ["XDEL ps:{app:p3}:in 1-0 3-0", "XACK ps:{app:p3}:in w 1-0 3-0", "XDEL ps:{app:p4}:in 2-0", "XACK ps:{app:p4}:in w 2-0"];
        assert_eq!(commands, expected);
        assert!(gathered.is_empty());
    }

    /// So many that there is something to wait for, in one entry.
    fn deliveries() -> Vec<Write> {
        (0..WRITES_MIN).map(|_| delivery()).collect()
    }

    fn with_deliveries(ack: Write) -> Vec<Write> {
        let mut writes = deliveries();
        writes.push(ack);
        writes
    }

    #[test]
    fn under_a_light_load_they_go_along() {
        let (mut gathered, told) = (Gathered::default(), Arc::new(Told::default()));
        let commands = encode(&mut gathered, vec![delivery(), ack(3, 1, &told)]);
        assert_eq!(commands, [DELIVERED, "XDEL ps:{app:p3}:in 1-0", "XACK ps:{app:p3}:in w 1-0"]);
        assert!(gathered.is_empty());
    }

    #[test]
    fn behind_many_writes_they_wait_but_not_for_long() {
        let (mut gathered, told) = (Gathered::default(), Arc::new(Told::default()));
        let held = u64::from(ACKS_HELD_MAX);
        for round in 0..held {
            assert_eq!(encode(&mut gathered, with_deliveries(ack(3, round, &told))).len(), 1, "round {round}");
            assert!(!gathered.is_empty());
        }
        let commands = encode(&mut gathered, deliveries());
        let entries = (0..held).map(|entry| format!("{entry}-0")).collect::<Vec<_>>().join(" ");
        assert_eq!(commands[1..], [format!("XDEL ps:{{app:p3}}:in {entries}"), format!("XACK ps:{{app:p3}}:in w {entries}")]);
        let many = (0..ACKS_MAX).map(|entry| ack(3, entry as u64, &told)).chain([delivery()]);
        assert_eq!(encode(&mut gathered, many.collect()).len(), 3, "so many are written at once");
        assert!(gathered.is_empty() && told.0.lock().unwrap().is_empty());
    }

    #[test]
    fn a_mark_takes_them_along() {
        let (mut gathered, told) = (Gathered::default(), Arc::new(Told::default()));
        encode(&mut gathered, with_deliveries(ack(3, 1, &told)));
        let commands = encode(&mut gathered, with_deliveries(Write::Mark(Done::Nobody("test"))));
        assert_eq!(commands.len(), 3, "who waits for all before waits for these too");
    }

    #[test]
    fn those_who_wait_are_told_when_nothing_is_sent() {
        let (mut gathered, told) = (Gathered::default(), Arc::new(Told::default()));
        encode(&mut gathered, with_deliveries(ack(3, 1, &told)));
        gathered.abandon();
        assert_eq!(*told.0.lock().unwrap(), [StreamId { ms: 1, sequence: 0 }]);
        assert!(gathered.is_empty());
    }
}

//! One pipeline of the writer: how writes become commands, and how answers find those who wait for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use redis::{Cmd, Pipeline, Value};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::answers::{is_passing, server_error};
use super::keys::{GROUP, Keys};
use super::scripts::{DELIVER, evalsha};
use crate::queue::{OnStored, QueueError, Stored};
use crate::wire::ids::NodeId;

/// A pipeline is closed when it holds this much.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Deliveries to one node share a stream entry up to this size; a larger one goes alone.
const PACK_BYTES_MAX: usize = 16 << 10;

/// Name of a delivery's write.
pub(super) const DELIVERY: &str = "delivery";

/// Told when the settlement of an entry is stored.
pub(super) trait Settlements: Send + Sync {
    fn settled(&self, partition: u32, entry: &str);
}

/// Who waits for the answer to a write.
pub(super) enum Done {
    /// Nobody; a refusal is logged under this name.
    Nobody(&'static str),
    /// A client's message.
    Stored(OnStored),
    /// A caller.
    Reply(oneshot::Sender<Result<Value, QueueError>>),
    /// A consumer's job.
    Settled { to: Arc<dyn Settlements>, partition: u32, entry: String },
}

/// One write.
pub(super) enum Write {
    /// A command with one answer.
    Command { command: Cmd, done: Done },
    /// A delivery to one node; packed with its neighbours.
    Node { node: NodeId, header: Bytes, data: Bytes },
    /// XDEL and XACK of an entry; gathered, and written after everything else of the batch.
    Ack { partition: u32, entry: String, done: Done },
    /// Nothing is written; done when everything before is.
    Mark(Done),
    /// Nothing is written; the answer is known already.
    Refused { on_stored: OnStored, reason: &'static str },
}

/// How a write ended.
#[derive(Clone)]
enum Outcome {
    Answer(Value),
    Refused(QueueError),
    Unknown,
    Unsent,
}

impl Done {
    fn finish(self, outcome: Outcome) {
        match (self, outcome) {
            (Self::Nobody(what), Outcome::Refused(error)) => {
                metrics::counter!("plugsocket_queue_writes_refused_total", "what" => what).increment(1);
                if may_complain() {
                    tracing::error!(what, %error, "queue refused a write; the counter tells how many");
                }
            }
            (Self::Nobody(DELIVERY), Outcome::Answer(Value::Nil) | Outcome::Unsent | Outcome::Unknown) => {
                metrics::counter!("plugsocket_deliveries_undeliverable_total").increment(1);
            }
            (Self::Nobody(_), _) => {}
            (Self::Stored(on_stored), outcome) => on_stored(match outcome {
                Outcome::Answer(_) => Stored::Yes,
                Outcome::Refused(error) => Stored::No(error.to_string()),
                Outcome::Unsent => Stored::No("queue is unreachable".to_owned()),
                Outcome::Unknown => Stored::Unknown,
            }),
            (Self::Reply(sender), outcome) => {
                let _ = sender.send(match outcome {
                    Outcome::Answer(value) => Ok(value),
                    Outcome::Refused(error) => Err(error),
                    Outcome::Unsent | Outcome::Unknown => Err(QueueError::Unreachable("not confirmed in the time allowed".to_owned())),
                });
            }
            (Self::Settled { to, partition, entry }, outcome) => {
                if let Outcome::Refused(error) = &outcome
                    && may_complain()
                {
                    tracing::error!(partition, entry, %error, "queue refused to settle a job");
                }
                to.settled(partition, &entry);
            }
        }
    }

    /// Whether somebody waits who would rather be told than wait on.
    fn expires(&self) -> bool {
        matches!(self, Self::Stored(_) | Self::Reply(_))
    }
}

impl Write {
    /// About what it takes up.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Command { command, .. } => command.args_iter().map(|argument| arg_len(&argument)).sum(),
            Self::Node { header, data, .. } => header.len() + data.len(),
            Self::Ack { entry, .. } => entry.len(),
            Self::Mark(_) | Self::Refused { .. } => 0,
        }
    }

    /// Answers whoever waits: it will not be sent.
    pub(super) fn abandon(self) {
        match self {
            Self::Command { done, .. } | Self::Mark(done) | Self::Ack { done, .. } => done.finish(Outcome::Unsent),
            Self::Node { .. } => Done::Nobody(DELIVERY).finish(Outcome::Unsent),
            Self::Refused { on_stored, reason } => on_stored(Stored::No(reason.to_owned())),
        }
    }

    /// Gives up on a write that was never sent, unless nobody waits for it: then it comes back, to be sent when it can be. Deliveries come
    /// back only when they are not `too_old`.
    pub(super) fn expire(self, too_old: bool) -> Option<Self> {
        match self {
            Self::Node { .. } | Self::Command { done: Done::Nobody(DELIVERY), .. } if too_old => {
                self.abandon();
                None
            }
            Self::Command { done, .. } | Self::Mark(done) if done.expires() => {
                done.finish(Outcome::Unsent);
                None
            }
            Self::Refused { on_stored, reason } => {
                on_stored(Stored::No(reason.to_owned()));
                None
            }
            other => Some(other),
        }
    }
}

/// Who waits for one command of the pipeline.
pub(super) enum Slot {
    One(Done),
    Many(Vec<Done>),
}

impl Slot {
    fn finish(self, outcome: Outcome) {
        match self {
            Self::One(done) => done.finish(outcome),
            Self::Many(all) => all.into_iter().for_each(|done| done.finish(outcome.clone())),
        }
    }
}

/// A pipeline and who waits for its answers.
pub(super) struct Batch {
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) slots: Vec<Slot>,
    marks: Vec<Done>,
    /// When it was first sent.
    pub(super) sent: Option<Instant>,
}

/// What of a batch has to be sent again, and why.
pub(super) struct Again {
    pub(super) batch: Batch,
    pub(super) reason: String,
    /// Redis is full, and took no deliveries the ordinary way.
    pub(super) full: bool,
    /// The connection does not serve.
    pub(super) reconnect: bool,
}

impl Batch {
    /// Gives out the answers. What the server could not do at present is left, marks with it.
    pub(super) fn settle(self, answers: Vec<Value>) -> Again {
        let mut pipeline = Pipeline::new();
        let mut again = Vec::new();
        let mut reason = String::new();
        let (mut full, mut reconnect) = (false, false);
        for (index, (slot, answer)) in self.slots.into_iter().zip(answers).enumerate() {
            match answer {
                // Known not to be stored: sent again, it could come after one that its client sent later.
                Value::ServerError(error) if is_passing(&error) && matches!(slot, Slot::One(Done::Stored(_))) => {
                    (reason, reconnect) = (error.to_string(), true);
                    slot.finish(Outcome::Refused(server_error(&error)));
                }
                Value::ServerError(error) if error.code() == "NOSCRIPT" || is_passing(&error) => {
                    (reason, reconnect) = (error.to_string(), true);
                    if let Some(command) = self.pipeline.cmd_iter().nth(index) {
                        pipeline.add_command(command.clone());
                        again.push(slot);
                    }
                }
                Value::ServerError(error) if error.code() == "OOM" && matches!(slot, Slot::One(Done::Nobody(DELIVERY))) => {
                    full = true;
                    if let Some(command) = self.pipeline.cmd_iter().nth(index).and_then(deliver) {
                        pipeline.add_command(command);
                        again.push(slot);
                    }
                }
                Value::ServerError(error) => slot.finish(Outcome::Refused(server_error(&error))),
                answer => slot.finish(Outcome::Answer(answer)),
            }
        }
        let marks = if again.is_empty() {
            self.marks.into_iter().for_each(|mark| mark.finish(Outcome::Answer(Value::Nil)));
            Vec::new()
        } else {
            self.marks
        };
        Again { batch: Self { pipeline: Arc::new(pipeline), slots: again, marks, sent: self.sent }, reason, full, reconnect }
    }

    /// Tells all that the outcome is unknown.
    pub(super) fn abandon(&mut self) {
        self.marks.drain(..).for_each(|mark| mark.finish(Outcome::Unknown));
        self.slots.drain(..).for_each(|slot| slot.finish(Outcome::Unknown));
    }

    /// Tells those who wait that the outcome is unknown; the rest stays to be sent.
    pub(super) fn give_up(&mut self) {
        for mark in std::mem::take(&mut self.marks) {
            mark.finish(Outcome::Unknown);
        }
        if !self.slots.iter().any(|slot| matches!(slot, Slot::One(done) if done.expires())) {
            return;
        }
        let mut pipeline = Pipeline::new();
        let mut kept = Vec::new();
        for (slot, command) in std::mem::take(&mut self.slots).into_iter().zip(self.pipeline.cmd_iter()) {
            match slot {
                Slot::One(done) if done.expires() => done.finish(Outcome::Unknown),
                slot => {
                    kept.push(slot);
                    pipeline.add_command(command.clone());
                }
            }
        }
        (self.slots, self.pipeline) = (kept, Arc::new(pipeline));
    }
}

/// At most one complaint per second about refused writes, of which there may be thousands.
fn may_complain() -> bool {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let second = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    LAST.swap(second, Ordering::Relaxed) != second
}

struct Pack {
    node: NodeId,
    command: Cmd,
    bytes: usize,
}

struct Acks {
    partition: u32,
    entries: Vec<String>,
    done: Vec<Done>,
}

/// Turns writes into a [`Batch`].
pub(super) struct Encoder<'keys> {
    keys: &'keys Keys,
    pipeline: Pipeline,
    slots: Vec<Slot>,
    marks: Vec<Done>,
    packs: Vec<Pack>,
    acks: Vec<Acks>,
    bytes: usize,
    full: bool,
}

impl<'keys> Encoder<'keys> {
    /// `full`: deliveries go by a script that a full Redis runs as well.
    pub(super) fn new(keys: &'keys Keys, full: bool) -> Self {
        Self { keys, pipeline: Pipeline::new(), slots: Vec::new(), marks: Vec::new(), packs: Vec::new(), acks: Vec::new(), bytes: 0, full }
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES_MAX
    }

    pub(super) fn push(&mut self, write: Write) {
        match write {
            Write::Command { command, done } => {
                // It may be a delivery as well (a route script), which must not overtake those before it.
                self.close_packs();
                self.bytes += command.args_iter().map(|argument| arg_len(&argument)).sum::<usize>();
                self.add(command, Slot::One(done));
            }
            Write::Node { node, header, data } => self.pack(node, &header, &data),
            Write::Ack { partition, entry, done } => match self.acks.iter_mut().find(|acks| acks.partition == partition) {
                Some(acks) => {
                    acks.entries.push(entry);
                    acks.done.push(done);
                }
                None => self.acks.push(Acks { partition, entries: vec![entry], done: vec![done] }),
            },
            Write::Mark(done) => self.marks.push(done),
            Write::Refused { on_stored, reason } => on_stored(Stored::No(reason.to_owned())),
        }
    }

    fn add(&mut self, command: Cmd, slot: Slot) {
        self.pipeline.add_command(command);
        self.slots.push(slot);
    }

    fn pack(&mut self, node: NodeId, header: &Bytes, data: &Bytes) {
        let bytes = header.len() + data.len();
        self.bytes += bytes;
        if let Some(index) = self.packs.iter().position(|pack| pack.node == node) {
            if self.packs[index].bytes + bytes <= PACK_BYTES_MAX {
                self.packs[index].command.arg("h").arg(&header[..]).arg("d").arg(&data[..]);
                self.packs[index].bytes += bytes;
                return;
            }
            let pack = self.packs.swap_remove(index);
            self.close_pack(pack);
        }
        let mut command = redis::cmd("XADD");
        command.arg(self.keys.outgoing(&node)).arg("NOMKSTREAM").arg("*").arg("h").arg(&header[..]).arg("d").arg(&data[..]);
        self.packs.push(Pack { node, command, bytes });
    }

    fn close_packs(&mut self) {
        for pack in std::mem::take(&mut self.packs) {
            self.close_pack(pack);
        }
    }

    fn close_pack(&mut self, pack: Pack) {
        let command = if self.full { deliver(&pack.command) } else { None };
        self.add(command.unwrap_or(pack.command), Slot::One(Done::Nobody(DELIVERY)));
    }

    pub(super) fn finish(mut self) -> Batch {
        self.close_packs();
        for acks in std::mem::take(&mut self.acks) {
            let key = self.keys.incoming(acks.partition);
            let mut delete = redis::cmd("XDEL");
            delete.arg(&key).arg(&acks.entries);
            self.add(delete, Slot::One(Done::Nobody("settlement")));
            // After XDEL: a crash between them leaves a pending entry without content, which taking over cleans up.
            let mut acknowledge = redis::cmd("XACK");
            acknowledge.arg(&key).arg(GROUP).arg(&acks.entries);
            self.add(acknowledge, Slot::Many(acks.done));
        }
        Batch { pipeline: Arc::new(self.pipeline), slots: self.slots, marks: self.marks, sent: None }
    }
}

/// The script for a delivery's XADD; `None` for a command that is none.
fn deliver(command: &Cmd) -> Option<Cmd> {
    let mut arguments = command.args_iter().filter_map(|argument| match argument {
        redis::Arg::Simple(bytes) => Some(bytes),
        _ => None,
    });
    if arguments.next()? != b"XADD" {
        return None;
    }
    let mut script = evalsha(&DELIVER, 1);
    script.arg(arguments.next()?);
    // NOMKSTREAM and the id are the script's own.
    for argument in arguments.skip(2) {
        script.arg(argument);
    }
    Some(script)
}

fn arg_len(argument: &redis::Arg<&[u8]>) -> usize {
    match argument {
        redis::Arg::Simple(bytes) => bytes.len(),
        _ => 0,
    }
}

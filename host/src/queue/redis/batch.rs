//! One pipeline of the writer: what is written, and how answers find those who wait for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use redis::{Cmd, Value};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::answers::{is_passing, server_error};
use super::commands::{Commands, Packing, deliver};
use super::encode::Acks;
use super::pushes::{List, Pushed};
use crate::queue::{OnStored, QueueError, Stored};
use crate::wire::ids::{SessionId, StreamId};

/// Name of a delivery's write.
pub(super) const DELIVERY: &str = "delivery";

/// Told when the settlements of entries are stored.
pub(super) trait Settlements: Send + Sync {
    fn settled(&self, partition: u32, entries: &[StreamId]);
}

/// Who waits for the answer to a write.
pub(super) enum Done {
    /// Nobody; a refusal is logged under this name.
    Nobody(&'static str),
    /// A client's message.
    Stored(OnStored),
    /// A client's message for a list: sent once, whatever becomes of it.
    Pushed { list: Arc<List>, on_stored: OnStored },
    /// A caller.
    Reply(oneshot::Sender<Result<Value, QueueError>>),
    /// A consumer's job.
    Settled { to: Arc<dyn Settlements>, partition: u32, entry: StreamId },
}

/// One write.
pub(super) enum Write {
    /// A command with one answer.
    Command { command: Cmd, done: Done },
    /// A client's message: the command that stores it, packed already.
    Packed { command: Vec<u8>, done: Done },
    /// A delivery for one session, to its node; packed with its neighbours.
    Node { session: SessionId, packed: Vec<u8> },
    /// XDEL and XACK of an entry; gathered, and written after everything else of the batch.
    Ack { partition: u32, entry: StreamId, to: Arc<dyn Settlements> },
    /// Nothing is written; done when everything before is.
    Mark(Done),
    /// Nothing is written; the answer is known already.
    Refused { on_stored: OnStored, reason: &'static str },
}

/// How a write ended.
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
            (Self::Pushed { list, on_stored }, outcome) => on_stored(list.ended(match outcome {
                Outcome::Answer(Value::Nil) => Pushed::Full,
                Outcome::Answer(_) => Pushed::Yes,
                Outcome::Refused(error) => Pushed::Refused(error),
                Outcome::Unsent => Pushed::Refused(QueueError::Unreachable("it is not connected".to_owned())),
                Outcome::Unknown => Pushed::Unknown,
            })),
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
                    tracing::error!(partition, %entry, %error, "queue refused to settle a job");
                }
                to.settled(partition, &[entry]);
            }
        }
    }

    /// Whether somebody waits who would rather be told than wait on.
    fn expires(&self) -> bool {
        matches!(self, Self::Stored(_) | Self::Pushed { .. } | Self::Reply(_))
    }

    /// Whether it is a client's message, of which none may overtake another.
    fn is_message(&self) -> bool {
        matches!(self, Self::Stored(_) | Self::Pushed { .. })
    }

    /// Whether it may be written at most once: whoever reads it can't know a second one by its looks.
    fn is_once(&self) -> bool {
        matches!(self, Self::Pushed { .. })
    }
}

impl Write {
    /// About what it takes up.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Command { command, .. } => bytes_of(command),
            Self::Packed { command, .. } => command.len(),
            Self::Node { packed, .. } => packed.len(),
            Self::Ack { .. } => size_of::<StreamId>(),
            Self::Mark(_) | Self::Refused { .. } => 0,
        }
    }

    /// Answers whoever waits: it will not be sent.
    pub(super) fn abandon(self) {
        match self {
            Self::Command { done, .. } | Self::Packed { done, .. } | Self::Mark(done) => done.finish(Outcome::Unsent),
            Self::Ack { partition, entry, to } => to.settled(partition, &[entry]),
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
            Self::Command { done, .. } | Self::Packed { done, .. } | Self::Mark(done) if done.expires() => {
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
    Acks(Acks),
}

impl Slot {
    fn finish(self, outcome: Outcome) {
        match self {
            Self::One(done) => done.finish(outcome),
            Self::Acks(Acks { partition, entries, to }) => {
                if let Outcome::Refused(error) = &outcome
                    && may_complain()
                {
                    tracing::error!(partition, jobs = entries.len(), %error, "queue refused to settle jobs");
                }
                to.settled(partition, &entries);
            }
        }
    }

    fn is(&self, property: impl Fn(&Done) -> bool) -> bool {
        matches!(self, Self::One(done) if property(done))
    }

    /// Whether the answer itself is asked for, not only how it went.
    fn wants_value(&self) -> bool {
        matches!(self, Self::One(Done::Reply(_)))
    }
}

/// A pipeline and who waits for its answers.
pub(super) struct Batch {
    pub(super) commands: Commands,
    pub(super) slots: Vec<Slot>,
    pub(super) marks: Vec<Done>,
    /// When it was first sent.
    pub(super) sent: Option<Instant>,
    /// It was sent before without an answer: a refusal now does not mean that nothing was stored then.
    pub(super) is_doubtful: bool,
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
    /// Neither commands nor anybody who waits.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.marks.is_empty()
    }

    /// Which of the commands want their answer, not only how it went.
    pub(super) fn wanted(&self) -> impl Iterator<Item = bool> {
        self.slots.iter().map(Slot::wants_value)
    }

    /// Gives out the answers. What the server could not do at present is left, marks with it.
    pub(super) fn settle(self, answers: Vec<Value>) -> Again {
        let mut commands = Packing::default();
        let mut again = Vec::new();
        let mut reason = String::new();
        let (mut full, mut reconnect) = (false, false);
        let is_doubtful = self.is_doubtful;
        for (index, (slot, answer)) in self.slots.into_iter().zip(answers).enumerate() {
            match answer {
                // Not stored by this sending: sent again, it could come after one that its client sent later.
                Value::ServerError(error) if is_passing(&error) && slot.is(Done::is_message) => {
                    (reason, reconnect) = (error.to_string(), true);
                    slot.finish(if is_doubtful { Outcome::Unknown } else { Outcome::Refused(server_error(&error)) });
                }
                // One behind it may have found the script, which somebody has loaded in between.
                Value::ServerError(error) if error.code() == "NOSCRIPT" && slot.is(Done::is_once) => {
                    (reason, reconnect) = (error.to_string(), true);
                    slot.finish(Outcome::Refused(server_error(&error)));
                }
                Value::ServerError(error) if error.code() == "NOSCRIPT" || is_passing(&error) => {
                    (reason, reconnect) = (error.to_string(), true);
                    commands.add_packed(self.commands.get(index));
                    again.push(slot);
                }
                Value::ServerError(error) if error.code() == "OOM" && matches!(slot, Slot::One(Done::Nobody(DELIVERY))) => {
                    full = true;
                    if let Some(command) = deliver(self.commands.get(index)) {
                        commands.add_packed(&command);
                        again.push(slot);
                    }
                }
                Value::ServerError(_) if is_doubtful && matches!(slot, Slot::One(Done::Stored(_))) => slot.finish(Outcome::Unknown),
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
        Again { batch: Self { commands: commands.finish(), slots: again, marks, sent: self.sent, is_doubtful }, reason, full, reconnect }
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
        self.end(Done::expires);
    }

    /// It was sent, and no answer will come: what may be sent only once has an unknown outcome, the rest may be sent again.
    pub(super) fn doubt(&mut self) {
        self.is_doubtful = true;
        self.end(Done::is_once);
    }

    /// Tells those with this property that the outcome is unknown; the rest stays to be sent.
    fn end(&mut self, property: impl Fn(&Done) -> bool) {
        if !self.slots.iter().any(|slot| slot.is(&property)) {
            return;
        }
        let mut commands = Packing::default();
        let mut kept = Vec::new();
        for (index, slot) in std::mem::take(&mut self.slots).into_iter().enumerate() {
            match slot {
                Slot::One(done) if property(&done) => done.finish(Outcome::Unknown),
                slot => {
                    kept.push(slot);
                    commands.add_packed(self.commands.get(index));
                }
            }
        }
        (self.slots, self.commands) = (kept, commands.finish());
    }
}

/// At most one complaint per second about refused writes, of which there may be thousands.
fn may_complain() -> bool {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let second = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    LAST.swap(second, Ordering::Relaxed) != second
}

/// About what a command takes up.
pub(super) fn bytes_of(command: &Cmd) -> usize {
    let length = |argument: redis::Arg<&[u8]>| match argument {
        redis::Arg::Simple(bytes) => bytes.len(),
        _ => 0,
    };
    command.args_iter().map(length).sum()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::queue::redis::resp;

    #[test]
    fn a_refusal_of_what_was_sent_before_says_nothing_of_then() {
        for refusal in [&b"-OOM command not allowed\r\n"[..], b"-READONLY a replica\r\n"] {
            for is_doubtful in [false, true] {
                let mut commands = Packing::default();
                commands.add_packed(b"PING\r\n");
                let (sender, told) = mpsc::channel();
                let on_stored: OnStored = Box::new(move |stored| sender.send(stored).unwrap());
                let slots = vec![Slot::One(Done::Stored(on_stored))];
                let batch = Batch { commands: commands.finish(), slots, marks: Vec::new(), sent: Some(Instant::now()), is_doubtful };
                let again = batch.settle(vec![resp::value(refusal).unwrap()]);
                assert!(again.batch.slots.is_empty());
                assert_eq!(matches!(told.recv().unwrap(), Stored::Unknown), is_doubtful);
            }
        }
    }
}

//! The host's end of a runner's socket: what waits to be written, and the calls that wait for their answers.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use bytes::{Buf as _, Bytes, BytesMut};
use plugsocket_plugin::call::{HostOperation, Operation, Status};
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::Notify;

use crate::plugin::chain::Last;
use crate::plugin::crumbs::WORD_BYTES;
use crate::plugin::frames::{Frame, Head, Kind, PAYLOAD_BYTES_MAX, frame_bytes, take};
use crate::plugin::pool::CALL_IS_OVER;
use crate::plugin::{Answer, Call, CallError};

/// What comes for a call.
pub(super) enum Event {
    /// It asks for something.
    Request { request: u64, operation: u8, input: Bytes },
    /// It has ended.
    Ended(Result<Answer, CallError>),
}

/// A call that is with the runner.
pub(super) struct Pending {
    pub(super) operation: Operation,
    /// Kept to tell whose call it was when it ends badly.
    pub(super) input: Bytes,
    /// As in [`crate::plugin::Call::suspicions`].
    pub(super) suspicions: u32,
    state: Mutex<Inbox>,
}

#[derive(Default)]
struct Inbox {
    next: Option<Event>,
    /// Behind `next`. Most calls have one event at a time, and need no memory for more.
    events: VecDeque<Event>,
    waker: Option<Waker>,
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, event: Event) {
        let mut inbox = self.lock();
        match inbox.next {
            None => inbox.next = Some(event),
            Some(_) => inbox.events.push_back(event),
        }
        let waker = inbox.waker.take();
        drop(inbox);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The next event. Cancel-safe; for one task only.
    pub(super) async fn next(&self) -> Event {
        std::future::poll_fn(|context| {
            let mut inbox = self.lock();
            match inbox.next.take() {
                Some(event) => {
                    inbox.next = inbox.events.pop_front();
                    Poll::Ready(event)
                }
                None => {
                    inbox.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

/// Counts the links of this process: each has a number of its own.
static LINKS: AtomicU64 = AtomicU64::new(0);

/// Both directions of one runner's socket.
pub(super) struct Link {
    pub(super) id: u64,
    outgoing: Mutex<Outgoing>,
    wake: Notify,
    calls: Mutex<Calls>,
    next: AtomicU64,
    answered: AtomicU64,
}

#[derive(Default)]
struct Outgoing {
    bytes: Vec<u8>,
    is_closed: bool,
}

/// Calls by their numbers.
pub(super) type Numbered = HashMap<u64, Arc<Pending>, BuildHasherDefault<NumberHasher>>;

/// For numbers that are counted up by ourselves: nobody chooses them.
#[derive(Default)]
pub(super) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15); // The table looks at both ends of it.
    }
}

#[derive(Default)]
struct Calls {
    pending: Numbered,
    is_left: bool,
}

impl Link {
    pub(super) fn new() -> Self {
        Self {
            id: LINKS.fetch_add(1, Ordering::Relaxed),
            outgoing: Mutex::default(),
            wake: Notify::new(),
            calls: Mutex::default(),
            next: AtomicU64::new(0),
            answered: AtomicU64::new(0),
        }
    }

    fn outgoing(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a frame; [`Self::write`] writes it with all that waits. Bounded by the calls: each has one frame waiting, or one response.
    pub(super) fn send(&self, head: Head, payload: &[u8]) {
        let mut outgoing = self.outgoing();
        if !outgoing.is_closed {
            head.put(&mut outgoing.bytes, payload);
            drop(outgoing);
            self.wake.notify_one();
        }
    }

    /// Writes what is queued until writing fails. Dropping the future may leave half a frame behind: the socket is of no use then.
    pub(super) async fn write(&self, mut socket: OwnedWriteHalf) {
        let mut batch = Vec::new();
        loop {
            self.wake.notified().await;
            if self.open() > 1 {
                tokio::task::yield_now().await; // Others have something to say as well: all of it is one write.
            }
            loop {
                std::mem::swap(&mut batch, &mut self.outgoing().bytes);
                if batch.is_empty() {
                    break;
                }
                if socket.write_all(&batch).await.is_err() {
                    return; // The reader sees the end as well, and tells of it.
                }
                batch.clear();
            }
        }
    }

    /// Hands a call over, unless `open_max` are there already; answers its number. `None` when the runner takes no more calls.
    ///
    /// # Errors
    /// [`CallError::Overloaded`]; [`CallError::NotBegun`] when the call before it in its chain is not the last one here.
    pub(super) fn begin(&self, call: &Call, open_max: usize) -> Result<Option<(u64, Arc<Pending>)>, CallError> {
        let Some(chained) = &call.chained else { return self.begin_behind(call, 0, open_max) };
        let before = match chained.before() {
            Ok(None) => 0,
            Ok(Some(before)) if before.runner == self.id => before.number,
            Ok(Some(_)) | Err(()) => {
                chained.note(None);
                return Err(CallError::NotBegun);
            }
        };
        let begun = self.begin_behind(call, before, open_max);
        let number = begun.as_ref().ok().and_then(|begun| begun.as_ref().map(|(number, _)| *number));
        chained.note(number.map(|number| Last { runner: self.id, number }));
        begun
    }

    fn begin_behind(&self, call: &Call, before: u64, open_max: usize) -> Result<Option<(u64, Arc<Pending>)>, CallError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let Call { operation, suspicions, .. } = *call;
        let pending = Arc::new(Pending { operation, input: call.input.clone(), suspicions, state: Mutex::default() });
        let mut calls = self.calls();
        if calls.is_left {
            return Ok(None);
        }
        if calls.pending.len() >= open_max {
            return Err(CallError::Overloaded);
        }
        calls.pending.insert(number, Arc::clone(&pending));
        // Within the lock, so that no call comes behind the last word.
        self.send(Head { request: before, ..Head::call(Kind::Call, operation as u8, number) }, &call.input);
        drop(calls);
        Ok(Some((number, pending)))
    }

    /// From here on no call begins.
    pub(super) fn leave(&self) {
        self.calls().is_left = true;
    }

    /// Nobody waits for a call any more: what it asks for is refused. Answers whether it was still open.
    pub(super) fn forget(&self, number: u64) -> bool {
        self.calls().pending.remove(&number).is_some()
    }

    /// Calls that are with the runner.
    pub(super) fn open(&self) -> usize {
        self.calls().pending.len()
    }

    /// Answers so far.
    pub(super) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Passes on what a runner says of a call.
    pub(super) fn receive(&self, frame: Frame) {
        let Frame { kind, code, number, request, payload } = frame;
        match kind {
            Kind::Answer => {
                let Some(pending) = self.calls().pending.remove(&number) else { return };
                self.answered.fetch_add(1, Ordering::Relaxed);
                let answer = match Status::try_from(code) {
                    Ok(status) => Answer { status, bytes: payload },
                    Err(status) => Answer::retry(format!("runner answered with the unknown status {status}")),
                };
                pending.push(Event::Ended(Ok(answer)));
            }
            Kind::NotBegun => {
                let Some(pending) = self.calls().pending.remove(&number) else { return };
                pending.push(Event::Ended(Err(CallError::NotBegun)));
            }
            Kind::Request => match self.calls().pending.get(&number) {
                Some(pending) => pending.push(Event::Request { request, operation: code, input: payload }),
                None => self.respond(number, request, &Answer::retry(CALL_IS_OVER)),
            },
            _ => {}
        }
    }

    /// Passes on the answers that a runner could not write any more; those that it did write are known by now.
    pub(super) fn receive_kept(&self, kept: &[u8]) {
        let mut kept = BytesMut::from(kept);
        while let Ok(Some(frame)) = take(&mut kept) {
            let filled = frame_bytes(&frame.payload).next_multiple_of(WORD_BYTES) - frame_bytes(&frame.payload);
            kept.advance(filled.min(kept.len()));
            if frame.kind == Kind::Answer {
                self.receive(frame);
            }
        }
    }

    /// Answers a request of a call.
    pub(super) fn respond(&self, number: u64, request: u64, answer: &Answer) {
        let bytes = answer.bytes.len();
        if bytes > PAYLOAD_BYTES_MAX {
            let text = format!("the answer has {bytes} bytes, and {PAYLOAD_BYTES_MAX} at most can be given to a plugin");
            return self.respond(number, request, &Answer::retry(text));
        }
        self.send(Head { kind: Kind::Response, code: answer.status as u8, number, request }, &answer.bytes);
    }

    /// Nothing comes or goes any more. Answers the calls that were open; the caller ends each.
    pub(super) fn close(&self) -> Numbered {
        let mut outgoing = self.outgoing();
        outgoing.is_closed = true;
        outgoing.bytes = Vec::new();
        drop(outgoing);
        let mut calls = self.calls();
        calls.is_left = true;
        std::mem::take(&mut calls.pending)
    }
}

/// The operation that a request asks for; `None` when this release does not know it.
pub(super) fn operation_of(code: u8) -> Option<HostOperation> {
    HostOperation::try_from(u32::from(code)).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::plugin::HostSink;
    use crate::plugin::crumbs::Crumbs;

    struct Silent;

    #[async_trait::async_trait]
    impl HostSink for Silent {
        async fn request(&self, _operation: HostOperation, _input: Bytes) -> Answer {
            Answer::retry("silent")
        }
    }

    #[tokio::test]
    async fn answers_that_a_runner_could_not_write_reach_their_calls() {
        let link = Link::new();
        let begin = || link.begin(&Call::new(Operation::Action, "{}", Arc::new(Silent)), 10).unwrap().unwrap();
        let (first, second) = (begin(), begin());
        let (crumbs, _memory) = Crumbs::create(1).unwrap();
        for (number, payload) in [(first.0, "nine byte"), (first.0, "again"), (second.0, "")] {
            let mut frame = Vec::new();
            Head::call(Kind::Answer, Status::Done as u8, number).put(&mut frame, payload.as_bytes());
            assert!(crumbs.keep(&frame));
        }
        link.receive_kept(&crumbs.kept());
        for (pending, payload) in [(first.1, "nine byte"), (second.1, "")] {
            let Event::Ended(Ok(answer)) = pending.next().await else { panic!("no answer") };
            assert_eq!((answer.status, &answer.bytes[..]), (Status::Done, payload.as_bytes()));
        }
        assert_eq!(link.open(), 0);
        link.receive_kept(b"garbage that a plugin has left there");
    }
}

//! A session's bounded outgoing queue: pushed to from anywhere without waiting, emptied by the session's own task.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::Bytes;
use futures_util::task::AtomicWaker;

use super::backlog::Backlog;
use crate::config::SlowConsumer;
use crate::wire::codes::CloseCode;

/// What a waiting frame costs beside its text, so that a flood of tiny frames is bounded too.
const FRAME_OVERHEAD_BYTES: usize = 64;
/// A queue that once grew beyond this gives its memory back when it is empty.
const KEPT_CAPACITY: usize = 16;

/// How much may wait, and what happens beyond.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutletLimit {
    /// With this many bytes waiting, frames' own overhead included, nothing more is taken. One frame counts for at most half of it: a long
    /// frame, which has a limit of its own, does not make a client slow.
    pub bytes_max: usize,
    /// From half of this on, waiting for all sessions together, who has more than its share is treated as if its own limit were reached.
    pub total_bytes_max: u64,
    /// What happens to a client that does not read fast enough.
    pub policy: SlowConsumer,
}

/// Why the server ends a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Closing {
    /// The number for the client, the word for the handler.
    pub code: CloseCode,
    /// A sentence for the close frame.
    pub text: Cow<'static, str>,
    /// The client takes nothing: the connection is cut without waiting until it takes the close frame.
    pub is_cut: bool,
}

/// What the session's task has to write next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outgoing {
    /// A text frame.
    Frame(Bytes),
    /// A protocol ping.
    Ping,
    /// The last thing: a close frame.
    Close(Closing),
}

/// The queue. Frames of one pusher keep their order; a close comes after the frames pushed before it, but for a slow consumer, whose frames
/// are dropped.
pub(crate) struct Outlet {
    state: Mutex<State>,
    waker: AtomicWaker,
    backlog: Arc<Backlog>,
}

#[derive(Default)]
struct State {
    frames: VecDeque<Waiting>,
    /// What the frames cost within the session's own limit.
    bytes: usize,
    /// What they are within the limit of all.
    frames_bytes: usize,
    /// So is the frame that was taken last and is being written: a long one goes in pieces.
    in_hand: usize,
    /// The sum of both, as the backlog counts it.
    held: usize,
    ping: bool,
    closing: Option<Closing>,
    ended: bool,
}

struct Waiting {
    frame: Bytes,
    cost: usize,
}

impl Waiting {
    fn bytes(&self) -> usize {
        self.frame.len() + FRAME_OVERHEAD_BYTES
    }
}

impl Outlet {
    /// An empty one, counted in `backlog`.
    pub fn new(backlog: Arc<Backlog>) -> Self {
        Self { state: Mutex::default(), waker: AtomicWaker::new(), backlog }
    }

    /// Queues a frame; dropped silently once the session is closing or has ended.
    pub fn push(&self, frame: Bytes, limit: OutletLimit) {
        let cost = (frame.len() + FRAME_OVERHEAD_BYTES).min(limit.bytes_max / 2);
        let mut state = self.lock();
        if state.ended || state.closing.is_some() {
            return;
        }
        while !state.frames.is_empty() && (state.bytes >= limit.bytes_max || self.backlog.is_over_share(state.held, limit.total_bytes_max))
        {
            match limit.policy {
                SlowConsumer::Close => {
                    metrics::counter!("plugsocket_slow_consumers_total", "policy" => "close").increment(1);
                    state.forget_frames();
                    self.count(&mut state);
                    let text = Cow::Borrowed("you do not read fast enough");
                    state.closing = Some(Closing { code: CloseCode::SlowConsumer, text, is_cut: false });
                    drop(state);
                    self.waker.wake();
                    return;
                }
                SlowConsumer::DropOldest => {
                    metrics::counter!("plugsocket_frames_dropped_total", "reason" => "slow_consumer").increment(1);
                    let _ = state.pop();
                    self.count(&mut state);
                }
            }
        }
        let waiting = Waiting { frame, cost };
        state.bytes += cost;
        state.frames_bytes += waiting.bytes();
        state.frames.push_back(waiting);
        self.count(&mut state);
        drop(state);
        self.waker.wake();
    }

    /// Asks for a protocol ping.
    pub fn ping(&self) {
        self.lock().ping = true;
        self.waker.wake();
    }

    /// Asks for the session's end; the first one to ask gives the reason.
    pub fn close(&self, code: CloseCode, text: impl Into<Cow<'static, str>>) {
        let mut state = self.lock();
        if state.closing.is_none() && !state.ended {
            state.closing = Some(Closing { code, text: text.into(), is_cut: false });
        }
        drop(state);
        self.waker.wake();
    }

    /// Ends the session of a client that has taken nothing for too long; what waits for it is dropped. A close that was asked for before
    /// keeps its reason. Says whether it was cut only now.
    pub fn cut(&self, text: &'static str) -> bool {
        let mut state = self.lock();
        state.forget_frames();
        state.in_hand = 0;
        self.count(&mut state);
        let closing = state.closing.get_or_insert(Closing { code: CloseCode::SlowConsumer, text: text.into(), is_cut: false });
        let is_first = !std::mem::replace(&mut closing.is_cut, true);
        drop(state);
        self.waker.wake();
        is_first
    }

    /// Nothing more is taken. What came before an end that was asked for stays, to be written; answers whether there is any.
    pub fn stop(&self) -> bool {
        let mut state = self.lock();
        state.ended = true;
        let stays = |closing: &Closing| !closing.is_cut && closing.code != CloseCode::SlowConsumer;
        if !state.closing.as_ref().is_some_and(stays) {
            state.forget_frames();
            state.in_hand = 0;
            self.count(&mut state);
        }
        state.held > 0
    }

    /// The session is over: nothing is kept from here on.
    pub fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        state.forget_frames();
        state.in_hand = 0;
        self.count(&mut state);
    }

    /// Whether the session is over.
    pub fn has_ended(&self) -> bool {
        self.lock().ended
    }

    /// Who is woken by the next push, ping or close.
    pub fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Takes what is to be written next. What was taken before has been written, and counts no more.
    pub fn take(&self) -> Option<Outgoing> {
        let mut state = self.lock();
        let next = state.pop();
        state.in_hand = next.as_ref().map_or(0, |frame| frame.len() + FRAME_OVERHEAD_BYTES);
        self.count(&mut state);
        if let Some(frame) = next {
            if state.frames.is_empty() && state.frames.capacity() > KEPT_CAPACITY {
                state.frames = VecDeque::new();
            }
            return Some(Outgoing::Frame(frame));
        }
        if let Some(closing) = &state.closing {
            return Some(Outgoing::Close(closing.clone()));
        }
        std::mem::take(&mut state.ping).then_some(Outgoing::Ping)
    }

    /// The end that was asked for, for a socket that takes nothing any more.
    pub fn closing(&self) -> Option<Closing> {
        self.lock().closing.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the backlog what has changed.
    fn count(&self, state: &mut State) {
        let now = state.frames_bytes + state.in_hand;
        if now != state.held {
            self.backlog.change(state.held, now);
            state.held = now;
        }
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        self.end();
    }
}

impl State {
    fn pop(&mut self) -> Option<Bytes> {
        let waiting = self.frames.pop_front()?;
        self.bytes -= waiting.cost;
        self.frames_bytes -= waiting.bytes();
        Some(waiting.frame)
    }

    fn forget_frames(&mut self) {
        self.frames = VecDeque::new();
        (self.bytes, self.frames_bytes) = (0, 0);
    }
}

#[cfg(test)]
mod tests;

//! A session's bounded outgoing queue: pushed to from anywhere without waiting, emptied by the session's own task.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use futures_util::task::AtomicWaker;
use tokio_tungstenite::tungstenite::Utf8Bytes;

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
}

/// What the session's task has to write next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outgoing {
    /// A text frame.
    Frame(Utf8Bytes),
    /// A protocol ping.
    Ping,
    /// The last thing: a close frame.
    Close(Closing),
}

/// The queue. Frames of one pusher keep their order; a close comes after the frames pushed before it, but for a slow consumer, whose frames
/// are dropped.
#[derive(Default)]
pub(crate) struct Outlet {
    state: Mutex<State>,
    waker: AtomicWaker,
}

#[derive(Default)]
struct State {
    frames: VecDeque<Waiting>,
    bytes: usize,
    ping: bool,
    closing: Option<Closing>,
    ended: bool,
}

struct Waiting {
    frame: Utf8Bytes,
    cost: usize,
}

impl Outlet {
    /// Queues a frame; dropped silently once the session is closing or has ended.
    pub fn push(&self, frame: Utf8Bytes, limit: OutletLimit) {
        let cost = (frame.len() + FRAME_OVERHEAD_BYTES).min(limit.bytes_max / 2);
        let mut state = self.lock();
        if state.ended || state.closing.is_some() {
            return;
        }
        while !state.frames.is_empty() && state.bytes >= limit.bytes_max {
            match limit.policy {
                SlowConsumer::Close => {
                    metrics::counter!("plugsocket_slow_consumers_total", "policy" => "close").increment(1);
                    state.forget_frames();
                    let text = Cow::Borrowed("you do not read fast enough");
                    state.closing = Some(Closing { code: CloseCode::SlowConsumer, text });
                    drop(state);
                    self.waker.wake();
                    return;
                }
                SlowConsumer::DropOldest => {
                    metrics::counter!("plugsocket_frames_dropped_total", "reason" => "slow_consumer").increment(1);
                    let _ = state.pop();
                }
            }
        }
        state.bytes += cost;
        state.frames.push_back(Waiting { frame, cost });
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
            state.closing = Some(Closing { code, text: text.into() });
        }
        drop(state);
        self.waker.wake();
    }

    /// The session is over: nothing is kept from here on.
    pub fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        state.forget_frames();
    }

    /// Whether the session is over.
    pub fn has_ended(&self) -> bool {
        self.lock().ended
    }

    /// Who is woken by the next push, ping or close.
    pub fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Takes what is to be written next.
    pub fn take(&self) -> Option<Outgoing> {
        let mut state = self.lock();
        if let Some(frame) = state.pop() {
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
}

impl State {
    fn pop(&mut self) -> Option<Utf8Bytes> {
        let Waiting { frame, cost } = self.frames.pop_front()?;
        self.bytes -= cost;
        Some(frame)
    }

    fn forget_frames(&mut self) {
        self.frames = VecDeque::new();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(policy: SlowConsumer) -> OutletLimit {
        OutletLimit { bytes_max: 2 * (FRAME_OVERHEAD_BYTES + 1), policy }
    }

    fn push(outlet: &Outlet, text: &'static str, policy: SlowConsumer) {
        outlet.push(Utf8Bytes::from_static(text), limit(policy));
    }

    fn frame(text: &'static str) -> Option<Outgoing> {
        Some(Outgoing::Frame(Utf8Bytes::from_static(text)))
    }

    #[test]
    fn a_slow_consumer_is_closed_and_its_frames_are_dropped() {
        let outlet = Outlet::default();
        for text in ["1", "2", "3", "4"] {
            push(&outlet, text, SlowConsumer::Close);
        }
        let Some(Outgoing::Close(closing)) = outlet.take() else { panic!("no close") };
        assert_eq!(closing.code, CloseCode::SlowConsumer);
    }

    #[test]
    fn or_loses_its_oldest_frames() {
        let outlet = Outlet::default();
        for text in ["1", "2", "3"] {
            push(&outlet, text, SlowConsumer::DropOldest);
        }
        assert_eq!((outlet.take(), outlet.take(), outlet.take()), (frame("2"), frame("3"), None));
    }

    #[test]
    fn a_frame_over_the_limit_passes_while_little_waits() {
        let outlet = Outlet::default();
        push(&outlet, "1", SlowConsumer::Close);
        outlet.push("x".repeat(1000).into(), limit(SlowConsumer::Close));
        assert_eq!(outlet.take(), frame("1"));
        assert!(matches!(outlet.take(), Some(Outgoing::Frame(_))));
    }

    #[test]
    fn a_close_comes_after_earlier_frames_and_the_first_reason_stands() {
        let outlet = Outlet::default();
        push(&outlet, "1", SlowConsumer::Close);
        outlet.close(CloseCode::Application, "bye");
        outlet.close(CloseCode::Idle, "idle");
        push(&outlet, "2", SlowConsumer::Close);
        assert_eq!(outlet.take(), frame("1"));
        let Some(Outgoing::Close(closing)) = outlet.take() else { panic!("no close") };
        assert_eq!((closing.code, closing.text.as_ref()), (CloseCode::Application, "bye"));
    }
}

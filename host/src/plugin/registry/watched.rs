//! Counting what becomes of a version's calls, beside the calls themselves.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use arc_swap::ArcSwapOption;
use plugsocket_plugin::call::{Operation, Status};
use tokio::sync::Notify;

use crate::plugin::blame::Subject;
use crate::plugin::{Answer, Call, CallError, Callee};

/// What became of the calls of one version, of all its instances.
#[derive(Debug, Default)]
pub(super) struct Tally {
    calls: AtomicU64,
    quiet_turns: AtomicU64,
    errors: AtomicU64,
    timeouts: AtomicU64,
    crashes: AtomicU64,
    in_flight: AtomicU64,
    /// Set while somebody judges by these numbers: told of everything that went wrong.
    is_judged: AtomicBool,
    is_following: AtomicBool,
    followed: ArcSwapOption<Followed>,
    wake: Arc<Notify>,
}

/// The numbers at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    pub(super) calls: u64,
    /// Those of them that were turns of `on_loop` and ended well: many, and no sign that clients are served well.
    pub(super) quiet_turns: u64,
    pub(super) errors: u64,
    pub(super) timeouts: u64,
    pub(super) crashes: u64,
    pub(super) in_flight: u64,
}

/// A message whose end on this version somebody waits for.
#[derive(Debug)]
struct Followed {
    message_id: String,
    has_crashed: AtomicBool,
    has_ended: AtomicBool,
}

/// How a followed message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FollowedEnd {
    Crashed,
    Otherwise,
}

impl Tally {
    /// `wake` is told of what goes wrong while [`Self::judge`] is on, and of the end of a followed message.
    pub(super) fn new(wake: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self { wake, ..Self::default() })
    }

    pub(super) fn counts(&self) -> Counts {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Counts {
            calls: read(&self.calls),
            quiet_turns: read(&self.quiet_turns),
            errors: read(&self.errors),
            timeouts: read(&self.timeouts),
            crashes: read(&self.crashes),
            in_flight: read(&self.in_flight),
        }
    }

    pub(super) fn judge(&self, is_judged: bool) {
        self.is_judged.store(is_judged, Ordering::Relaxed);
    }

    /// One that no call was told of.
    pub(super) fn add_crash(&self) {
        self.crashes.fetch_add(1, Ordering::Relaxed);
    }

    /// From now on looks for calls of this message.
    pub(super) fn follow(&self, message_id: &str) {
        let followed =
            Followed { message_id: message_id.to_owned(), has_crashed: AtomicBool::new(false), has_ended: AtomicBool::new(false) };
        self.followed.store(Some(Arc::new(followed)));
        self.is_following.store(true, Ordering::Release);
    }

    pub(super) fn unfollow(&self) {
        self.is_following.store(false, Ordering::Release);
        self.followed.store(None);
    }

    pub(super) fn followed_end(&self) -> Option<FollowedEnd> {
        let followed = self.followed.load();
        let followed = followed.as_ref().filter(|followed| followed.has_ended.load(Ordering::Acquire))?;
        Some(if followed.has_crashed.load(Ordering::Relaxed) { FollowedEnd::Crashed } else { FollowedEnd::Otherwise })
    }

    fn note(&self, result: &Result<Answer, CallError>, is_turn: bool) {
        let is_bad = match result {
            Ok(answer) if matches!(answer.status, Status::Retry | Status::Panicked) => {
                self.errors.fetch_add(1, Ordering::Relaxed);
                true
            }
            Ok(_) => false,
            // It did not run, or another is to blame: it comes again.
            Err(
                CallError::Interrupted { .. } | CallError::Late | CallError::NotBegun | CallError::Overloaded | CallError::Unavailable(_),
            ) => return,
            Err(CallError::TimedOut) => {
                self.timeouts.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(CallError::Crashed(_)) => {
                self.crashes.fetch_add(1, Ordering::Relaxed);
                self.errors.fetch_add(1, Ordering::Relaxed);
                true
            }
            Err(CallError::Gone(_)) => {
                self.errors.fetch_add(1, Ordering::Relaxed);
                true
            }
        };
        self.calls.fetch_add(1, Ordering::Relaxed);
        if is_turn && !is_bad {
            self.quiet_turns.fetch_add(1, Ordering::Relaxed);
        }
        if is_bad && self.is_judged.load(Ordering::Relaxed) {
            self.wake.notify_one();
        }
    }

    /// The followed message, when this is a call of it.
    fn recognize(&self, call: &Call) -> Option<Arc<Followed>> {
        let followed = self.followed.load_full()?;
        (Subject::of(call.operation, &call.input).message_id == followed.message_id).then_some(followed)
    }

    fn note_followed(&self, followed: &Followed, result: &Result<Answer, CallError>) {
        let is_undecided = matches!(
            result,
            Err(CallError::Interrupted { .. } | CallError::Late | CallError::NotBegun | CallError::Overloaded | CallError::Unavailable(_))
        );
        if !is_undecided {
            followed.has_crashed.store(matches!(result, Err(CallError::Crashed(_))), Ordering::Relaxed);
            followed.has_ended.store(true, Ordering::Release);
            self.wake.notify_one();
        }
    }
}

/// An instance whose calls are counted.
pub(super) struct Watched {
    callee: Arc<dyn Callee>,
    tally: Arc<Tally>,
}

impl Watched {
    pub(super) fn new(callee: Arc<dyn Callee>, tally: Arc<Tally>) -> Self {
        Self { callee, tally }
    }
}

/// As `async_trait` has it.
type Answering<'call> = Pin<Box<dyn Future<Output = Result<Answer, CallError>> + Send + 'call>>;

// Written out: `async_trait` would carry the whole call in a second box.
impl Callee for Watched {
    fn call<'callee, 'call>(&'callee self, call: Call) -> Answering<'call>
    where
        'callee: 'call,
        Self: 'call,
    {
        let followed = if self.tally.is_following.load(Ordering::Acquire) { self.tally.recognize(&call) } else { None };
        let is_turn = call.operation == Operation::Loop;
        Box::pin(Counted { is_turn, answering: self.callee.call(call), counting: Counting::begin(&self.tally), followed })
    }

    fn ends_calls(&self) -> bool {
        self.callee.ends_calls()
    }
}

struct Counted<'call> {
    is_turn: bool,
    answering: Answering<'call>,
    counting: Counting<'call>,
    followed: Option<Arc<Followed>>,
}

impl Future for Counted<'_> {
    type Output = Result<Answer, CallError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let result = std::task::ready!(self.answering.as_mut().poll(context));
        self.counting.tally.note(&result, self.is_turn);
        if let Some(followed) = &self.followed {
            self.counting.tally.note_followed(followed, &result);
        }
        Poll::Ready(result)
    }
}

/// A call that has begun; over when dropped, as by somebody who gave up.
struct Counting<'call> {
    tally: &'call Tally,
}

impl<'call> Counting<'call> {
    fn begin(tally: &'call Tally) -> Self {
        tally.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { tally }
    }
}

impl Drop for Counting<'_> {
    fn drop(&mut self) {
        self.tally.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;

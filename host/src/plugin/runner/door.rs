//! What a plugin asks of its host from within a runner, and the threads that wait for the answers.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use plugsocket_plugin::call::{HostOperation, Status};

use super::crew::Runner;
use super::faults;
use crate::plugin::Answer;
use crate::plugin::frames::{Head, Kind};
use crate::plugin::library::Host;
use crate::plugin::pool::{CALL_IS_OVER, OUTSIDE_OF_CALLS};

/// Longest request of a plugin; the queue takes less.
const REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;

thread_local! {
    /// How long this thread has waited for the host since somebody asked.
    static WAITED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// How long this thread has waited for the host since it was last asked.
pub(super) fn take_waited() -> Duration {
    WAITED.take()
}

/// The requests that are under way.
pub(super) struct Door {
    next: AtomicU64,
    waiters: Mutex<HashMap<u64, Arc<Waiter>>>,
}

/// A thread that waits for a response.
pub(super) struct Waiter {
    call: u64,
    answer: Mutex<Option<Answer>>,
    wake: Condvar,
}

impl Door {
    pub(super) fn new() -> Self {
        Self { next: AtomicU64::new(1), waiters: Mutex::default() }
    }

    fn waiters(&self) -> MutexGuard<'_, HashMap<u64, Arc<Waiter>>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(&self, call: u64) -> (u64, Arc<Waiter>) {
        let request = self.next.fetch_add(1, Ordering::Relaxed);
        let waiter = Arc::new(Waiter { call, answer: Mutex::default(), wake: Condvar::new() });
        self.waiters().insert(request, Arc::clone(&waiter));
        (request, waiter)
    }

    /// Nobody answers the requests of a call any more.
    pub(super) fn give_up(&self, call: u64) {
        let waiters: Vec<_> = self.waiters().extract_if(|_, waiter| waiter.call == call).collect();
        for (_, waiter) in waiters {
            waiter.respond(Answer::retry(CALL_IS_OVER));
        }
    }

    pub(super) fn respond(&self, request: u64, answer: Answer) {
        let waiter = self.waiters().remove(&request);
        if let Some(waiter) = waiter {
            waiter.respond(answer);
        }
    }
}

impl Waiter {
    fn answer(&self) -> MutexGuard<'_, Option<Answer>> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn respond(&self, answer: Answer) {
        *self.answer() = Some(answer);
        self.wake.notify_one();
    }

    /// The answer, if it is there.
    pub(super) fn take(&self) -> Option<Answer> {
        self.answer().take()
    }

    fn wait(&self) -> Answer {
        let mut answer = self.answer();
        loop {
            if let Some(answer) = answer.take() {
                return answer;
            }
            // Never for ever: without its host the process ends.
            answer = self.wake.wait(answer).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Host for Runner {
    fn invoke(&self, token: u64, operation: u32, input: Bytes) -> Answer {
        let Ok(operation) = HostOperation::try_from(operation) else {
            return Answer { status: Status::Unsupported, bytes: Bytes::new() };
        };
        if faults::is_copy() {
            return Answer::retry(OUTSIDE_OF_CALLS);
        }
        if input.len() > REQUEST_BYTES_MAX {
            return Answer::retry(format!("a request has {REQUEST_BYTES_MAX} bytes at most, this one has {}", input.len()));
        }
        if operation == HostOperation::Log {
            self.out.send(Head::of(Kind::Log), &input);
            return Answer { status: Status::Done, bytes: Bytes::new() };
        }
        if token == 0 {
            return Answer::retry(OUTSIDE_OF_CALLS);
        }
        let (request, waiter) = self.door.admit(token);
        self.out.send(Head { kind: Kind::Request, code: operation as u8, number: token, request }, &input);
        let asked = Instant::now();
        let answer = self.read_for(&waiter).unwrap_or_else(|| waiter.wait());
        WAITED.set(WAITED.get() + asked.elapsed());
        answer
    }
}

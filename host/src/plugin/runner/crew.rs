//! The threads of a runner. One of them, the leader, reads what the host writes, and runs the calls it has read itself, one after the
//! other: no thread is woken for them. Others help when the calls take long, and one leads on when the leader does not come back from a
//! call.

use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use plugsocket_plugin::call::{Operation, Status};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::door::{Door, Waiter, take_waited};
use super::out::Out;
use super::waiting::{Waiting, Work};
use super::{READ_BYTES, faults};
use crate::plugin::Answer;
use crate::plugin::alarm::Alarm;
use crate::plugin::crumbs::{Crumbs, LAST_MAX};
use crate::plugin::frames::{Frame, Head, Kind, take};
use crate::plugin::pace::{Pace, TURN, TURN_MAX};
use crate::plugin::pool::Subject;

/// Answers that are not written yet; of older ones the crumbs know no more.
const UNWRITTEN_MAX: usize = LAST_MAX - 1;

/// Everything that the threads share.
pub(super) struct Runner {
    pub(super) out: &'static Out,
    pub(super) door: Door,
    crumbs: &'static Crumbs,
    /// Calls that may run at once: one less than there are threads.
    calls_max: usize,
    pace: Pace,
    alarm: Option<Alarm>,
    socket: &'static UnixStream,
    reading: Mutex<Reading>,
    state: Mutex<State>,
    wake: Condvar,
}

/// The leader's, as long as it reads.
struct Reading {
    chunk: Vec<u8>,
    input: BytesMut,
}

#[derive(Default)]
struct State {
    waiting: Waiting,
    running: usize,
    leader: Option<usize>,
    /// Since when the leader runs calls and does not read.
    turn: Option<Instant>,
    /// Threads that have nothing to do, and how many of them have been called to help.
    resting: usize,
    called: usize,
    is_closed: bool,
}

impl State {
    fn is_over(&self) -> bool {
        self.is_closed && self.waiting.is_empty() && self.running == 0
    }
}

/// How a call ended.
#[derive(Clone, Copy)]
struct Ended {
    at: Instant,
    /// Those behind it may begin.
    goes_on: bool,
}

/// Why a thread serves no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// All is done.
    Over,
    /// No call comes any more, and as long as some run it is this thread that reads.
    Reading,
}

impl Runner {
    pub(super) fn new(socket: &'static UnixStream, input: BytesMut, out: &'static Out, crumbs: &'static Crumbs, calls_max: usize) -> Self {
        Self {
            out,
            door: Door::new(),
            crumbs,
            calls_max: calls_max.max(1),
            pace: Pace::default(),
            alarm: Alarm::new(),
            socket,
            reading: Mutex::new(Reading { chunk: vec![0; READ_BYTES], input }),
            state: Mutex::default(),
            wake: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One thread's life, until the host wants the end and all calls have theirs.
    pub(super) fn serve(&self, thread: usize, subject: &impl Subject) -> Left {
        let mut state = self.lock();
        loop {
            if state.is_over() {
                self.wake.notify_all();
                return Left::Over;
            }
            if state.leader.is_none() {
                state.leader = Some(thread);
                drop(state);
                if self.lead(thread, subject) {
                    return Left::Reading;
                }
                state = self.lock();
            } else if let Some(work) = self.begin(&mut state, thread) {
                drop(state);
                let ended = self.run(thread, subject, &work, Instant::now());
                state = self.end(ended, work.number);
                drop(state);
                self.out.flush();
                state = self.lock();
            } else {
                state = self.rest(state);
            }
        }
    }

    fn rest<'state>(&'state self, mut state: MutexGuard<'state, State>) -> MutexGuard<'state, State> {
        state.resting += 1;
        loop {
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            if state.called > 0 {
                state.called -= 1;
                break;
            }
            if state.leader.is_none() || state.is_over() {
                break;
            }
        }
        state.resting -= 1;
        state
    }

    /// Wakes threads that rest; answers how many come.
    fn call_help(&self, state: &mut State, wanted: usize) -> usize {
        let helpers = wanted.min(state.resting - state.called).min(self.calls_max.saturating_sub(state.running));
        state.called += helpers;
        (0..helpers).for_each(|_| self.wake.notify_one());
        helpers
    }

    fn begin(&self, state: &mut State, thread: usize) -> Option<Work> {
        if state.running >= self.calls_max {
            return None; // Who ends one takes the next.
        }
        let work = state.waiting.pop()?;
        state.running += 1;
        // Within the lock: from here on it can't be withdrawn any more.
        self.crumbs.note(thread, work.number);
        Some(work)
    }

    /// Runs a call; its answer is to be flushed.
    fn run(&self, thread: usize, subject: &impl Subject, work: &Work, began: Instant) -> Ended {
        let answer = subject.call(work.number, work.operation, &work.input);
        if faults::is_copy() {
            faults::end(0); // It must neither answer nor read what is written to its original.
        }
        let at = Instant::now();
        let took = at.duration_since(began);
        let goes_on = work.lets_others_begin(&answer, took, at);
        // One that ends this process must not take along the answer of the one before it: that would have to run again behind it.
        let has_behind = goes_on && self.lock().waiting.has_behind(work.number);
        let put = if has_behind { Out::put_kept } else { Out::put };
        put(self.out, Head::call(Kind::Answer, answer.status as u8, work.number), &answer.bytes);
        // Not sooner: the host finds a call either here or in its answer. As long as that is not written, it is one of those begun last.
        self.crumbs.note(thread, 0);
        self.pace.note(took.saturating_sub(take_waited()));
        Ended { at, goes_on }
    }

    /// A call has ended: what is behind it is next, or is given back.
    fn end(&self, ended: Ended, number: u64) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        let rest = state.waiting.end(number, ended.goes_on);
        if !rest.is_empty() {
            drop(state);
            self.give_back(&rest);
            state = self.lock();
        }
        state.running -= 1;
        state
    }

    /// Tells the host of calls that will never begin; to be flushed.
    fn give_back<'work>(&self, works: impl IntoIterator<Item = &'work Work>) {
        for work in works {
            self.out.put(Head::call(Kind::NotBegun, 0, work.number), &[]);
        }
    }

    /// Reads, and runs what is not too much for one thread. Answers whether the host has closed; otherwise another thread leads now.
    fn lead(&self, thread: usize, subject: &impl Subject) -> bool {
        self.hear(); // What came with the greeting.
        loop {
            let mut state = self.lock();
            let waiting = state.waiting.len();
            if state.is_closed {
                self.call_help(&mut state, waiting);
                self.wake.notify_all();
                return true;
            }
            let calls = state.waiting.calls();
            let helpers = self.call_help(&mut state, self.pace.helpers(calls).min(waiting));
            if waiting <= helpers || state.running + helpers >= self.calls_max {
                drop(state);
                self.read(RecvFlags::empty());
            } else if self.set_alarm(TURN_MAX) {
                if !self.take_turn(state, thread, subject) {
                    return false;
                }
                let has_more = {
                    let state = self.lock();
                    !state.waiting.is_empty() && state.running < self.calls_max || state.is_closed
                };
                if has_more {
                    self.read(RecvFlags::DONTWAIT);
                } else {
                    self.set_alarm(Duration::ZERO);
                    self.read(RecvFlags::empty());
                }
            } else {
                // Nobody would come if it did not come back from a call.
                self.call_help(&mut state, waiting);
                drop(state);
                self.read(RecvFlags::empty());
            }
        }
    }

    /// Runs calls for a while. Whether it still leads then.
    fn take_turn<'state>(&'state self, mut state: MutexGuard<'state, State>, thread: usize, subject: &impl Subject) -> bool {
        let began = Instant::now();
        state.turn = Some(began);
        let mut now = began;
        for _ in 0..UNWRITTEN_MAX {
            if now.duration_since(began) > TURN {
                break;
            }
            let Some(work) = self.begin(&mut state, thread) else { break };
            drop(state);
            let ended = self.run(thread, subject, &work, now);
            now = ended.at;
            state = self.end(ended, work.number);
            if state.leader != Some(thread) {
                break;
            }
        }
        let leads = state.leader == Some(thread);
        if leads {
            state.turn = None;
        }
        drop(state);
        self.out.flush();
        leads
    }

    fn set_alarm(&self, after: Duration) -> bool {
        self.alarm.as_ref().is_some_and(|alarm| alarm.set(after))
    }

    /// Whether there is anything for [`Self::watch`] to do.
    pub(super) fn has_alarm(&self) -> bool {
        self.alarm.is_some()
    }

    /// The life of the thread that has another one lead when the leader is in a call for too long.
    pub(super) fn watch(&self) {
        while self.alarm.as_ref().is_some_and(Alarm::wait) {
            let mut state = self.lock();
            let Some(since) = state.turn else { continue };
            // It may ring for a turn that has only just begun: a thread can lose the processor between setting it and beginning.
            if since.elapsed() <= TURN && self.set_alarm(TURN_MAX) {
                continue;
            }
            self.depose(&mut state);
            self.pace.note_slow();
            drop(state);
            self.out.flush();
        }
    }

    fn depose(&self, state: &mut State) {
        (state.leader, state.turn) = (None, None);
        self.wake.notify_one(); // One rests, or is on its way: there is one more than there may be in calls.
    }

    /// When this is the leader's own request, it reads until that is answered. `None` on any other thread.
    pub(super) fn read_for(&self, waiter: &Waiter) -> Option<Answer> {
        let thread = faults::thread();
        let mut state = self.lock();
        if thread == 0 || state.leader != Some(thread) {
            return None;
        }
        state.turn = None;
        drop(state);
        self.set_alarm(Duration::ZERO);
        loop {
            if let Some(answer) = waiter.take() {
                let mut state = self.lock();
                state.turn = Some(Instant::now());
                // Within the lock: whoever hears it finds the turn.
                if !self.set_alarm(TURN_MAX) {
                    self.depose(&mut state);
                }
                return Some(answer);
            }
            let mut state = self.lock();
            let waiting = state.waiting.len();
            self.call_help(&mut state, waiting);
            drop(state);
            self.read(RecvFlags::empty());
        }
    }

    /// Reads until the process ends.
    pub(super) fn read_on(&self) -> ! {
        loop {
            self.read(RecvFlags::empty());
        }
    }

    /// Reads what the host writes, and does what it says; calls wait then. The leader's, and nobody else's.
    fn read(&self, flags: RecvFlags) {
        let mut reading = self.reading();
        let Reading { chunk, input } = &mut *reading;
        match recv(self.socket, chunk.as_mut_slice(), flags) {
            Ok((count, _)) if count > 0 => input.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            Err(Errno::AGAIN | Errno::INTR) => return,
            Ok(_) | Err(_) => faults::end(0), // The host is gone, and a runner ends with its host.
        }
        self.take_in(input);
    }

    fn hear(&self) {
        self.take_in(&mut self.reading().input);
    }

    fn take_in(&self, input: &mut BytesMut) {
        loop {
            match take(input) {
                Ok(Some(frame)) => self.obey(frame),
                Ok(None) => return self.out.flush(), // What was given back at once.
                // Nothing that follows can be understood.
                Err(_) => faults::end(1),
            }
        }
    }

    fn reading(&self) -> MutexGuard<'_, Reading> {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn obey(&self, frame: Frame) {
        match frame.kind {
            Kind::Call => {
                let Ok(operation) = Operation::try_from(u32::from(frame.code)) else { return };
                let work = Work::new(frame.number, operation, frame.payload);
                // The host bounds what it sends.
                let refused = self.lock().waiting.push(work, frame.request);
                if let Err(work) = refused {
                    self.give_back([&work]);
                }
            }
            Kind::Cancel => {
                let rest = self.lock().waiting.withdraw(frame.number);
                self.give_back(&rest);
                let is_running = self.crumbs.calls().contains(&frame.number);
                let kind = if is_running { Kind::Running } else { Kind::Cancelled };
                self.out.send(Head::call(kind, 0, frame.number), &[]);
                self.door.give_up(frame.number);
            }
            Kind::Response => {
                let Ok(status) = Status::try_from(frame.code) else { return };
                self.door.respond(frame.request, Answer { status, bytes: frame.payload });
            }
            Kind::Close => self.lock().is_closed = true,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;

//! What the runner writes: whoever has something to say says it, and whatever others have said meanwhile.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use super::faults;
use crate::plugin::crumbs::Crumbs;
use crate::plugin::frames::{Head, frame_bytes};

/// Unwritten bytes at which threads wait for the host to read.
const WAITING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Unwritten bytes at which it is time to write.
const BATCH_BYTES: usize = 64 * 1024;

/// The socket's writing side.
pub(super) struct Out {
    socket: &'static UnixStream,
    state: Mutex<State>,
    written: Condvar,
    /// Where some of what was put is kept until it is written.
    keeper: OnceLock<&'static Crumbs>,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// Empty, and kept for its room.
    spare: Vec<u8>,
    is_writing: bool,
}

impl Out {
    pub(super) fn new(socket: &'static UnixStream) -> Self {
        Self { socket, state: Mutex::default(), written: Condvar::new(), keeper: OnceLock::new() }
    }

    /// From now on what is put is kept there, for a host that finds this process ended.
    pub(super) fn keep_at(&self, crumbs: &'static Crumbs) {
        let _ = self.keeper.set(crumbs);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, head: Head, payload: &[u8]) -> MutexGuard<'_, State> {
        let mut state = self.lock();
        while state.is_writing && state.waiting.len() > WAITING_BYTES_MAX {
            state = self.written.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        head.put(&mut state.waiting, payload);
        state
    }

    /// Writes a frame, or leaves it to the thread that is writing. A host that can't be written to is gone, and the process ends.
    pub(super) fn send(&self, head: Head, payload: &[u8]) {
        self.write(self.add(head, payload));
    }

    /// Has a frame written with the next one that is sent, or by [`Self::flush`], unless there is much to write already.
    pub(super) fn put(&self, head: Head, payload: &[u8]) {
        let state = self.add(head, payload);
        if state.waiting.len() > BATCH_BYTES {
            self.write(state);
        }
    }

    /// As [`Self::put`], and until it is written it is kept for a host that finds this process ended. Without room for that, it is written when this
    /// returns.
    pub(super) fn put_kept(&self, head: Head, payload: &[u8]) {
        let state = self.add(head, payload);
        let begin = state.waiting.len() - frame_bytes(payload);
        let is_kept = self.keeper.get().is_some_and(|keeper| keeper.keep(&state.waiting[begin..]));
        if !is_kept {
            drop(state);
            self.finish();
        }
    }

    /// Writes what was put.
    pub(super) fn flush(&self) {
        self.write(self.lock());
    }

    fn write<'out>(&'out self, mut state: MutexGuard<'out, State>) {
        if state.is_writing || state.waiting.is_empty() {
            return;
        }
        state.is_writing = true;
        let mut batch = std::mem::take(&mut state.spare);
        while !state.waiting.is_empty() {
            std::mem::swap(&mut batch, &mut state.waiting);
            drop(state);
            if { self.socket }.write_all(&batch).is_err() {
                faults::end(1);
            }
            batch.clear();
            batch.shrink_to(2 * BATCH_BYTES);
            state = self.lock();
            self.written.notify_all();
        }
        if let Some(keeper) = self.keeper.get() {
            keeper.let_go();
        }
        state.spare = batch;
        state.is_writing = false;
        self.written.notify_all();
    }

    /// Writes all that was said, or waits until it is written.
    pub(super) fn finish(&self) {
        self.flush();
        let mut state = self.lock();
        while state.is_writing {
            state = self.written.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

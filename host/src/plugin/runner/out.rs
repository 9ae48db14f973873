//! What the runner writes: whoever has something to say says it, and whatever others have said meanwhile.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, PoisonError};

use super::faults;
use crate::plugin::frames::Head;

/// Unwritten bytes at which threads wait for the host to read.
const WAITING_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The socket's writing side.
pub(super) struct Out {
    socket: &'static UnixStream,
    state: Mutex<State>,
    written: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    is_writing: bool,
}

impl Out {
    pub(super) fn new(socket: &'static UnixStream) -> Self {
        Self { socket, state: Mutex::default(), written: Condvar::new() }
    }

    /// Writes a frame, or leaves it to the thread that is writing. A host that can't be written to is gone, and the process ends.
    pub(super) fn send(&self, head: Head, payload: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.is_writing && state.waiting.len() > WAITING_BYTES_MAX {
            state = self.written.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        head.put(&mut state.waiting, payload);
        if state.is_writing {
            return;
        }
        state.is_writing = true;
        let mut batch = Vec::new();
        while !state.waiting.is_empty() {
            std::mem::swap(&mut batch, &mut state.waiting);
            drop(state);
            if { self.socket }.write_all(&batch).is_err() {
                faults::end(1);
            }
            batch.clear();
            state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            self.written.notify_all();
        }
        state.is_writing = false;
        self.written.notify_all();
    }

    /// Waits until all that was said is written.
    pub(super) fn finish(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.is_writing {
            state = self.written.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

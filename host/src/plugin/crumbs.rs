//! Breadcrumbs: memory that a runner shares with its host, where each thread notes the call it is in. Readable when the runner is dead.
#![allow(unsafe_code)] // Mapping memory and looking at it as atomics; each block states why it may.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A few lines of the processor's cache for each thread, and no thread writes into another's.
const SLOT_BYTES: usize = 512;
/// What is kept begins at a multiple of this.
pub(super) const WORD_BYTES: usize = size_of::<u64>();
/// The words of a slot: the call that the thread is in, how many it has begun, and the numbers of the last of them.
const BEGUN_WORD: usize = 1;
const FIRST_LAST_WORD: usize = 2;
/// So many of the calls that a thread has begun last are known. It must not have more of them whose answers are not written yet.
pub(super) const LAST_MAX: usize = SLOT_BYTES / WORD_BYTES - FIRST_LAST_WORD;

/// Room for answers that are not written yet.
const KEPT_BYTES: usize = 128 * 1024;

/// The mapped memory: one slot for the fault, then one for each thread, with the call it is in and those it has begun last; then answers that are
/// not written to the socket yet: a call that ends the process must not take those with it that have ended before.
pub(super) struct Crumbs {
    base: NonNull<u8>,
    threads: usize,
}

// SAFETY: the memory is only ever used as atomics.
unsafe impl Send for Crumbs {}
// SAFETY: as for `Send`.
unsafe impl Sync for Crumbs {}

/// What ended a runner, as noted by the thread that did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    /// The call that the thread was in; `None` for a thread that the plugin has started, or one that was in no call.
    pub(super) call: Option<u64>,
}

impl Crumbs {
    /// Fresh memory for the calls of `threads` threads, and the descriptor to give to the runner.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn create(threads: usize) -> io::Result<(Self, OwnedFd)> {
        let memory = memory(bytes_of(threads))?;
        Ok((Self::open(&memory, threads)?, memory))
    }

    /// The memory behind a descriptor that [`Self::create`] has made for as many threads.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn open(memory: impl AsFd, threads: usize) -> io::Result<Self> {
        let flags = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the system's choice overlaps nothing of ours. Its size is sealed on Linux, so that
        // nobody can cut it off under us.
        let base = unsafe { mmap(ptr::null_mut(), bytes_of(threads), flags, MapFlags::SHARED, memory, 0) }?;
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at null"))?;
        Ok(Self { base, threads })
    }

    fn slot(&self, index: usize) -> Option<&AtomicU64> {
        self.word(index, 0)
    }

    /// One of the calls that a thread has begun last: the one that was its `begun`th.
    fn last(&self, index: usize, begun: u64) -> Option<&AtomicU64> {
        let place = usize::try_from(begun % LAST_MAX as u64).ok()?;
        self.word(index, FIRST_LAST_WORD + place)
    }

    fn word(&self, index: usize, word: usize) -> Option<&AtomicU64> {
        if index > self.threads || word >= SLOT_BYTES / WORD_BYTES {
            return None;
        }
        // SAFETY: the mapping has `threads + 1` slots and lives as long as `self`; it is aligned to a page, so each word is to 8 bytes;
        // both sides use it as atomics only.
        Some(unsafe { &*self.base.as_ptr().add(index * SLOT_BYTES + word * WORD_BYTES).cast::<AtomicU64>() })
    }

    /// The words for kept answers: how many of them are in use, then these.
    fn kept_word(&self, word: usize) -> Option<&AtomicU64> {
        if word > KEPT_BYTES / WORD_BYTES {
            return None;
        }
        let offset = (self.threads + 1) * SLOT_BYTES + word * WORD_BYTES;
        // SAFETY: these words lie behind the slots, and `bytes_of` counts them; otherwise as in `word`.
        Some(unsafe { &*self.base.as_ptr().add(offset).cast::<AtomicU64>() })
    }

    /// Keeps bytes behind those that are kept, each time from a word's beginning: zeros fill the one before. One thread at a time. False without room.
    pub(super) fn keep(&self, bytes: &[u8]) -> bool {
        let Some(length) = self.kept_word(0) else { return false };
        let begin = usize::try_from(length.load(Ordering::Relaxed)).unwrap_or(usize::MAX);
        let words = bytes.len().div_ceil(WORD_BYTES);
        if begin.saturating_add(words) > KEPT_BYTES / WORD_BYTES {
            return false;
        }
        for (place, chunk) in bytes.chunks(WORD_BYTES).enumerate() {
            let mut word = [0; WORD_BYTES];
            word[..chunk.len()].copy_from_slice(chunk);
            if let Some(kept) = self.kept_word(1 + begin + place) {
                kept.store(u64::from_le_bytes(word), Ordering::Relaxed);
            }
        }
        length.store((begin + words) as u64, Ordering::Release); // Not sooner: whoever reads it finds the bytes.
        true
    }

    /// Everything that was kept has been written.
    pub(super) fn let_go(&self) {
        if let Some(length) = self.kept_word(0) {
            length.store(0, Ordering::Relaxed);
        }
    }

    /// What is kept. To be asked for when the runner has ended.
    pub(super) fn kept(&self) -> Vec<u8> {
        let words = self.kept_word(0).map_or(0, |length| usize::try_from(length.load(Ordering::Acquire)).unwrap_or(usize::MAX));
        let words = (1..=words.min(KEPT_BYTES / WORD_BYTES)).filter_map(|word| self.kept_word(word));
        words.flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect()
    }

    /// Notes that the thread `thread` (from 1) is in the call `call`; 0 = in none.
    pub(super) fn note(&self, thread: usize, call: u64) {
        let (Some(slot), Some(begun)) = (self.slot(thread).filter(|_| thread > 0), self.word(thread, BEGUN_WORD)) else { return };
        slot.store(call, Ordering::Release);
        if call != 0 {
            let number = begun.load(Ordering::Relaxed); // Only this thread writes it.
            if let Some(last) = self.last(thread, number) {
                last.store(call, Ordering::Release);
            }
            begun.store(number.wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// Where [`Self::fault`] is noted: the number of the faulting thread, plus 1. For a signal handler, that may do nothing but this.
    pub(super) fn fault_note(&self) -> Option<&AtomicU64> {
        self.slot(0)
    }

    /// The calls that threads are in.
    pub(super) fn calls(&self) -> Vec<u64> {
        let calls = (1..=self.threads).filter_map(|thread| self.slot(thread)).map(|slot| slot.load(Ordering::Acquire));
        calls.filter(|call| *call != 0).collect()
    }

    /// The calls that threads have begun last: those they are in, or that have ended and of which nobody may have heard.
    pub(super) fn begun(&self) -> Vec<u64> {
        let lasts = (1..=self.threads).flat_map(|thread| (0..LAST_MAX as u64).filter_map(move |begun| self.last(thread, begun)));
        lasts.map(|last| last.load(Ordering::Acquire)).filter(|call| *call != 0).collect()
    }

    /// What ended the runner; `None` when no thread could note it, as when it was killed.
    pub(super) fn fault(&self) -> Option<Fault> {
        let noted = usize::try_from(self.slot(0)?.load(Ordering::Acquire)).ok()?;
        let thread = noted.checked_sub(1)?;
        let call = self.slot(thread).filter(|_| thread > 0).map(|slot| slot.load(Ordering::Acquire)).filter(|call| *call != 0);
        Some(Fault { call })
    }
}

impl Drop for Crumbs {
    fn drop(&mut self) {
        // SAFETY: mapped by `open` with this size, and nobody borrows from it any more.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), bytes_of(self.threads)) };
    }
}

fn bytes_of(threads: usize) -> usize {
    (threads + 1) * SLOT_BYTES + WORD_BYTES + KEPT_BYTES
}

#[cfg(target_os = "linux")]
fn memory(bytes: usize) -> io::Result<OwnedFd> {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
    let memory = memfd_create("plugsocket-crumbs", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ftruncate(&memory, bytes as u64)?;
    fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(memory)
}

#[cfg(not(target_os = "linux"))]
fn memory(bytes: usize) -> io::Result<OwnedFd> {
    let file = tempfile::tempfile()?;
    file.set_len(bytes as u64)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_see_the_calls_and_the_fault() {
        let (host, memory) = Crumbs::create(3).unwrap();
        let runner = Crumbs::open(&memory, 3).unwrap();
        assert_eq!((host.calls(), host.fault()), (vec![], None));
        runner.note(1, 7);
        runner.note(3, 9);
        runner.note(4, 1); // There is no such thread.
        assert_eq!(host.calls(), [7, 9]);
        runner.fault_note().unwrap().store(3 + 1, Ordering::Release);
        assert_eq!(host.fault(), Some(Fault { call: Some(9) }));
        runner.note(3, 0);
        assert_eq!(host.fault(), Some(Fault { call: None }));
        runner.fault_note().unwrap().store(1, Ordering::Release);
        assert_eq!(host.fault(), Some(Fault { call: None }), "a thread of the plugin's own");
        runner.fault_note().unwrap().store(u64::MAX, Ordering::Release);
        assert_eq!(host.fault(), Some(Fault { call: None }), "overwritten by the plugin");
        assert_eq!((host.calls(), host.begun()), (vec![7], vec![7, 9]));
    }

    #[test]
    fn what_is_kept_is_found_until_it_is_let_go() {
        let (host, memory) = Crumbs::create(2).unwrap();
        let runner = Crumbs::open(&memory, 2).unwrap();
        assert!(host.kept().is_empty());
        assert!(runner.keep(b"123456789") && runner.keep(b"abcdefgh"));
        assert_eq!(host.kept(), b"123456789\0\0\0\0\0\0\0abcdefgh");
        assert!(!runner.keep(&[1; KEPT_BYTES]), "there is no room for so much");
        runner.let_go();
        assert!(runner.keep(&[1; KEPT_BYTES]) && !runner.keep(b"x"));
        assert_eq!(host.kept(), [1; KEPT_BYTES]);
        runner.note(2, 7);
        assert_eq!((host.calls(), runner.kept_word(1 + KEPT_BYTES / WORD_BYTES).is_none()), (vec![7], true));
    }

    #[test]
    fn the_calls_begun_last_are_known_and_no_older_ones() {
        let (host, memory) = Crumbs::create(2).unwrap();
        let runner = Crumbs::open(&memory, 2).unwrap();
        let last = LAST_MAX as u64;
        for call in 1..=last + 3 {
            runner.note(1, call);
            runner.note(1, 0);
        }
        runner.note(2, 1000);
        let mut begun = host.begun();
        begun.sort_unstable();
        assert_eq!(begun, (4..=last + 3).chain([1000]).collect::<Vec<_>>());
        assert_eq!(host.calls(), [1000]);
    }
}

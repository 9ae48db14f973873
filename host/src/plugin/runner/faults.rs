//! What a runner does with raw system calls: at its start it lets go of what it should not have, in its last moment it notes the thread
//! that a fatal signal, or the plugin's `exit`, came from.
#![allow(unsafe_code)] // Signal handlers; each block states why it may.

use std::cell::Cell;
use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use crate::plugin::crumbs::Crumbs;

const FATAL: [c_int; 7] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGABRT, libc::SIGSYS];
/// A terminal and a service manager send these to all processes of a group; a runner's end is its host's to decide.
const IGNORED: [c_int; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// Where the fault is noted.
static NOTE: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());
/// Set in a copy of the process that the plugin has made by `fork`.
static IS_COPY: AtomicBool = AtomicBool::new(false);
/// What was in place for SIGSEGV and SIGBUS: the standard library's own, which tells of an overflowed stack.
static BEFORE: [AtomicPtr<libc::sigaction>; 2] = [AtomicPtr::new(ptr::null_mut()), AtomicPtr::new(ptr::null_mut())];

thread_local! {
    /// 1 and up for the threads that run calls. Without a destructor, so that a signal handler may read it.
    static THREAD: Cell<u64> = const { Cell::new(0) };
}

/// This thread is the one with this number in the crumbs.
pub(super) fn name_thread(thread: u64) {
    THREAD.set(thread);
}

/// This thread's number; 0 where it runs no calls.
pub(super) fn thread() -> usize {
    usize::try_from(THREAD.get()).unwrap_or(0)
}

/// From here on the first fault is noted in `crumbs`, which live until the process ends.
pub(super) fn install(crumbs: &'static Crumbs) {
    let Some(note) = crumbs.fault_note() else { return };
    NOTE.store(ptr::from_ref(note).cast_mut(), Ordering::Release);
    for signal in FATAL {
        let before = set(signal, on_fault as *const () as libc::sighandler_t, libc::SA_SIGINFO | libc::SA_ONSTACK);
        if let Some(slot) = before_of(signal) {
            slot.store(Box::into_raw(Box::new(before)), Ordering::Release); // For ever: a handler reads it.
        }
    }
    for signal in IGNORED {
        // A handler that does nothing, not SIG_IGN: that would be inherited by what the plugin starts.
        set(signal, on_ignored as *const () as libc::sighandler_t, libc::SA_RESTART);
    }
    // SAFETY: the functions live as long as the program.
    unsafe {
        libc::atexit(on_exit);
        libc::pthread_atfork(None, None, Some(on_copied));
    }
}

/// Whether this is a copy of the runner that the plugin has made by `fork`: socket and crumbs are not its own.
pub(super) fn is_copy() -> bool {
    IS_COPY.load(Ordering::Relaxed)
}

/// Ends the process at once, without what `exit` would run: threads of the plugin may still be at work.
pub(super) fn end(code: c_int) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

/// Closes what the host has inherited itself and passed on, whatever it is: only the three streams and `kept` stay.
pub(super) fn close_others(kept: &OwnedFd) -> io::Result<()> {
    let open = std::fs::read_dir("/dev/fd")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<RawFd>().ok());
    // First all numbers: the folder itself is one of them.
    let others: Vec<RawFd> = open.filter(|number| *number > 2 && *number != kept.as_raw_fd()).collect();
    for number in others {
        // SAFETY: the process has just started and nothing in it owns a descriptor but `kept`.
        unsafe { libc::close(number) };
    }
    Ok(())
}

fn before_of(signal: c_int) -> Option<&'static AtomicPtr<libc::sigaction>> {
    match signal {
        libc::SIGSEGV => BEFORE.first(),
        libc::SIGBUS => BEFORE.last(),
        _ => None,
    }
}

/// Installs a handler; answers what was there.
fn set(signal: c_int, handler: libc::sighandler_t, flags: c_int) -> libc::sigaction {
    let mut before = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: all-zero is a valid `sigaction` (default handler, empty mask); both pointers are to live locals; a failed call leaves zeros.
    unsafe {
        let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        libc::sigaction(signal, &raw const action, before.as_mut_ptr());
        before.assume_init()
    }
}

fn note() {
    let note = NOTE.load(Ordering::Acquire);
    if !note.is_null() {
        let thread = THREAD.try_with(Cell::get).unwrap_or(0);
        // SAFETY: it points into crumbs that live until the process ends.
        let _ = unsafe { &*note }.compare_exchange(0, thread + 1, Ordering::AcqRel, Ordering::Acquire);
    }
}

/// Does only what a signal handler may: atomics, `sigaction`, `raise`.
unsafe extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    note();
    let before = before_of(signal).map_or(ptr::null_mut(), |slot| slot.load(Ordering::Acquire));
    // SAFETY: null, or leaked by `install`.
    let before = unsafe { before.as_ref() };
    let is_function = |before: &&libc::sigaction| before.sa_sigaction > libc::SIG_IGN && before.sa_flags & libc::SA_SIGINFO != 0;
    if let Some(before) = before.filter(is_function) {
        // SAFETY: with SA_SIGINFO it is a function of these three; the standard library's own, which returns or ends the process.
        unsafe {
            let handler: unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut libc::c_void) = std::mem::transmute(before.sa_sigaction);
            handler(signal, info, context);
        }
        // It has put the default in place. What has faulted would fault again; what somebody has sent would not.
    } else {
        set(signal, libc::SIG_DFL, 0);
    }
    // SAFETY: async-signal-safe; delivered with the default action when this handler returns.
    unsafe { libc::raise(signal) };
}

unsafe extern "C" fn on_ignored(_signal: c_int) {}

extern "C" fn on_exit() {
    note();
}

/// How a copy ends says nothing of its original. Only atomics: it may have been made while other threads held locks.
unsafe extern "C" fn on_copied() {
    IS_COPY.store(true, Ordering::Relaxed);
    NOTE.store(ptr::null_mut(), Ordering::Release);
}

//! Whose turn it is on a busy machine: what starts up waits for those who serve, not they for it.
#![allow(unsafe_code)] // Asking the kernel for a thread's turns; each block states why it may.

/// A longer turn comes later, and whoever asks for a shorter one may interrupt it; the kernel takes at most 100 ms.
#[cfg(target_os = "linux")]
const LONG_TURN_NS: u64 = 100_000_000;

/// This thread, and what it starts from here on, can be interrupted by every other thread that has something to do. Where the system knows
/// no such thing (before Linux 6.12) nothing changes.
pub(super) fn give_way() {
    #[cfg(target_os = "linux")]
    set_turn(LONG_TURN_NS);
}

/// The end of [`give_way`].
pub(super) fn take_turns() {
    #[cfg(target_os = "linux")]
    set_turn(0);
}

#[cfg(target_os = "linux")]
fn set_turn(turn_ns: u64) {
    // Size in bytes, as the kernel counts it: the version of this structure.
    const BYTES: u32 = size_of::<libc::sched_attr>() as u32;
    // SAFETY: all zeros is a value of this plain structure of integers.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    attributes.size = BYTES;
    // SAFETY: the kernel fills in at most `BYTES`, the size of what the pointer shows; 0 is the calling thread.
    let known = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, BYTES, 0) };
    if known != 0 || attributes.sched_policy != libc::SCHED_OTHER as u32 {
        return; // Somebody has chosen for this process how it is scheduled.
    }
    attributes.sched_runtime = turn_ns;
    // SAFETY: the kernel reads `size` bytes of it; nothing but the order in which threads run depends on it, so that a refusal is no harm.
    let _ = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// What the kernel says: the turn's length in nanoseconds, 0 where it has no say; and the niceness.
    fn turn() -> (u64, i32) {
        // SAFETY: as above.
        let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let known = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size_of::<libc::sched_attr>() as u32, 0) };
        assert_eq!(known, 0);
        (attributes.sched_runtime, attributes.sched_nice)
    }

    #[test]
    fn a_thread_gives_way_and_takes_its_turns_again() {
        let before = turn();
        give_way();
        let given = turn();
        take_turns();
        assert!(given.0 == LONG_TURN_NS || given == before, "{given:?}: an old kernel changes nothing");
        assert_eq!((turn().1, turn().0), (before.1, before.0), "as before");
    }
}

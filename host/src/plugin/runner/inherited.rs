//! Nothing of what the host got from whoever started it: a descriptor without the close-on-exec mark would go on to every plugin.
#![allow(unsafe_code)] // Closes descriptors by their numbers; the block states why it may.

use std::os::fd::RawFd;

/// Closes everything but the three streams. Call it before anything is opened.
pub(super) fn close() {
    let Ok(entries) = std::fs::read_dir("/dev/fd") else { return };
    let numbers: Vec<RawFd> = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    // The listing's own is among them, and closed by now.
    for number in numbers.into_iter().filter(|number| *number > libc::STDERR_FILENO) {
        // SAFETY: this process is new and has opened nothing, so nothing in it owns this descriptor.
        unsafe { libc::close(number) };
    }
}

//! How many files and sockets this process may have open: as many as the system lets it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Beside the clients' sockets: the queue, plugins' runners, the ops listener, files.
const OTHERS_MAX: u64 = 512;

/// Raises the limit as far as this process may; a shell's own is often 1 024, and each client needs one.
pub(super) fn raise() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// Warns when fewer clients can connect than `limits.connections_max` says.
pub(super) fn check(connections_max: usize) {
    let Some(most) = getrlimit(Resource::Nofile).current else { return };
    if (connections_max as u64).saturating_add(OTHERS_MAX) > most {
        tracing::warn!(
            connections_max,
            open_files_max = most,
            "this process can't open as many sockets as limits.connections_max allows: raise its limit (LimitNOFILE= in a systemd unit, ulimit -Hn in \
             a shell), or lower the key"
        );
    }
}

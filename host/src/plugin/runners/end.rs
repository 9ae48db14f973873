//! How a runner's process comes to its end, or is brought to it.

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::process::Child;
use tokio::time;

/// A process whose socket is closed is waited for so long before it is killed.
pub(super) const EXIT_GRACE: Duration = Duration::from_millis(50);
/// No process does that to itself by mistake: its user does, or the system when memory ends.
const SIGKILL: i32 = 9;

/// How the talk with it ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    Closed,
    Garbage,
    Doomed,
}

/// Whether it was killed.
pub(super) fn is_sigkill(status: &ExitStatus) -> bool {
    status.signal() == Some(SIGKILL)
}

/// Waits for the process's end, and brings it about where it does not come by itself. Whether it had to be killed for that.
pub(super) async fn end_process(child: &mut Child, end: &End) -> (io::Result<ExitStatus>, bool) {
    if *end == End::Closed
        && let Ok(status) = time::timeout(EXIT_GRACE, child.wait()).await
    {
        return (status, false);
    }
    let _ = child.start_kill();
    (child.wait().await, true)
}

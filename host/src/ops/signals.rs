//! SIGTERM and SIGINT: the first one drains, the second one (not within half a second) ends at once.

use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Exit code after a second signal: 128 + SIGTERM, as shells report it.
const CUT_SHORT: i32 = 143;
/// A signal so soon after the first is the same wish: a terminal tells the whole process group, and a wrapper such as `timeout` tells us again.
const ECHO: Duration = Duration::from_millis(500);

/// Installs the handlers; when this returns they are in place. The token fires at the first signal.
///
/// # Errors
/// When the system refuses a handler.
pub fn install() -> std::io::Result<CancellationToken> {
    let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let fired = stop.clone();
    // A tracker of its own, which nobody waits for: the task must outlive every drain to hear the second signal.
    TaskTracker::new().spawn(async move {
        let mut next = async || tokio::select! { _ = term.recv() => {}, _ = interrupt.recv() => {} };
        next().await;
        tracing::info!("stopping; a second signal ends at once");
        fired.cancel();
        let first = Instant::now();
        next().await;
        while first.elapsed() < ECHO {
            next().await;
        }
        tracing::warn!("ended by a second signal");
        std::process::exit(CUT_SHORT);
    });
    Ok(stop)
}

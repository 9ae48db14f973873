//! What a service manager (systemd's `Type=notify`) is told of this process; without one nobody is told.

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Everything is up, and clients or messages are served.
pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// What the process does now.
pub(super) fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// Says that the process stops when `signalled` fires, and until `end` that it lives, as often as the manager wants to hear it.
pub(super) async fn run(signalled: CancellationToken, end: CancellationToken) {
    tokio::join!(
        async {
            if end.run_until_cancelled(signalled.cancelled()).await.is_some() {
                tell(&[NotifyState::Stopping, NotifyState::Status("draining")]);
            }
        },
        async {
            let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else { return };
            let mut ticks = interval(limit / 2);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while end.run_until_cancelled(ticks.tick()).await.is_some() {
                tell(&[NotifyState::Watchdog]);
            }
        },
    );
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager can't be told (NOTIFY_SOCKET)");
    }
}

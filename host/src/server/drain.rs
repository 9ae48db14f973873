//! Sending the clients away: told when to come back, and closed as soon as they are owed nothing.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::node::Node;
use super::session::Session;
use crate::config::Settings;
use crate::wire::codes::CloseCode;

/// This share of `server.drain_timeout` is kept for `disconnect` calls.
const DISCONNECTS_SHARE: u32 = 4;

/// Admits nobody from here on, and sends everybody away: who is owed answers stays until it has them, or until what is left before `deadline`
/// is what `disconnect` calls need. Returns when every session has ended, or at that time.
pub(super) async fn dismiss_all(node: &Node, deadline: Instant) {
    let settings = node.settings.load_full();
    for session in node.roster.drain() {
        dismiss(&session, &settings);
    }
    // An edit of the timeout that comes right now may be longer than the machine is up.
    let answers_end = deadline.checked_sub(settings.server.drain_timeout / DISCONNECTS_SHARE).unwrap_or(deadline);
    if timeout_at(answers_end, node.alive.wait()).await.is_err() {
        for session in node.roster.drain() {
            session.outlet.close(CloseCode::Draining, "this server goes away before your requests are answered; connect again");
        }
    }
}

/// Tells one client when to come back; it is closed at once when it is owed nothing.
pub(super) fn dismiss(session: &Session, settings: &Settings) {
    session.leave(reconnect_after_ms(settings));
}

/// A moment within `server.drain_window`, another one for each client: all at once would be too many for who takes them over.
pub(super) fn reconnect_after_ms(settings: &Settings) -> u64 {
    let window_ms = u64::try_from(settings.server.drain_window.min(Duration::from_secs(u32::MAX.into())).as_millis()).unwrap_or_default();
    // Without random numbers the middle of the window is as good as any.
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    u64::try_from((u128::from(window_ms) * u128::from(random)) >> 32).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_come_back_all_over_the_window() {
        let mut settings = Settings::default();
        settings.server.drain_window = Duration::from_secs(10);
        let mut tenths = [0_u32; 10];
        for _ in 0..1000 {
            tenths[usize::try_from(reconnect_after_ms(&settings) / 1000).unwrap()] += 1;
        }
        assert!(tenths.iter().all(|count| (40..=200).contains(count)), "{tenths:?}");
        settings.server.drain_window = Duration::ZERO;
        assert_eq!(reconnect_after_ms(&settings), 0);
    }
}

//! The end of a client's token, as the once-a-second sweep looks at it: no timer per connection.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::node::{ms, unix_ms};
use super::session::Pulse;
use crate::config::TokenSettings;

/// No token, or nothing more to warn of.
const NEVER: u64 = u64::MAX;

/// When a session's token ends. Milliseconds since the Unix epoch: a token's times are the wall clock's.
pub(crate) struct Expiry {
    warned_at_ms: AtomicU64,
    expires_ms: AtomicU64,
    closed_at_ms: AtomicU64,
}

impl Default for Expiry {
    fn default() -> Self {
        Self { warned_at_ms: AtomicU64::new(NEVER), expires_ms: AtomicU64::new(NEVER), closed_at_ms: AtomicU64::new(NEVER) }
    }
}

impl Expiry {
    /// From here on a token with this `exp` counts, and no other. There is no warning: nobody is registered with it yet.
    pub fn bound(&self, expires_ms: u64, settings: &TokenSettings) {
        self.expires_ms.store(expires_ms, Relaxed);
        self.closed_at_ms.store(expires_ms.saturating_add(ms(settings.leeway)), Relaxed);
    }

    /// As [`Self::bound`], for the token of a registration: its end is told beforehand.
    pub fn set(&self, expires_ms: u64, settings: &TokenSettings) {
        self.bound(expires_ms, settings);
        self.warned_at_ms.store(expires_ms.saturating_sub(ms(settings.expiry_warning)), Relaxed);
    }

    /// A token with this `exp` is to follow, when the handler agrees: the one that counts so far does not end meanwhile.
    pub fn defer(&self, expires_ms: u64, settings: &TokenSettings) {
        self.closed_at_ms.fetch_max(expires_ms.saturating_add(ms(settings.leeway)), Relaxed);
    }

    /// The handler has decided: from here on the token that counts ends in its time again.
    pub fn resume(&self, settings: &TokenSettings) {
        self.closed_at_ms.store(self.expires_ms.load(Relaxed).saturating_add(ms(settings.leeway)), Relaxed);
    }

    /// What is due now; the warning once for each token.
    pub fn due(&self) -> Option<Pulse> {
        if self.closed_at_ms.load(Relaxed) == NEVER { None } else { self.due_at(unix_ms()) }
    }

    fn due_at(&self, now_ms: u64) -> Option<Pulse> {
        if now_ms >= self.closed_at_ms.load(Relaxed) {
            return Some(Pulse::Expired);
        }
        let warned_at_ms = self.warned_at_ms.load(Relaxed);
        // A token that comes at this very moment keeps its own warning.
        let is_due = now_ms >= warned_at_ms && self.warned_at_ms.compare_exchange(warned_at_ms, NEVER, Relaxed, Relaxed).is_ok();
        is_due.then(|| Pulse::Expiring { in_ms: self.expires_ms.load(Relaxed).saturating_sub(now_ms) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_warning_then_the_end_and_a_fresh_token_begins_anew() {
        let (expiry, settings) = (Expiry::default(), TokenSettings::default());
        assert_eq!(expiry.due(), None, "no token");
        expiry.bound(1_000_000, &settings);
        assert_eq!((expiry.due_at(999_999), expiry.due_at(1_010_000)), (None, Some(Pulse::Expired)));
        expiry.set(1_000_000, &settings);
        assert_eq!(expiry.due_at(939_999), None);
        assert_eq!(expiry.due_at(940_500), Some(Pulse::Expiring { in_ms: 59_500 }));
        assert_eq!(expiry.due_at(1_000_000), None, "warned once, and the clocks may be apart");
        assert_eq!(expiry.due_at(1_010_000), Some(Pulse::Expired));
        expiry.set(2_000_000, &settings);
        assert_eq!(expiry.due_at(1_010_000), None);
        assert_eq!(expiry.due_at(1_999_000), Some(Pulse::Expiring { in_ms: 1_000 }));
        assert_eq!(expiry.due_at(2_010_000), Some(Pulse::Expired));
        expiry.defer(9_000_000, &settings);
        assert_eq!(expiry.due_at(2_010_000), None, "a fresh one is being decided");
        expiry.defer(1_000_000, &settings);
        expiry.resume(&settings);
        assert_eq!(expiry.due_at(2_010_000), Some(Pulse::Expired), "in vain");
        expiry.set(2_001_000, &settings);
        assert_eq!(expiry.due_at(2_002_000), Some(Pulse::Expiring { in_ms: 0 }), "shorter than the warning: at once");
        expiry.set(u64::MAX, &settings);
        assert_eq!(expiry.due_at(u64::MAX - 60_001), None, "for ever");
    }
}

//! How long a node has held its lease without a gap: only then may it tell a dead node from one that could not renew either.

use std::time::Duration;

use tokio::time::Instant;

use super::pauses::BACKOFF_MAX;

/// After an outage every node that lives is back within this time: its longest pause between two attempts to connect, and some more.
const RETURN_TIME: Duration = BACKOFF_MAX.saturating_add(Duration::from_secs(1));

/// The renewals of a node's lease, by this machine's clock and by Redis's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Streak {
    since: Instant,
    last: Instant,
    redis_ms: i64,
}

impl Streak {
    /// The first renewal.
    pub(super) fn start(now: Instant, redis_ms: i64) -> Self {
        Self { since: now, last: now, redis_ms }
    }

    /// A further one. A pause longer than half a lease on either clock begins a new streak: Redis was away, or its clock was set.
    pub(super) fn renewed(&mut self, now: Instant, redis_ms: i64, lease: Duration) {
        let by_redis = Duration::from_millis(redis_ms.abs_diff(self.redis_ms));
        if now.duration_since(self.last).max(by_redis) > lease / 2 {
            self.since = now;
        }
        (self.last, self.redis_ms) = (now, redis_ms);
    }

    /// Whether nodes may be adopted: the last time on Redis's clock at which that may happen, so that a command which a stall holds up does
    /// nothing.
    ///
    /// # Errors
    /// How long it takes until they may.
    pub(super) fn may_adopt(&self, now: Instant, lease: Duration) -> Result<i64, Duration> {
        let since_last = now.duration_since(self.last);
        let missing = lease.max(RETURN_TIME).saturating_sub(now.duration_since(self.since));
        if since_last > lease / 2 || !missing.is_zero() {
            return Err(missing);
        }
        let until = since_last + lease / 4;
        Ok(self.redis_ms.saturating_add(i64::try_from(until.as_millis()).unwrap_or(i64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(6);

    /// A streak renewed at these times: seconds of our clock and of Redis's.
    fn renewed(times: &[(u64, i64)]) -> (Streak, Instant) {
        let start = Instant::now();
        let mut streak = Streak::start(start, 0);
        for (ours, redis) in times {
            streak.renewed(start + Duration::from_secs(*ours), redis * 1000, LEASE);
        }
        (streak, start)
    }

    #[test]
    fn a_whole_lease_without_a_gap_is_needed() {
        let (streak, start) = renewed(&[(1, 1), (3, 3), (5, 5)]);
        let at = |seconds| streak.may_adopt(start + Duration::from_secs(seconds), LEASE);
        assert_eq!(at(5), Err(Duration::from_secs(1)));
        assert_eq!(at(6), Ok(7_500), "a quarter of a lease after now, on Redis's clock");
        assert!(at(9).is_err(), "not renewed for too long");
    }

    #[test]
    fn a_gap_on_either_clock_begins_it_anew() {
        for gap in [[(1, 1), (5, 5), (8, 8), (10, 10)], [(1, 1), (3, 7), (5, 9), (8, 12)], [(1, 1), (3, -9), (5, -7), (8, -4)]] {
            let (streak, start) = renewed(&gap);
            assert!(streak.may_adopt(start + Duration::from_secs(8), LEASE).is_err(), "{gap:?}");
        }
    }

    #[test]
    fn a_short_lease_waits_for_those_who_come_back() {
        let start = Instant::now();
        let mut streak = Streak::start(start, 0);
        let lease = Duration::from_millis(100);
        for step in 1..=31 {
            streak.renewed(start + lease * step, 100 * i64::from(step), lease * 4);
        }
        assert!(streak.may_adopt(start + Duration::from_millis(2_900), lease).is_err());
        assert!(streak.may_adopt(start + Duration::from_millis(3_100), lease).is_ok());
    }
}

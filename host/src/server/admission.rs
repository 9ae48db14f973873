//! How many newcomers are let in per second, and when those beyond should come again.

use std::borrow::Cow;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use governor::clock::MonotonicClock;
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};

use super::head::Rejection;
use crate::config::Limits;

/// Longest time that a client is told to stay away, in seconds.
const RETRY_AFTER_MAX: u32 = 60;

type Limiter = RateLimiter<NotKeyed, InMemoryState, MonotonicClock, NoOpMiddleware<Instant>>;

/// The rate of newcomers, as the limits have it.
#[derive(Default)]
pub(crate) struct Admission {
    inside: Mutex<Option<Inside>>,
}

struct Inside {
    rate: NonZeroU32,
    burst: NonZeroU32,
    limiter: Limiter,
    /// Refused, and not yet due to come again: grows by one for each, and shrinks at the rate.
    waiting: f64,
    waiting_at: Instant,
}

impl Admission {
    /// Whether one more may come in now.
    ///
    /// # Errors
    /// The answer for the client, with the time to come again.
    pub fn check(&self, limits: &Limits) -> Result<(), Rejection> {
        let Some(rate) = NonZeroU32::new(limits.accepts_per_second) else { return Ok(()) };
        let burst = NonZeroU32::new(limits.accepts_burst).unwrap_or(NonZeroU32::MIN);
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        // An edit of the limits begins anew.
        let inside = match inside.as_mut().filter(|inside| (inside.rate, inside.burst) == (rate, burst)) {
            Some(inside) => inside,
            None => inside.insert(Inside::new(rate, burst)),
        };
        inside.limiter.check().map_err(|_| rejection(inside.wait(Instant::now())))
    }
}

impl Inside {
    fn new(rate: NonZeroU32, burst: NonZeroU32) -> Self {
        let quota = Quota::per_second(rate).allow_burst(burst);
        Self { rate, burst, limiter: RateLimiter::direct_with_clock(quota, MonotonicClock), waiting: 0.0, waiting_at: Instant::now() }
    }

    /// The seconds after which one more that was refused may be let in, behind those refused before it.
    fn wait(&mut self, now: Instant) -> u32 {
        let rate = f64::from(self.rate.get());
        let passed = now.saturating_duration_since(self.waiting_at).as_secs_f64();
        // Nobody is told to stay away for longer, so nobody waits beyond that: a flood that has ended is soon forgotten.
        let waiting_max = rate * f64::from(RETRY_AFTER_MAX);
        self.waiting = ((self.waiting - passed * rate).max(0.0) + 1.0).min(waiting_max);
        self.waiting_at = now;
        let seconds = (self.waiting / rate).ceil();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // It is 1 to 60.
        let seconds = seconds as u32;
        seconds.max(1)
    }
}

fn rejection(seconds: u32) -> Rejection {
    Rejection {
        cause: "accept_rate",
        status: "503 Service Unavailable",
        headers: Cow::Owned(format!("Retry-After: {seconds}\r\n")),
        body: Cow::Borrowed("too many connect at the same moment (limits.accepts_per_second); come again after the time in Retry-After"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limits(rate: u32, burst: u32) -> Limits {
        Limits { accepts_per_second: rate, accepts_burst: burst, ..Limits::default() }
    }

    #[test]
    fn those_beyond_the_burst_are_refused_until_the_limits_change() {
        let admission = Admission::default();
        let let_in = |limits: &Limits, tries: u32| (0..tries).filter(|_| admission.check(limits).is_ok()).count();
        assert_eq!(let_in(&limits(1, 3), 10), 3);
        assert_eq!(let_in(&limits(1, 3), 1), 0);
        assert_eq!(let_in(&limits(1, 5), 10), 5, "an edit applies at once");
        assert_eq!(let_in(&limits(0, 1), 10), 10, "0 is no limit");
    }

    #[test]
    fn a_storm_is_spread_over_time() {
        let mut inside = Inside::new(NonZeroU32::new(10).unwrap(), NonZeroU32::MIN);
        let start = inside.waiting_at;
        let waits: Vec<_> = (0..25).map(|_| inside.wait(start)).collect();
        assert_eq!((waits[0], waits[9], waits[10], waits[19], waits[20]), (1, 1, 2, 2, 3));
        assert_eq!(inside.wait(start + Duration::from_secs(2)), 1, "those before have come by then");
        assert_eq!((0..100_000).map(|_| inside.wait(start)).max(), Some(RETRY_AFTER_MAX));
        assert_eq!(inside.wait(start + Duration::from_secs(61)), 1, "nobody was told to stay away for longer");
    }
}

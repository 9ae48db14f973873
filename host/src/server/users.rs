//! How fast one user may send, over all its connections to this node.

use std::num::NonZeroU32;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::config::Limits;

type Rates = RateLimiter<Arc<str>, HashMapStateStore<Arc<str>>, MonotonicClock, NoOpMiddleware<<MonotonicClock as Clock>::Instant>>;

/// Users that have sent of late. Those who might send a whole burst again are forgotten by [`Self::forget_idle`].
#[derive(Default)]
pub(crate) struct Users {
    rates: ArcSwapOption<Current>,
}

struct Current {
    per_second: u32,
    burst: u32,
    rates: Rates,
}

impl Users {
    /// Takes the place of one message of this user. With a rate that has just been edited everybody starts anew.
    ///
    /// # Errors
    /// Milliseconds until there is room.
    pub fn take(&self, user: &Arc<str>, limits: &Limits) -> Result<(), u64> {
        let Some(per_second) = NonZeroU32::new(limits.user_messages_per_second) else { return Ok(()) };
        let current = self.rates.load();
        let current = match &*current {
            Some(current) if current.is_of(limits) => Arc::clone(current),
            _ => {
                let burst = NonZeroU32::new(limits.user_messages_burst).unwrap_or(NonZeroU32::MIN);
                let rates = Rates::new(Quota::per_second(per_second).allow_burst(burst), HashMapStateStore::default(), MonotonicClock);
                let fresh = Arc::new(Current { per_second: per_second.get(), burst: limits.user_messages_burst, rates });
                self.rates.store(Some(Arc::clone(&fresh)));
                fresh
            }
        };
        let denied = current.rates.check_key(user).err();
        denied.map_or(Ok(()), |denied| {
            let wait = denied.wait_time_from(MonotonicClock.now());
            Err(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).saturating_add(1))
        })
    }

    /// Forgets users for whom nothing has to be remembered, and all when there is no limit.
    pub fn forget_idle(&self, limits: &Limits) {
        if limits.user_messages_per_second == 0 {
            self.rates.store(None);
        } else if let Some(current) = &*self.rates.load() {
            current.rates.retain_recent();
            current.rates.shrink_to_fit();
        }
    }

    #[cfg(test)]
    fn remembered(&self) -> usize {
        self.rates.load().as_ref().map_or(0, |current| current.rates.len())
    }
}

impl Current {
    fn is_of(&self, limits: &Limits) -> bool {
        (self.per_second, self.burst) == (limits.user_messages_per_second, limits.user_messages_burst)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_user_has_a_burst_then_its_rate_and_is_forgotten_when_it_is_quiet() {
        let users = Users::default();
        let mut limits = Limits { user_messages_per_second: 20, user_messages_burst: 3, ..Limits::default() };
        let (ann, ben): (Arc<str>, Arc<str>) = ("ann".into(), "ben".into());
        for _ in 0..3 {
            assert_eq!(users.take(&ann, &limits), Ok(()));
        }
        let wait = users.take(&ann, &limits).unwrap_err();
        assert!((1..=51).contains(&wait), "{wait} ms");
        assert_eq!(users.take(&ben, &limits), Ok(()), "others have a rate of their own");
        std::thread::sleep(Duration::from_millis(wait));
        assert_eq!(users.take(&ann, &limits), Ok(()));
        users.forget_idle(&limits);
        assert!(users.remembered() >= 1);
        std::thread::sleep(Duration::from_millis(200));
        users.forget_idle(&limits);
        assert_eq!(users.remembered(), 0);
        limits.user_messages_per_second = 0;
        for _ in 0..10 {
            assert_eq!(users.take(&ann, &limits), Ok(()));
        }
    }
}

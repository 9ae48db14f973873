//! A token bucket: how fast one connection may send.

/// Tokens, in thousandths of a message, filled up with time.
#[derive(Debug)]
pub(crate) struct Bucket {
    level_milli: u64,
    filled_ms: u64,
}

impl Bucket {
    /// A full bucket.
    pub fn new(burst: u32, now_ms: u64) -> Self {
        Self { level_milli: u64::from(burst) * 1000, filled_ms: now_ms }
    }

    /// Takes the place of one message. `per_second` 0 = no limit.
    ///
    /// # Errors
    /// Milliseconds until there is room.
    pub fn take(&mut self, per_second: u32, burst: u32, now_ms: u64) -> Result<(), u64> {
        self.take_many(1, per_second, burst, now_ms)
    }

    /// Takes the places of `count` at once, or of none.
    ///
    /// # Errors
    /// Milliseconds until there is room for all of them.
    pub fn take_many(&mut self, count: u32, per_second: u32, burst: u32, now_ms: u64) -> Result<(), u64> {
        if per_second == 0 {
            return Ok(());
        }
        let full = u64::from(burst.max(1)) * 1000;
        let gained = now_ms.saturating_sub(self.filled_ms).saturating_mul(u64::from(per_second));
        self.level_milli = self.level_milli.saturating_add(gained).min(full);
        self.filled_ms = now_ms;
        let wanted = u64::from(count) * 1000;
        match self.level_milli.checked_sub(wanted) {
            Some(level) => {
                self.level_milli = level;
                Ok(())
            }
            None => Err((wanted - self.level_milli).div_ceil(u64::from(per_second))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let mut bucket = Bucket::new(3, 0);
        for _ in 0..3 {
            assert_eq!(bucket.take(10, 3, 0), Ok(()));
        }
        assert_eq!(bucket.take(10, 3, 0), Err(100));
        assert_eq!(bucket.take(10, 3, 99), Err(1));
        assert_eq!(bucket.take(10, 3, 100), Ok(()));
        assert_eq!(bucket.take(10, 3, 1_000_000), Ok(()), "never more than the burst is saved up");
        assert_eq!(bucket.take(10, 3, 1_000_000), Ok(()));
        assert_eq!(bucket.take(10, 3, 1_000_000), Ok(()));
        assert!(bucket.take(10, 3, 1_000_000).is_err());
        assert_eq!(bucket.take(0, 3, 1_000_000), Ok(()), "0 = no limit");
        assert_eq!(bucket.take_many(3, 10, 3, 1_000_100), Err(200), "all of them or none");
        assert_eq!(bucket.take_many(3, 10, 3, 1_000_300), Ok(()));
    }
}

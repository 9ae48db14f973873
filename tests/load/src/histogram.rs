//! Times in buckets: exact below 128 ns, within 1/64 above, in little memory and a few nanoseconds each.

/// Buckets of each power of two.
const PARTS_BITS: u32 = 6;
const PARTS: u64 = 1 << PARTS_BITS;
/// Enough for every `u64`.
const BUCKETS: usize = (65 - PARTS_BITS as usize) * PARTS as usize;

/// Counts of nanoseconds.
#[derive(Clone)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Histogram {
    pub fn new() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, max: 0 }
    }

    pub fn record(&mut self, nanoseconds: u64) {
        self.counts[bucket(nanoseconds)] += 1;
        self.total += 1;
        self.max = self.max.max(nanoseconds);
    }

    /// Adds what another one counted.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// In microseconds; of nothing it is 0.
    pub fn max_us(&self) -> f64 {
        self.max as f64 / 1e3
    }

    /// What so large a share (0.99) is not above, in microseconds; of nothing it is 0.
    pub fn quantile_us(&self, share: f64) -> f64 {
        let rank = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank && *count > 0 {
                return upper(bucket).min(self.max) as f64 / 1e3;
            }
        }
        self.max_us()
    }

    pub fn clear(&mut self) {
        self.counts.fill(0);
        (self.total, self.max) = (0, 0);
    }
}

fn bucket(value: u64) -> usize {
    if value < 2 * PARTS {
        return value as usize;
    }
    let power = 63 - value.leading_zeros();
    let shift = power - PARTS_BITS;
    (u64::from(shift) * PARTS + (value >> shift)) as usize
}

/// The largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * PARTS {
        return bucket;
    }
    let shift = bucket / PARTS - 1;
    let start = u128::from(bucket - shift * PARTS) << shift;
    u64::try_from(start + (1 << shift) - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_a_bucket_that_ends_close_above_it() {
        let values = (0..2_000).chain((7..64).flat_map(|power| [(1 << power) - 1, 1 << power, (1 << power) + 12_345])).chain([u64::MAX]);
        for value in values {
            let upper = upper(bucket(value));
            assert!(upper >= value && upper - value <= value / 64, "{value}: {upper}");
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_values() {
        let mut histogram = Histogram::new();
        assert_eq!((histogram.quantile_us(0.5), histogram.max_us()), (0.0, 0.0));
        for value in 1..=1_000 {
            histogram.record(value * 1_000);
        }
        for (share, exact) in [(0.5, 500.0), (0.99, 990.0), (0.999, 999.0), (1.0, 1_000.0)] {
            let found = histogram.quantile_us(share);
            assert!(found >= exact && found <= exact * (1.0 + 1.0 / 64.0), "{share}: {found}");
        }
        assert_eq!(histogram.max_us(), 1_000.0);
        let mut more = Histogram::new();
        more.record(5_000_000);
        histogram.merge(&more);
        assert_eq!((histogram.quantile_us(1.0), histogram.total), (5_000.0, 1_001));
        histogram.clear();
        assert_eq!((histogram.quantile_us(0.5), histogram.max_us()), (0.0, 0.0));
    }
}

//! What waits for all clients of this process together, and what has passed to and from them: one set of counters, whichever node they are on.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Bytes are counted in the lower bits, holders in the upper ones, so that both change in one step: 1 TiB, and 16 million.
const BYTES_BITS: u32 = 40;
const BYTES_MASK: u64 = (1 << BYTES_BITS) - 1;
const HOLDER: u64 = 1 << BYTES_BITS;

/// The counters.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    waiting: AtomicU64,
    /// Read from clients, as WebSocket frames: behind TLS and the HTTP request.
    pub bytes_in: AtomicU64,
    /// Written to them.
    pub bytes_out: AtomicU64,
}

/// What waits at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// Bytes, frames' own overhead included. A frame that several sessions share counts for each.
    pub bytes: u64,
    /// Sessions that have something waiting.
    pub holders: u64,
}

impl Backlog {
    /// What waits now.
    pub fn waiting(&self) -> Waiting {
        let packed = self.waiting.load(Relaxed);
        Waiting { bytes: packed & BYTES_MASK, holders: packed >> BYTES_BITS }
    }

    /// A session's waiting bytes become `after`, from `before`.
    pub fn change(&self, before: usize, after: usize) {
        let packed = |bytes: usize| if bytes == 0 { 0 } else { HOLDER + bytes as u64 };
        // Wrapping: a decrease is the addition of its complement.
        self.waiting.fetch_add(packed(after).wrapping_sub(packed(before)), Relaxed);
    }

    /// Whether a session with `bytes` waiting has more than its share of `bytes_max` while the room is short. From half of `bytes_max` on
    /// those that have something waiting share that half evenly: who is over its share pays, who is below takes from the other half. So the
    /// sum stays below `bytes_max`, but for one frame of each session.
    pub fn is_over_share(&self, bytes: usize, bytes_max: u64) -> bool {
        let (half, waiting) = (bytes_max / 2, self.waiting());
        waiting.bytes >= half && bytes as u64 >= half / waiting.holders.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_holders_come_and_go_together() {
        let backlog = Backlog::default();
        for (before, after, bytes, holders) in [(0, 10, 10, 1), (0, 5, 15, 2), (10, 12, 17, 2), (12, 0, 5, 1), (5, 5, 5, 1), (5, 0, 0, 0)] {
            backlog.change(before, after);
            assert_eq!(backlog.waiting(), Waiting { bytes, holders });
        }
    }

    #[test]
    fn from_half_on_only_those_over_their_share_pay() {
        let backlog = Backlog::default();
        backlog.change(0, 400);
        assert!(!backlog.is_over_share(400, 1000), "there is room");
        backlog.change(0, 90);
        backlog.change(0, 10);
        assert!(backlog.is_over_share(400, 1000), "500 wait for three");
        assert!(!backlog.is_over_share(90, 1000) && !backlog.is_over_share(0, 1000));
    }
}

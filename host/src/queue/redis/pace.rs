//! How much a worker reads at once, and of which partitions: all of them when it keeps up, larger portions of some when it has fallen behind.

/// Jobs held beyond what was asked for, when many partitions answer one read.
const SURPLUS_MAX: usize = 1024;
/// Behind, one read brings up to so many times what was asked for, of one of so many parts of the partitions.
const READ_AHEAD: usize = 4;
/// A read that brings fewer jobs has not fallen behind, however few were asked for.
const BEHIND_MIN: usize = 32;
/// Partitions that are not worth being parted for a read.
const PART_MIN: usize = 8;

/// What the last read told.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Partitions that answered the last read of all.
    active: usize,
    /// The last read brought all that was asked for: more is waiting.
    is_behind: bool,
    /// Counts the reads of some partitions only.
    turn: usize,
}

/// What one read asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Portion<'plan> {
    pub(super) partitions: &'plan [u32],
    /// Per stream, as Redis has it: what the busy ones share must fit, and so must the worst case of all answering in full.
    pub(super) count: usize,
    pub(super) block: bool,
}

impl Pace {
    /// All partitions, waiting for the first job. Behind, a part of them in turn, without waiting: what a partition costs a read it costs once
    /// for all its jobs, so fewer and larger portions are cheaper; those left out lose nothing while there is more to do than room for it.
    pub(super) fn portion<'plan>(&mut self, read: &'plan [u32], max: usize) -> Portion<'plan> {
        let size = read.len().div_ceil(READ_AHEAD).max(PART_MIN);
        if self.is_behind && read.len() > size {
            self.turn = self.turn.wrapping_add(1);
            let parts = read.len().div_ceil(size);
            let partitions = read.chunks(size).nth(self.turn % parts).unwrap_or(read);
            let count = (max * READ_AHEAD / partitions.len()).min(SURPLUS_MAX / partitions.len()).max(1);
            return Portion { partitions, count, block: false };
        }
        let wanted = if self.is_behind { max * READ_AHEAD } else { max };
        let count = (wanted / self.active.max(1)).min(SURPLUS_MAX / read.len().max(1)).max(1);
        Portion { partitions: read, count, block: true }
    }

    /// Takes in what a read brought: jobs, out of so many streams.
    pub(super) fn note(&mut self, max: usize, streams: usize, jobs: usize, was_all: bool) {
        let enough = if was_all { max } else { max / READ_AHEAD };
        self.is_behind = jobs >= enough.max(BEHIND_MIN);
        if was_all {
            self.active = streams;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keeping_up_it_waits_for_all() {
        let (mut pace, all) = (Pace::default(), Vec::from_iter(0..64));
        assert_eq!(
            pace.portion(&all, 128),
            Portion { partitions: &all, count: 16, block: true },
            "at first any of them may be the only busy one"
        );
        pace.note(128, 60, 70, true);
        assert_eq!(pace.portion(&all, 128), Portion { partitions: &all, count: 2, block: true });
        pace.note(1, 1, 1, true);
        assert!(pace.portion(&all, 1).block, "one job where one was asked for is no backlog");
    }

    #[test]
    fn behind_it_reads_parts_in_turn_and_none_is_left_out() {
        for partitions in [9, 10, 33, 64, 100] {
            let (mut pace, all) = (Pace::default(), Vec::from_iter(0..partitions));
            pace.note(128, 64, 128, true);
            let mut seen: BTreeSet<u32> = BTreeSet::new();
            for _ in 0..READ_AHEAD {
                let portion = pace.portion(&all, 128);
                assert!(!portion.block && portion.partitions.len() < all.len());
                assert!(portion.count * portion.partitions.len() <= SURPLUS_MAX);
                seen.extend(portion.partitions.iter().copied());
                pace.note(128, portion.partitions.len(), 128, false);
            }
            assert_eq!(seen.len(), all.len());
            pace.note(128, 3, 12, false);
            assert_eq!(pace.portion(&all, 128).partitions, all, "it has caught up");
        }
    }

    #[test]
    fn few_partitions_are_not_parted() {
        let (mut pace, all) = (Pace::default(), [0, 1, 2]);
        pace.note(128, 3, 400, true);
        assert_eq!(pace.portion(&all, 128), Portion { partitions: &all, count: 170, block: true });
        assert_eq!(Pace::default().portion(&[], 128).count, 128);
    }
}

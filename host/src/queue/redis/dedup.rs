//! Which jobs of a session this worker has taken already: a write that was sent twice runs once.

use std::collections::HashMap;

use crate::wire::ids::SessionId;

/// Sessions remembered; twice as many at most while the older half is being forgotten.
const SESSIONS_MAX: usize = 32_768;
/// Sequences remembered below a session's highest.
const WINDOW: u64 = 128;

#[derive(Debug, Clone, Copy)]
struct Window {
    /// Epoch of the partition; what was seen before another worker had it says nothing.
    epoch: u64,
    highest: u64,
    /// Bit n: `highest - n` was taken.
    seen: u128,
}

/// Sliding windows over the sequences of sessions, least recently used ones forgotten.
#[derive(Debug, Default)]
pub(super) struct Dedup {
    young: HashMap<SessionId, Window>,
    old: HashMap<SessionId, Window>,
}

impl Dedup {
    /// Notes that a job is taken; false when it was before. What is below the window counts as new, as does sequence 0.
    pub(super) fn take(&mut self, session: &SessionId, epoch: u64, sequence: u64) -> bool {
        if sequence == 0 {
            return true;
        }
        let fresh = Window { epoch, highest: sequence, seen: 0 };
        let window = self.window(session, fresh);
        if window.epoch != epoch {
            *window = fresh;
        }
        if sequence > window.highest {
            let step = sequence - window.highest;
            window.seen = if step < WINDOW { window.seen << step } else { 0 };
            window.highest = sequence;
        }
        let below = window.highest - sequence;
        if below >= WINDOW {
            return true;
        }
        let bit = 1_u128 << below;
        let is_new = window.seen & bit == 0;
        window.seen |= bit;
        is_new
    }

    /// The job will come again, and is to run then.
    pub(super) fn forget(&mut self, session: &SessionId, sequence: u64) {
        for windows in [&mut self.young, &mut self.old] {
            if let Some(window) = windows.get_mut(session) {
                match window.highest.checked_sub(sequence) {
                    Some(below) if below < WINDOW => window.seen &= !(1_u128 << below),
                    _ => {}
                }
            }
        }
    }

    fn window(&mut self, session: &SessionId, fresh: Window) -> &mut Window {
        if !self.young.contains_key(session) {
            let window = self.old.remove(session).unwrap_or(fresh);
            if self.young.len() >= SESSIONS_MAX {
                self.old = std::mem::take(&mut self.young);
            }
            self.young.insert(session.clone(), window);
        }
        self.young.entry(session.clone()).or_insert(fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ids::NodeId;

    fn session() -> SessionId {
        SessionId::random(&NodeId::random().unwrap()).unwrap()
    }

    #[test]
    fn a_sequence_is_taken_once() {
        let (mut dedup, session) = (Dedup::default(), session());
        assert!((1..=500).all(|sequence| dedup.take(&session, 1, sequence)));
        assert!((500 - WINDOW + 1..=500).all(|sequence| !dedup.take(&session, 1, sequence)));
        assert!(dedup.take(&session, 1, 1), "below the window nothing is known, and a job must not get lost");
        assert!(dedup.take(&session, 1, 0) && dedup.take(&session, 1, 0), "scheduled jobs are exempt");
    }

    #[test]
    fn gaps_and_retries_are_taken() {
        let (mut dedup, session) = (Dedup::default(), session());
        assert!(dedup.take(&session, 1, 10) && dedup.take(&session, 1, 7), "a lower one that never came is new");
        dedup.forget(&session, 7);
        assert!(dedup.take(&session, 1, 7));
        assert!(!dedup.take(&session, 1, 10));
        assert!(dedup.take(&session, 2, 10), "another worker had the partition meanwhile");
    }

    #[test]
    fn memory_is_bounded() {
        let mut dedup = Dedup::default();
        let node = NodeId::random().unwrap();
        for _ in 0..SESSIONS_MAX * 3 {
            dedup.take(&SessionId::random(&node).unwrap(), 1, 1);
        }
        assert!(dedup.young.len() + dedup.old.len() <= 2 * SESSIONS_MAX);
    }
}

//! What a session still owes answers to, so that each request gets exactly one and a server that drains knows who may go.

/// Sequences without a client id are remembered this far back; older replies pass.
const WINDOW_BITS: u64 = 256;
const WORDS: usize = 4;

/// Unanswered requests with an `id`, and a sliding window over the answers to messages without.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pending: Vec<u64>,
    window: [u64; WORDS],
    newest: u64,
    /// Messages without an `id` that the queue has not confirmed yet.
    unstored: u32,
    /// The session waits for a registration, or for room in the queue.
    is_waiting: bool,
    /// The server drains, and the client was told to come back after so many milliseconds.
    leaving_ms: Option<u64>,
}

impl Ledger {
    /// After how many milliseconds the client of a server that drains shall come back; nothing new is begun for it.
    pub fn leaving_ms(&self) -> Option<u64> {
        self.leaving_ms
    }

    /// The client was told to go. False when it was before.
    pub fn leave(&mut self, reconnect_after_ms: u64) -> bool {
        let is_first = self.leaving_ms.is_none();
        self.leaving_ms.get_or_insert(reconnect_after_ms);
        is_first
    }

    /// Notes whether the session waits for a registration, or for room in the queue.
    pub fn set_waiting(&mut self, is_waiting: bool) {
        self.is_waiting = is_waiting;
    }

    /// Whether the client is to go, and is owed nothing any more.
    pub fn may_go(&self) -> bool {
        self.leaving_ms.is_some() && self.pending.is_empty() && self.unstored == 0 && !self.is_waiting
    }

    /// A message without an `id` is on its way to the queue.
    pub fn hand_over(&mut self) {
        self.unstored += 1;
    }

    /// The queue has answered for one of them.
    pub fn handed_over(&mut self) {
        self.unstored = self.unstored.saturating_sub(1);
    }

    /// Requests with an `id` that wait for their answer.
    pub fn unanswered(&self) -> usize {
        self.pending.len()
    }

    /// A request with an `id` has been accepted.
    pub fn expect(&mut self, sequence: u64) {
        self.pending.push(sequence);
    }

    /// Whether this answer to a request with an `id` is its first.
    pub fn answer(&mut self, sequence: u64) -> bool {
        let Some(index) = self.pending.iter().position(|pending| *pending == sequence) else { return false };
        self.pending.swap_remove(index);
        if self.pending.is_empty() {
            self.pending = Vec::new(); // an idle connection keeps nothing
        }
        true
    }

    /// Whether this reply to a message without an `id` is its first, as far as is remembered.
    pub fn answer_unnamed(&mut self, sequence: u64) -> bool {
        if sequence + WINDOW_BITS <= self.newest {
            return true;
        }
        if sequence > self.newest {
            // Words are reused in a circle: what slides out is cleared.
            let cleared = (sequence - self.newest).min(WINDOW_BITS);
            for passed in sequence + 1 - cleared..=sequence {
                let (word, bit) = place(passed);
                self.window[word] &= !bit;
            }
            self.newest = sequence;
        }
        let (word, bit) = place(sequence);
        let first = self.window[word] & bit == 0;
        self.window[word] |= bit;
        first
    }
}

fn place(sequence: u64) -> (usize, u64) {
    let index = sequence % WINDOW_BITS;
    (usize::try_from(index / 64).unwrap_or_default(), 1 << (index % 64))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_is_answered_once() {
        let mut ledger = Ledger::default();
        ledger.expect(1);
        ledger.expect(2);
        assert!(ledger.answer(1));
        assert!(!ledger.answer(1));
        assert_eq!(ledger.unanswered(), 1);
        assert!(!ledger.answer(9), "never asked");
    }

    #[test]
    fn replies_without_an_id_are_remembered_within_the_window() {
        let mut ledger = Ledger::default();
        assert!(ledger.answer_unnamed(5));
        assert!(ledger.answer_unnamed(3));
        assert!(!ledger.answer_unnamed(5));
        assert!(!ledger.answer_unnamed(3));
        assert!(ledger.answer_unnamed(5 + WINDOW_BITS));
        assert!(ledger.answer_unnamed(5), "beyond the window a repeat passes rather than a late reply being lost");
    }

    #[test]
    fn who_is_told_to_go_goes_when_it_is_owed_nothing() {
        let mut ledger = Ledger::default();
        assert!(!ledger.may_go(), "nobody told it to");
        ledger.expect(1);
        ledger.hand_over();
        ledger.set_waiting(true);
        assert!(ledger.leave(7) && !ledger.leave(8));
        assert_eq!(ledger.leaving_ms(), Some(7));
        assert!(ledger.answer(1) && !ledger.may_go());
        ledger.handed_over();
        assert!(!ledger.may_go());
        ledger.set_waiting(false);
        assert!(ledger.may_go());
    }

    proptest! {
        #[test]
        fn within_the_window_it_agrees_with_a_set(sequences in proptest::collection::vec(1_u64..WINDOW_BITS, 1..300)) {
            let (mut ledger, mut seen) = (Ledger::default(), std::collections::HashSet::new());
            for sequence in sequences {
                prop_assert_eq!(ledger.answer_unnamed(sequence), seen.insert(sequence));
            }
        }

        #[test]
        fn rising_sequences_are_all_first(steps in proptest::collection::vec(1_u64..600, 1..100)) {
            let (mut ledger, mut sequence) = (Ledger::default(), 0);
            for step in steps {
                sequence += step;
                prop_assert!(ledger.answer_unnamed(sequence));
                prop_assert!(!ledger.answer_unnamed(sequence));
            }
        }
    }
}

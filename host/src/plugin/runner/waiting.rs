//! The calls that a runner has not begun: in the order of their coming, and some of them only behind others.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use plugsocket_plugin::call::Operation;

/// A call, and those that are to run behind it.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) number: u64,
    pub(super) operation: Operation,
    pub(super) input: Bytes,
    since: Instant,
    behind: VecDeque<Work>,
}

impl Work {
    pub(super) fn new(number: u64, operation: Operation, input: Bytes) -> Self {
        Self { number, operation, input, since: Instant::now(), behind: VecDeque::new() }
    }

    pub(super) fn behind(&self) -> &VecDeque<Work> {
        &self.behind
    }

    /// How long it has been here.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// Those behind it, as the work of the first of them.
    pub(super) fn into_rest(mut self) -> Option<Self> {
        let mut next = self.behind.pop_front()?;
        next.behind = self.behind;
        Some(next)
    }

    /// The one that the next of its chain would have to come behind.
    fn last(&self) -> u64 {
        self.behind.back().map_or(self.number, |work| work.number)
    }
}

/// What waits. A chain waits as one.
#[derive(Debug, Default)]
pub(super) struct Waiting(VecDeque<Work>);

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes in a call that has just come; `before`, unless it is 0, is the call that it must come behind.
    ///
    /// # Errors
    /// The call, when that one is not the last that waits: it has begun, or has ended, or is gone.
    pub(super) fn push(&mut self, work: Work, before: u64) -> Result<(), Work> {
        if before == 0 {
            self.0.push_back(work);
            return Ok(());
        }
        match self.0.back_mut() {
            Some(last) if last.last() == before => {
                last.behind.push_back(work);
                Ok(())
            }
            _ => Err(work),
        }
    }

    /// What remains of a chain: it has waited longest.
    pub(super) fn push_first(&mut self, work: Work) {
        self.0.push_front(work);
    }

    pub(super) fn pop(&mut self) -> Option<Work> {
        self.0.pop_front()
    }

    /// Takes out the call of this number and those behind it; answers the latter.
    pub(super) fn withdraw(&mut self, number: u64) -> VecDeque<Work> {
        for at in 0..self.0.len() {
            if self.0[at].number == number {
                return self.0.remove(at).map(|work| work.behind).unwrap_or_default();
            }
            let behind = &mut self.0[at].behind;
            if let Some(place) = behind.iter().position(|work| work.number == number) {
                let mut rest = behind.split_off(place);
                rest.pop_front();
                return rest;
            }
        }
        VecDeque::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(number: u64) -> Work {
        Work::new(number, Operation::Action, Bytes::new())
    }

    fn waiting(calls: &[(u64, u64)]) -> Waiting {
        let mut waiting = Waiting::default();
        for (number, before) in calls {
            waiting.push(work(*number), *before).unwrap();
        }
        waiting
    }

    fn numbers<'work>(works: impl IntoIterator<Item = &'work Work>) -> Vec<u64> {
        works.into_iter().map(|work| work.number).collect()
    }

    #[test]
    fn a_chain_waits_as_one_and_comes_in_order() {
        let mut waiting = waiting(&[(1, 0), (2, 1), (3, 2), (4, 0)]);
        assert_eq!(waiting.len(), 2);
        assert_eq!(waiting.push(work(5), 3).unwrap_err().number, 5, "another call has come since");
        let first = waiting.pop().unwrap();
        assert_eq!((first.number, numbers(first.behind())), (1, vec![2, 3]));
        waiting.push_first(first.into_rest().unwrap());
        let second = waiting.pop().unwrap();
        assert_eq!((second.number, numbers(second.behind())), (2, vec![3]));
        let third = second.into_rest().unwrap();
        assert!(third.into_rest().is_none());
        assert_eq!(waiting.pop().unwrap().number, 4);
        assert!(waiting.push(work(6), 4).is_err(), "what it comes behind has begun");
        assert!(waiting.is_empty());
    }

    #[test]
    fn who_is_withdrawn_takes_along_what_is_behind() {
        for (number, rest, left) in
            [(1, vec![2, 3], vec![4]), (2, vec![3], vec![1, 4]), (3, vec![], vec![1, 2, 4]), (9, vec![], vec![1, 2, 3, 4])]
        {
            let mut waiting = waiting(&[(1, 0), (2, 1), (3, 2), (4, 0)]);
            assert_eq!(numbers(&waiting.withdraw(number)), rest);
            let all = waiting.0.iter().flat_map(|work| std::iter::once(work).chain(work.behind()));
            assert_eq!(numbers(all), left);
        }
    }
}

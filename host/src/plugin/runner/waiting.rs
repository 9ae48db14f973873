//! The calls that a runner has not begun: in the order of their coming, and some of them only behind others.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use plugsocket_plugin::call::{Operation, Status};

use crate::plugin::Answer;

/// Behind a call that took so long, or has been here for so long, nothing more begins: the host knows what to do then, and each call has the time
/// that it was given.
pub(super) const QUICK: Duration = Duration::from_millis(1);
const AGE_MAX: Duration = Duration::from_millis(20);
/// Nor behind an answer of so many bytes: nobody may read the answers for a while.
const ANSWER_MAX: usize = 64 * 1024;

/// A call.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) number: u64,
    pub(super) operation: Operation,
    pub(super) input: Bytes,
    since: Instant,
}

impl Work {
    pub(super) fn new(number: u64, operation: Operation, input: Bytes) -> Self {
        Self { number, operation, input, since: Instant::now() }
    }

    /// Whether those behind it may begin, after this answer. What was rejected is over as well; but only of what is done the host need not look at
    /// the answer to know it.
    pub(super) fn lets_others_begin(&self, answer: &Answer, took: Duration, now: Instant) -> bool {
        let is_old = now.saturating_duration_since(self.since) > AGE_MAX;
        answer.status == Status::Done && answer.bytes.len() <= ANSWER_MAX && took < QUICK && !is_old
    }
}

/// Calls that run one after the other.
type Chain = VecDeque<Work>;

/// What waits, in the order of coming; a chain waits as one.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    chains: VecDeque<Chain>,
    /// What is to run behind a call that runs now.
    behind: Vec<(u64, Chain)>,
    calls: usize,
}

impl Waiting {
    /// How many can begin, as far as threads are free.
    pub(super) fn len(&self) -> usize {
        self.chains.len()
    }

    /// All that wait, also those that can't begin before others have ended.
    pub(super) fn calls(&self) -> usize {
        self.calls
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }

    /// Takes in a call that has just come; `before`, unless it is 0, is the call that it must come behind.
    ///
    /// # Errors
    /// The call, when that one is not the last that waits: it has begun, or has ended, or is gone.
    pub(super) fn push(&mut self, work: Work, before: u64) -> Result<(), Work> {
        if before == 0 {
            self.chains.push_back(Chain::from([work]));
        } else {
            let last = self.chains.back_mut().filter(|chain| chain.back().is_some_and(|last| last.number == before));
            let Some(last) = last else { return Err(work) };
            last.push_back(work);
        }
        self.calls += 1;
        Ok(())
    }

    /// Takes out the call that begins now; [`Self::end`] is to be told of its end.
    pub(super) fn pop(&mut self) -> Option<Work> {
        let mut chain = self.chains.pop_front()?;
        let work = chain.pop_front()?;
        self.calls -= 1;
        if !chain.is_empty() {
            self.behind.push((work.number, chain));
        }
        Some(work)
    }

    /// A call has ended. What is behind it is next, for it has waited longest; unless it ended so that nothing may: then that is answered.
    pub(super) fn end(&mut self, number: u64, goes_on: bool) -> Chain {
        let chain = self.take_behind(number);
        if goes_on && !chain.is_empty() {
            self.chains.push_front(chain);
            return Chain::new();
        }
        self.calls -= chain.len();
        chain
    }

    /// Whether anything is to run behind this call, which runs now.
    pub(super) fn has_behind(&self, number: u64) -> bool {
        self.behind.iter().any(|(running, _)| *running == number)
    }

    fn take_behind(&mut self, number: u64) -> Chain {
        let place = self.behind.iter().position(|(running, _)| *running == number);
        place.map(|place| self.behind.swap_remove(place).1).unwrap_or_default()
    }

    /// Takes out the call of this number, unless it runs, and all that are behind it; answers the latter.
    pub(super) fn withdraw(&mut self, number: u64) -> Chain {
        let mut rest = self.take_behind(number);
        if rest.is_empty() {
            let chains = self.chains.iter_mut().chain(self.behind.iter_mut().map(|(_, chain)| chain));
            for chain in chains {
                if let Some(place) = chain.iter().position(|work| work.number == number) {
                    rest = chain.split_off(place);
                    rest.pop_front();
                    self.calls -= 1;
                    break;
                }
            }
            self.chains.retain(|chain| !chain.is_empty());
        }
        self.calls -= rest.len();
        rest
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
        assert_eq!((waiting.len(), waiting.calls()), (2, 4));
        assert_eq!(waiting.push(work(5), 3).unwrap_err().number, 5, "another call has come since");
        assert_eq!(waiting.pop().unwrap().number, 1);
        assert_eq!((waiting.len(), waiting.calls()), (1, 3));
        assert!(waiting.end(1, true).is_empty());
        assert_eq!((waiting.len(), waiting.calls()), (2, 3));
        assert_eq!(waiting.pop().unwrap().number, 2);
        assert_eq!(numbers(&waiting.end(2, false)), [3], "given back");
        assert_eq!(waiting.pop().unwrap().number, 4);
        assert!(waiting.push(work(6), 4).is_err(), "what it comes behind has begun");
        assert!(waiting.is_empty() && waiting.calls() == 0 && waiting.end(4, true).is_empty());
    }

    #[test]
    fn who_is_withdrawn_takes_along_what_is_behind() {
        for (number, rest, left) in
            [(1, vec![2, 3], vec![4]), (2, vec![3], vec![1, 4]), (3, vec![], vec![1, 2, 4]), (9, vec![], vec![1, 2, 3, 4])]
        {
            let mut waiting = waiting(&[(1, 0), (2, 1), (3, 2), (4, 0)]);
            assert_eq!(numbers(&waiting.withdraw(number)), rest);
            assert_eq!((numbers(waiting.chains.iter().flatten()), waiting.calls()), (left.clone(), left.len()));
        }
    }

    #[test]
    fn what_is_behind_a_running_call_can_be_withdrawn_as_well() {
        for (number, rest, left) in [(1, vec![2, 3], vec![]), (2, vec![3], vec![]), (3, vec![], vec![2])] {
            let mut waiting = waiting(&[(1, 0), (2, 1), (3, 2)]);
            assert_eq!(waiting.pop().unwrap().number, 1);
            assert_eq!(numbers(&waiting.withdraw(number)), rest, "{number}");
            assert!(waiting.end(1, true).is_empty());
            assert_eq!((numbers(waiting.chains.iter().flatten()), waiting.calls()), (left.clone(), left.len()));
        }
    }
}

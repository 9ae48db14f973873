//! Serial lanes: items of one key run one after another, different keys in parallel. A plain structure, no tasks in it.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Items waiting in lanes. A lane is ready when it has items and none of its items is running.
#[derive(Debug)]
pub struct Lanes<K, T> {
    lanes: HashMap<K, Lane<T>>,
    ready: VecDeque<K>,
    waiting: usize,
}

#[derive(Debug)]
struct Lane<T> {
    items: VecDeque<T>,
    running: bool,
}

impl<K: Clone + Eq + Hash, T> Lanes<K, T> {
    /// No lanes.
    #[must_use]
    pub fn new() -> Self {
        Self { lanes: HashMap::new(), ready: VecDeque::new(), waiting: 0 }
    }

    /// Puts an item at the end of its lane.
    pub fn push(&mut self, key: K, item: T) {
        let lane = self.lanes.entry(key.clone()).or_insert_with(|| Lane { items: VecDeque::new(), running: false });
        lane.items.push_back(item);
        self.waiting += 1;
        if !lane.running && lane.items.len() == 1 {
            self.ready.push_back(key);
        }
    }

    /// Takes the first item of the lane that has been ready longest; the lane is then busy until [`Self::finish`].
    pub fn start(&mut self) -> Option<(K, T)> {
        let key = self.ready.pop_front()?;
        let lane = self.lanes.get_mut(&key)?;
        let item = lane.items.pop_front()?;
        lane.running = true;
        self.waiting -= 1;
        Some((key, item))
    }

    /// The lane's running item has ended.
    pub fn finish(&mut self, key: &K) {
        let Some(lane) = self.lanes.get_mut(key) else { return };
        lane.running = false;
        if lane.items.is_empty() {
            self.lanes.remove(key);
        } else {
            self.ready.push_back(key.clone());
        }
    }

    /// As [`Self::finish`], and the lane goes on with its next item at once, if it has one.
    pub fn go_on(&mut self, key: &K) -> Option<T> {
        let next = self.lanes.get_mut(key)?.items.pop_front();
        match next {
            Some(_) => self.waiting -= 1,
            None => drop(self.lanes.remove(key)),
        }
        next
    }

    /// The next item of a busy lane, when it fits: it counts as running from now on, beside the one that does.
    pub fn take_if(&mut self, key: &K, fits: impl FnOnce(&T) -> bool) -> Option<T> {
        let items = &mut self.lanes.get_mut(key)?.items;
        if !items.front().is_some_and(fits) {
            return None;
        }
        self.waiting -= 1;
        items.pop_front()
    }

    /// Puts back what was taken: the lane goes on with it.
    pub fn put_back(&mut self, key: &K, item: T) {
        if let Some(lane) = self.lanes.get_mut(key) {
            lane.items.push_front(item);
            self.waiting += 1;
        }
    }

    /// Whether an item pushed to the lane of `key` would wait for others there.
    #[must_use]
    pub fn is_busy(&self, key: &K) -> bool {
        self.lanes.contains_key(key)
    }

    /// Items in the lane of `key` that have not started.
    #[must_use]
    pub fn waiting_in(&self, key: &K) -> usize {
        self.lanes.get(key).map_or(0, |lane| lane.items.len())
    }

    /// Items that have not started, in all lanes.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Whether nothing waits and nothing runs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }
}

impl<K: Clone + Eq + Hash, T> Default for Lanes<K, T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_serial_and_lanes_are_parallel() {
        let mut lanes = Lanes::new();
        for (key, item) in [("a", 1), ("a", 2), ("b", 3)] {
            lanes.push(key, item);
        }
        assert_eq!(lanes.start(), Some(("a", 1)));
        assert_eq!(lanes.start(), Some(("b", 3)));
        assert_eq!(lanes.start(), None, "2 waits behind 1");
        assert_eq!((lanes.waiting(), lanes.waiting_in(&"a")), (1, 1));
        lanes.finish(&"a");
        assert_eq!(lanes.start(), Some(("a", 2)));
        lanes.finish(&"a");
        lanes.finish(&"b");
        assert!(lanes.is_empty());
    }

    #[test]
    fn a_lane_goes_on_until_it_is_empty() {
        let mut lanes = Lanes::new();
        for item in 0..3 {
            lanes.push("a", item);
        }
        assert_eq!(lanes.start(), Some(("a", 0)));
        assert_eq!((lanes.go_on(&"a"), lanes.waiting()), (Some(1), 1));
        assert_eq!(lanes.start(), None, "it is busy");
        assert_eq!((lanes.go_on(&"a"), lanes.go_on(&"a")), (Some(2), None));
        assert!(lanes.is_empty());
        lanes.push("a", 3);
        assert_eq!(lanes.start(), Some(("a", 3)));
    }

    #[test]
    fn what_runs_together_is_taken_in_order_and_put_back_in_order() {
        let mut lanes = Lanes::new();
        for item in 0..4 {
            lanes.push("a", item);
        }
        assert_eq!((lanes.take_if(&"b", |_| true), lanes.start()), (None, Some(("a", 0))));
        assert_eq!((lanes.take_if(&"a", |item| *item == 2), lanes.take_if(&"a", |item| *item == 1)), (None, Some(1)));
        assert_eq!((lanes.take_if(&"a", |_| true), lanes.waiting()), (Some(2), 1));
        lanes.put_back(&"a", 2);
        assert_eq!((lanes.go_on(&"a"), lanes.go_on(&"a"), lanes.go_on(&"a")), (Some(2), Some(3), None));
    }

    #[test]
    fn lanes_take_turns() {
        let mut lanes = Lanes::new();
        for item in 0..3 {
            lanes.push("a", item);
        }
        lanes.push("b", 9);
        let (key, _) = lanes.start().unwrap();
        lanes.finish(&key);
        assert_eq!(lanes.start(), Some(("b", 9)));
    }
}

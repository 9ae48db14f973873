//! What a worker holds: its partitions by lease, and in each the entries that are not settled.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::batch::Settlements;
use super::dedup::Dedup;
use crate::wire::ids::{SessionId, StreamId};

/// Knuth's multiplicative hash: neighbouring partitions get keys far apart.
const SCATTER: u32 = 2_654_435_769;

/// What has to be done before new entries of a partition are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Recovery {
    Nothing,
    /// An answer may have got lost: its entries are pending for this worker, but were never run.
    Own,
    /// The partition was another worker's, which may have died.
    TakeOver,
}

#[derive(Debug)]
struct Owned {
    epoch: u64,
    recovery: Recovery,
    releasing: bool,
    reading: bool,
    /// Since the present read began, jobs of it were put out of hand, or others have come to light: what that read brings is behind them.
    is_overtaken: bool,
    /// It can't be read; tried again then.
    paused_until: Option<Instant>,
    entries: HashMap<StreamId, InHand>,
}

/// A job that was taken and is not settled.
#[derive(Debug)]
struct InHand {
    /// Which delivery of it: an older one of the same entry does not count any more.
    delivery: u64,
    session: SessionId,
    sequence: u64,
    started: bool,
    /// Redis counts it as running alone.
    marked: bool,
}

#[derive(Debug, Default)]
struct State {
    owned: BTreeMap<u32, Owned>,
    renewed: Option<Instant>,
    leaving: bool,
    dedup: Dedup,
    deliveries: u64,
}

/// Shared by a consumer, its lease and the batcher.
#[derive(Debug)]
pub(super) struct Holdings {
    state: Mutex<State>,
    /// Something to read has come, or the last of a partition to be released was settled.
    pub(super) changed: Notify,
    pub(super) releasable: Notify,
    /// No job starts after this share of the lease.
    start_within: Duration,
    /// A partition with so many entries in hand is not read.
    held_max: usize,
}

/// What became of an entry that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hand {
    /// It is in hand; the number of this delivery.
    Taken(u64),
    /// Its job was taken before under another entry: a write that was sent twice.
    Twice,
    /// It stays pending, and is recovered in its turn: older ones come before it.
    NotYet,
}

/// How a delivery of an entry stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is in hand.
    Current,
    /// It is in hand, and Redis counts a start of it.
    Marked,
    /// Another delivery counts, or the entry is another worker's.
    Past,
}

/// What to read next.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) recover: Vec<(u32, Recovery)>,
    pub(super) read: Vec<u32>,
    /// Some are left out because of the jobs in hand.
    pub(super) is_any_full: bool,
}

impl Holdings {
    pub(super) fn new(lease: Duration, held_max: usize) -> Self {
        Self { state: Mutex::default(), changed: Notify::new(), releasable: Notify::new(), start_within: lease.mul_f64(0.9), held_max }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in the answer to a renewal sent at `sent`. True when there is something new to read or to stop reading.
    pub(super) fn renewed(&self, sent: Instant, quota: usize, grants: &[(u32, u64)]) -> bool {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.renewed = Some(sent);
        let mut changed = false;
        state.owned.retain(|partition, owned| {
            let kept = grants.contains(&(*partition, owned.epoch));
            if !kept && !owned.releasing {
                tracing::warn!(partition, unsettled = owned.entries.len(), "partition passed to another worker");
            }
            changed |= !kept;
            kept
        });
        for (partition, epoch) in grants {
            state.owned.entry(*partition).or_insert_with(|| {
                changed = true;
                Owned {
                    epoch: *epoch,
                    recovery: Recovery::TakeOver,
                    releasing: false,
                    reading: false,
                    // A read that began when it was this worker's before.
                    is_overtaken: true,
                    paused_until: None,
                    entries: HashMap::new(),
                }
            });
        }
        let mut keep = quota;
        let mut order: Vec<u32> = state.owned.keys().copied().collect();
        // Those on their way out stay on it, or nothing would ever get there. The rest is scattered, and blind to what is in hand:
        // keeping the busy ones would keep all the work here.
        order.sort_by_key(|partition| (state.owned.get(partition).map(|owned| owned.releasing), partition.wrapping_mul(SCATTER)));
        for partition in order {
            if let Some(owned) = state.owned.get_mut(&partition) {
                let releasing = keep == 0;
                keep = keep.saturating_sub(1);
                changed |= releasing != owned.releasing;
                owned.releasing = releasing;
            }
        }
        metrics::gauge!("plugsocket_worker_partitions").set(f64::from(u32::try_from(state.owned.len()).unwrap_or(u32::MAX)));
        changed
    }

    /// Partitions that nothing holds back any more; they are no longer this worker's.
    pub(super) fn release(&self) -> Vec<u32> {
        let mut state = self.lock();
        let ready = |owned: &Owned| owned.releasing && !owned.reading && owned.entries.is_empty();
        let released: Vec<u32> = state.owned.iter().filter(|(_, owned)| ready(owned)).map(|(partition, _)| *partition).collect();
        for partition in &released {
            state.owned.remove(partition);
        }
        released
    }

    /// Whether the lease holds: nothing is read for it otherwise.
    pub(super) fn is_fresh(&self) -> bool {
        fresh(&self.lock(), self.start_within)
    }

    /// What may be read now; it counts as being read until [`Self::read_ended`].
    pub(super) fn plan(&self) -> Plan {
        let mut state = self.lock();
        let mut plan = Plan::default();
        if state.leaving || !fresh(&state, self.start_within) {
            return plan;
        }
        for (partition, owned) in &mut state.owned {
            let is_paused = owned.paused_until.is_some_and(|until| until > Instant::now());
            if owned.releasing || is_paused {
                continue;
            }
            // One lane that is flooded must not take the room of all the others.
            if owned.entries.len() >= self.held_max {
                plan.is_any_full = true;
                continue;
            }
            owned.paused_until = None;
            owned.is_overtaken = false;
            owned.reading = true;
            match owned.recovery {
                Recovery::Nothing => plan.read.push(*partition),
                recovery => plan.recover.push((*partition, recovery)),
            }
        }
        plan
    }

    /// `failed`: an answer may have got lost.
    pub(super) fn read_ended(&self, failed: bool) {
        let mut state = self.lock();
        let mut releasable = false;
        for owned in state.owned.values_mut() {
            if failed && owned.reading && owned.recovery == Recovery::Nothing {
                owned.recovery = Recovery::Own;
            }
            owned.reading = false;
            releasable |= owned.releasing && owned.entries.is_empty();
        }
        drop(state);
        if releasable {
            self.releasable.notify_one();
        }
    }

    /// Everything that was pending is in hand; unless some of it was put out of hand meanwhile.
    pub(super) fn recovered(&self, partition: u32) {
        if let Some(owned) = self.lock().owned.get_mut(&partition).filter(|owned| !owned.is_overtaken) {
            owned.recovery = Recovery::Nothing;
        }
    }

    /// Leaves a partition out of what is read for a while, and recovers it then.
    pub(super) fn pause(&self, partition: u32, pause: Duration) {
        if let Some(owned) = self.lock().owned.get_mut(&partition) {
            owned.paused_until = Some(Instant::now() + pause);
        }
    }

    /// Whether the entry is in hand already.
    pub(super) fn holds(&self, partition: u32, entry: StreamId) -> bool {
        self.lock().owned.get(&partition).is_some_and(|owned| owned.entries.contains_key(&entry))
    }

    /// Takes an entry in hand.
    pub(super) fn take(&self, partition: u32, entry: StreamId, session: &SessionId, sequence: u64) -> Hand {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.deliveries += 1;
        let delivery = state.deliveries;
        let Some(owned) = state.owned.get_mut(&partition).filter(|owned| !owned.is_overtaken) else { return Hand::NotYet };
        owned.entries.insert(entry, InHand { delivery, session: session.clone(), sequence, started: false, marked: false });
        if state.dedup.take(session, owned.epoch, sequence) { Hand::Taken(delivery) } else { Hand::Twice }
    }

    /// Redis counts a start of it.
    pub(super) fn mark(&self, partition: u32, entry: StreamId) {
        if let Some(held) = self.lock().owned.get_mut(&partition).and_then(|owned| owned.entries.get_mut(&entry)) {
            held.marked = true;
        }
    }

    /// The job may come again under another entry, and is to run then.
    pub(super) fn forget(&self, session: &SessionId, sequence: u64) {
        self.lock().dedup.forget(session, sequence);
    }

    /// Whether the job may start. A refusal puts it out of hand, and all of the partition that have not started with it: if the partition
    /// stays here they are delivered again, in order. Otherwise they would be pending for ever, or the next one would overtake.
    pub(super) fn may_start(&self, partition: u32, entry: StreamId, delivery: u64) -> bool {
        let mut guard = self.lock();
        let state = &mut *guard;
        let is_fresh = fresh(state, self.start_within);
        let Some(owned) = state.owned.get_mut(&partition) else { return false };
        let Some(held) = owned.entries.get_mut(&entry).filter(|held| held.delivery == delivery) else { return false };
        if is_fresh {
            held.started = true;
            return true;
        }
        held.started = false;
        let dedup = &mut state.dedup;
        owned.entries.retain(|_, held| {
            if !held.started {
                dedup.forget(&held.session, held.sequence);
            }
            held.started
        });
        owned.recovery = owned.recovery.max(Recovery::Own);
        owned.is_overtaken = true;
        false
    }

    /// The job's verdict could not be handed on: it is delivered again, here or elsewhere.
    pub(super) fn put_back(&self, partition: u32, entry: StreamId, delivery: u64) {
        let mut guard = self.lock();
        let state = &mut *guard;
        let Some(owned) = state.owned.get_mut(&partition) else { return };
        if owned.entries.get(&entry).is_none_or(|held| held.delivery != delivery) {
            return;
        }
        if let Some(held) = owned.entries.remove(&entry) {
            state.dedup.forget(&held.session, held.sequence);
        }
        owned.recovery = owned.recovery.max(Recovery::Own);
        owned.is_overtaken = true;
        self.changed.notify_one();
        if owned.releasing {
            self.releasable.notify_one();
        }
    }

    /// How this delivery of an entry stands.
    pub(super) fn standing(&self, partition: u32, entry: StreamId, delivery: u64) -> Standing {
        let state = self.lock();
        let held = state.owned.get(&partition).and_then(|owned| owned.entries.get(&entry));
        match held.filter(|held| held.delivery == delivery) {
            None => Standing::Past,
            Some(held) if held.marked => Standing::Marked,
            Some(_) => Standing::Current,
        }
    }

    /// Another consumer has entries of an owned partition: it read late, when it no longer was the owner.
    pub(super) fn strayed(&self, partition: u32) {
        if let Some(owned) = self.lock().owned.get_mut(&partition) {
            owned.recovery = Recovery::TakeOver;
            owned.is_overtaken = true;
        }
    }

    /// Those whose former owner's entries have all been taken over.
    pub(super) fn recovered_ones(&self) -> Vec<u32> {
        let state = self.lock();
        let is_recovered = |entry: &(&u32, &Owned)| entry.1.recovery == Recovery::Nothing;
        state.owned.iter().filter(is_recovered).map(|(partition, _)| *partition).collect()
    }

    pub(super) fn owned(&self) -> Vec<u32> {
        self.lock().owned.keys().copied().collect()
    }

    /// Partitions and their epochs, while the lease on them holds.
    pub(super) fn held(&self) -> Vec<(u32, u64)> {
        let state = self.lock();
        if !fresh(&state, self.start_within) {
            return Vec::new();
        }
        state.owned.iter().map(|(partition, owned)| (*partition, owned.epoch)).collect()
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.lock().leaving
    }

    pub(super) fn leave(&self) {
        self.lock().leaving = true;
    }

    /// Everything goes to others: nothing starts here any more.
    pub(super) fn abandon(&self) {
        self.lock().owned.clear();
    }
}

fn fresh(state: &State, within: Duration) -> bool {
    state.renewed.is_some_and(|renewed| renewed.elapsed() < within)
}

impl Settlements for Holdings {
    fn settled(&self, partition: u32, entries: &[StreamId]) {
        let mut state = self.lock();
        if let Some(owned) = state.owned.get_mut(&partition) {
            let was_full = owned.entries.len() >= self.held_max;
            for entry in entries {
                owned.entries.remove(entry);
            }
            if was_full && owned.entries.len() < self.held_max {
                self.changed.notify_one();
            }
            if owned.entries.is_empty() && owned.releasing {
                self.releasable.notify_one();
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! One plugin's versions: which serves, which stands by, and how what happens moves them. Nothing here waits or touches files.

mod crash;

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::lifecycle::Live;
use super::probation::{self, Verdict};
use super::status::VersionState;
use super::watched::FollowedEnd;
use crate::config::ProbationSettings;

/// A version on probation whose time is over and that lacks calls is looked at this often.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(20);

/// The versions of one plugin that could take calls.
#[derive(Default)]
pub(super) struct Slot {
    stage: Stage,
    /// Messages that crashed a good version.
    poison: VecDeque<String>,
}

#[derive(Default)]
enum Stage {
    #[default]
    Empty,
    Current(Live),
    Probation {
        live: Live,
        trial: Trial,
        standby: Option<Live>,
    },
    /// The candidate crashed; the standby takes the calls until the message has ended there.
    Suspended {
        candidate: Live,
        trial: Trial,
        standby: Live,
        message_id: String,
        until: Instant,
    },
}

#[derive(Clone, Copy)]
struct Trial {
    since: Instant,
    /// Errors that were the messages' fault.
    forgiven: u64,
    /// Crashes that may not have been its doing.
    doubtful: u32,
}

/// What a move leaves to do.
#[derive(Default)]
pub(super) struct Moved {
    /// Another version serves, or none, or it serves again.
    pub(super) is_changed: bool,
    /// Versions that take no more calls.
    pub(super) leaving: Vec<Live>,
    pub(super) notes: Vec<Note>,
}

/// What is to be remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Note {
    /// The version that serves is a good one.
    IsGood,
    /// The version that serves can fail its probation.
    ProbationBegun,
    ProbationOver,
    Quarantined {
        version: String,
        sha256: String,
        reason: String,
    },
}

impl Moved {
    fn changed() -> Self {
        Self { is_changed: true, ..Self::default() }
    }

    fn drain(&mut self, live: Live, reason: &str) {
        live.facts.tally.judge(false);
        live.facts.tally.unfollow();
        live.facts.step(VersionState::Draining, reason);
        self.leaving.push(live);
    }

    fn quarantine(&mut self, live: Live, reason: &str) {
        live.facts.tally.judge(false);
        live.facts.step(VersionState::RolledBack, reason);
        let (version, sha256) = (live.key.version.clone(), live.facts.sha256.clone());
        self.notes.push(Note::Quarantined { version, sha256, reason: reason.to_owned() });
        self.notes.push(Note::ProbationOver);
        self.leaving.push(live);
    }
}

impl Slot {
    /// The version that takes calls.
    pub(super) fn serving(&self) -> Option<&Live> {
        self.holder().filter(|live| live.serves())
    }

    /// The version whose turn it is, though it may be parked.
    pub(super) fn holder(&self) -> Option<&Live> {
        match &self.stage {
            Stage::Empty => None,
            Stage::Current(live) | Stage::Probation { live, .. } => Some(live),
            Stage::Suspended { standby, .. } => Some(standby),
        }
    }

    /// The version kept beside it.
    pub(super) fn other(&self) -> Option<&Live> {
        match &self.stage {
            Stage::Empty | Stage::Current(_) => None,
            Stage::Probation { standby, .. } => standby.as_ref(),
            Stage::Suspended { candidate, .. } => Some(candidate),
        }
    }

    /// Both, the one whose turn it is first.
    pub(super) fn lives(&self) -> impl Iterator<Item = &Live> {
        self.holder().into_iter().chain(self.other())
    }

    /// The last good version, while another is on probation.
    pub(super) fn standby(&self) -> Option<&Live> {
        match &self.stage {
            Stage::Empty | Stage::Current(_) => None,
            Stage::Probation { standby, .. } => standby.as_ref(),
            Stage::Suspended { standby, .. } => Some(standby),
        }
    }

    /// The newest version, which a rollback leaves.
    pub(super) fn candidate(&self) -> Option<&Live> {
        match &self.stage {
            Stage::Suspended { candidate, .. } => Some(candidate),
            _ => self.holder(),
        }
    }

    pub(super) fn lives_mut(&mut self) -> impl Iterator<Item = &mut Live> {
        let (first, second) = match &mut self.stage {
            Stage::Empty => (None, None),
            Stage::Current(live) => (Some(live), None),
            Stage::Probation { live, standby, .. } => (Some(live), standby.as_mut()),
            Stage::Suspended { candidate, standby, .. } => (Some(standby), Some(candidate)),
        };
        first.into_iter().chain(second)
    }

    /// Whether it could be taken back at once.
    pub(super) fn has_standby(&self) -> bool {
        self.standby().is_some_and(|standby| standby.parked.is_empty())
    }

    /// When it is to be looked at next, if nothing happens before.
    pub(super) fn due(&self, settings: &ProbationSettings, now: Instant) -> Option<Instant> {
        match &self.stage {
            Stage::Empty | Stage::Current(_) => None,
            Stage::Probation { trial, .. } => {
                Some((trial.since + settings.time).max(now + settings.time.clamp(LOOK_INTERVAL_MIN, LOOK_INTERVAL)))
            }
            Stage::Suspended { until, .. } => Some(*until),
        }
    }

    /// A version came up. `is_good` when it has been through a probation before.
    pub(super) fn arrive(&mut self, live: Live, is_good: bool, now: Instant) -> Moved {
        let mut moved = Moved::changed();
        let fresh = Trial { since: now, forgiven: 0, doubtful: 0 };
        let (trial, standby) = match std::mem::take(&mut self.stage) {
            Stage::Empty => (fresh, None),
            Stage::Current(old) if old.key.version == live.key.version => {
                moved.drain(old, "its settings changed");
                self.stage = Stage::Current(live);
                self.stand("its settings changed");
                return moved;
            }
            Stage::Current(old) if !old.parked.is_empty() => {
                moved.drain(old, "parked, and replaced by a newer one");
                (fresh, None)
            }
            Stage::Current(old) => (fresh, Some(old)),
            Stage::Probation { live: old, trial, standby } if old.key.version == live.key.version => {
                moved.drain(old, "its settings changed");
                (Trial { forgiven: 0, ..trial }, standby)
            }
            // Nothing better is known yet than the first version, while it has no fault.
            Stage::Probation { live: old, standby: None, .. }
                if old.parked.is_empty() && probation::is_flawless(old.facts.tally.counts()) =>
            {
                (fresh, Some(old))
            }
            Stage::Probation { live: old, standby, .. } => {
                moved.drain(old, "replaced by a newer one");
                (fresh, standby)
            }
            Stage::Suspended { candidate, standby, .. } => {
                moved.drain(candidate, "replaced by a newer one");
                (fresh, Some(standby))
            }
        };
        if let Some(standby) = &standby {
            standby.facts.tally.unfollow();
        }
        let is_known_good = is_good || standby.as_ref().is_some_and(|standby| standby.key.version == live.key.version);
        if is_known_good {
            if let Some(standby) = standby {
                moved.drain(standby, "its settings changed");
            }
            self.stage = Stage::Current(live);
            moved.notes.push(Note::ProbationOver);
            moved.notes.push(Note::IsGood);
            self.stand("the last good version");
            return moved;
        }
        live.facts.tally.judge(standby.is_some());
        let is_judged = standby.is_some();
        self.stage = Stage::Probation { live, trial, standby };
        moved.notes.push(if is_judged { Note::ProbationBegun } else { Note::ProbationOver });
        self.stand(if is_judged { "" } else { "no good version before it to fall back to" });
        moved
    }

    /// A version came up that must not serve after all.
    pub(super) fn turn_away(live: Live) -> Moved {
        let mut moved = Moved::default();
        live.facts.step(VersionState::RolledBack, "quarantined while it came up");
        moved.leaving.push(live);
        moved
    }

    /// The version on probation and its standby, both to be given a new place. `None`, and nothing changed, without a standby.
    fn take_candidate(&mut self) -> Option<(Live, Live)> {
        match std::mem::take(&mut self.stage) {
            Stage::Probation { live, standby: Some(standby), .. } => Some((live, standby)),
            Stage::Suspended { candidate, standby, .. } => Some((candidate, standby)),
            stage => {
                self.stage = stage;
                None
            }
        }
    }

    /// The standby's file was put back: it needs no second look.
    pub(super) fn return_to_standby(&mut self) -> Moved {
        let Some((old, standby)) = self.take_candidate() else { return Moved::default() };
        let mut moved = Moved::changed();
        moved.drain(old, "the version before it was put back");
        moved.notes.push(Note::ProbationOver);
        moved.notes.push(Note::IsGood);
        self.put_back(standby, "put back");
        moved
    }

    /// Back to the standby, and never again to the candidate. Nothing, when there is no standby.
    pub(super) fn roll_back(&mut self, reason: &str) -> Moved {
        let Some((old, standby)) = self.take_candidate() else { return Moved::default() };
        let mut moved = Moved::changed();
        moved.quarantine(old, reason);
        // A restart must find it, also when it had not ended its own probation.
        moved.notes.push(Note::IsGood);
        self.put_back(standby, "put back: the version after it was rolled back");
        moved
    }

    /// As [`Self::roll_back`], to a version that was brought up for it.
    pub(super) fn roll_back_to(&mut self, good: Live, reason: &str) -> Moved {
        let mut moved = Moved::changed();
        let place = |live: Live, moved: &mut Moved| moved.quarantine(live, reason);
        match std::mem::take(&mut self.stage) {
            Stage::Empty => {}
            Stage::Current(live) => place(live, &mut moved),
            Stage::Probation { live, standby, .. } => {
                place(live, &mut moved);
                standby.into_iter().for_each(|standby| moved.drain(standby, "replaced by the good version before it"));
            }
            Stage::Suspended { candidate, standby, .. } => {
                place(candidate, &mut moved);
                moved.drain(standby, "replaced by the good version before it");
            }
        }
        self.stage = Stage::Current(good);
        moved.notes.push(Note::IsGood);
        self.stand("put back by hand");
        moved
    }

    /// Everything leaves.
    pub(super) fn clear(&mut self, reason: &str) -> Moved {
        let mut moved = Moved::changed();
        match std::mem::take(&mut self.stage) {
            Stage::Empty => return Moved::default(),
            Stage::Current(live) => moved.drain(live, reason),
            Stage::Probation { live, standby, .. } => {
                moved.drain(live, reason);
                standby.into_iter().for_each(|standby| moved.drain(standby, reason));
            }
            Stage::Suspended { candidate, standby, .. } => {
                moved.drain(candidate, reason);
                moved.drain(standby, reason);
            }
        }
        moved.notes.push(Note::ProbationOver);
        moved
    }

    /// Looks at the numbers and the clock.
    pub(super) fn look(&mut self, settings: &ProbationSettings, now: Instant) -> Moved {
        match &self.stage {
            Stage::Empty | Stage::Current(_) => Moved::default(),
            Stage::Probation { live, trial, standby } => {
                let usable = standby.as_ref().filter(|standby| standby.parked.is_empty());
                let before = usable.map(|standby| standby.facts.tally.counts());
                match probation::judge(live.facts.tally.counts(), trial.forgiven, before, now.duration_since(trial.since), settings) {
                    Verdict::Open => Moved::default(),
                    Verdict::Bad(reason) => self.roll_back(&reason),
                    Verdict::Good if !live.parked.is_empty() => Moved::default(),
                    Verdict::Good => self.pass_probation(),
                }
            }
            Stage::Suspended { standby, until, .. } => match standby.facts.tally.followed_end() {
                Some(FollowedEnd::Crashed) => self.acquit(),
                Some(FollowedEnd::Otherwise) => self.roll_back("it crashed on a message that the version before it survived"),
                None if now >= *until => self.roll_back("it crashed, and the message did not come again to clear it"),
                None => Moved::default(),
            },
        }
    }

    fn pass_probation(&mut self) -> Moved {
        let mut moved = Moved::changed();
        if let Stage::Probation { live, standby, .. } = std::mem::take(&mut self.stage) {
            live.facts.tally.judge(false);
            standby.into_iter().for_each(|standby| moved.drain(standby, "its successor passed its probation"));
            self.stage = Stage::Current(live);
            self.stand("passed its probation");
        }
        moved.notes.extend([Note::ProbationOver, Note::IsGood]);
        moved
    }

    fn put_back(&mut self, standby: Live, reason: &str) {
        standby.facts.tally.unfollow();
        self.stage = Stage::Current(standby);
        self.stand(reason);
    }

    /// Writes down where each version stands now.
    fn stand(&self, reason: &str) {
        let state = |live: &Live, state| {
            if live.parked.is_empty() {
                live.facts.step(state, reason);
            }
        };
        match &self.stage {
            Stage::Empty => {}
            Stage::Current(live) => state(live, VersionState::Current),
            Stage::Probation { live, standby, .. } => {
                state(live, VersionState::Probation);
                if let Some(standby) = standby.as_ref().filter(|standby| standby.facts.state() != VersionState::Standby) {
                    let text = "kept while its successor is on probation";
                    if standby.parked.is_empty() {
                        standby.facts.step(VersionState::Standby, text);
                    }
                }
            }
            Stage::Suspended { candidate, standby, .. } => {
                state(candidate, VersionState::Suspended);
                state(standby, VersionState::Standby);
            }
        }
    }
}

#[cfg(test)]
mod tests;

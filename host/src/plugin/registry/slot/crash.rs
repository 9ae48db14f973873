//! Crashes and parked versions: whose fault it was, and what follows.

use std::time::Duration;

use plugsocket_plugin::call::Role;
use tokio::time::Instant;

use super::{Moved, Slot, Stage, Trial};
use crate::plugin::blame::{RunnerEvent, Subject};
use crate::plugin::registry::status::VersionState;

/// How long the message of a crash is waited for on the standby.
const SUSPENSION_MAX: Duration = Duration::from_secs(30);
/// Crashes that may be nobody's fault; with as many, they are the version's.
const DOUBTFUL_MAX: u32 = 3;
/// Messages remembered as poison; the oldest are forgotten.
const POISON_MAX: usize = 64;

impl Slot {
    /// Something happened to a version beside its calls.
    pub(in crate::plugin::registry) fn hear(&mut self, version: &str, event: RunnerEvent, now: Instant) -> Moved {
        match event {
            RunnerEvent::Crashed { subject, is_doubtful, reason } => {
                if subject.is_none()
                    && let Some(live) = self.lives_mut().find(|live| live.key.version == version)
                {
                    live.facts.tally.add_crash();
                }
                if is_doubtful && subject.is_none() && self.is_tolerated(version) {
                    return Moved::default();
                }
                self.crashed(version, subject, &reason, now)
            }
            RunnerEvent::Parked { role, reason } => self.park(version, role, reason),
            RunnerEvent::Recovered { role } => {
                let Some(live) = self.lives_mut().find(|live| live.key.version == version) else { return Moved::default() };
                if !live.parked.contains(&role) {
                    return Moved::default();
                }
                live.parked.retain(|parked| *parked != role);
                self.stand("a runner has come up again");
                Moved::changed()
            }
        }
    }

    /// Counts a crash that may not be the candidate's doing; true until there are too many of them for chance.
    fn is_tolerated(&mut self, version: &str) -> bool {
        let trial = match &mut self.stage {
            Stage::Probation { live, trial, .. } if live.key.version == version => trial,
            Stage::Suspended { candidate, trial, .. } if candidate.key.version == version => trial,
            _ => return true,
        };
        trial.doubtful += 1;
        trial.doubtful < DOUBTFUL_MAX
    }

    fn crashed(&mut self, version: &str, subject: Option<Subject>, reason: &str, now: Instant) -> Moved {
        let message_id = subject.map(|subject| subject.message_id).filter(|id| !id.is_empty());
        let is_poison = message_id.as_ref().is_some_and(|id| self.poison.contains(id));
        let has_standby = self.has_standby();
        let is_of_good = match &self.stage {
            Stage::Current(live) => live.key.version == version,
            _ => self.standby().is_some_and(|standby| standby.key.version == version),
        };
        // Its last attempt may fall to a candidate that has come meanwhile: then it is not tried on the standby any more.
        if is_of_good && let Some(message_id) = message_id.as_ref().filter(|_| !is_poison) {
            self.remember_poison(message_id.clone());
        }
        match &mut self.stage {
            Stage::Probation { live, trial, .. } if live.key.version == version => {
                if is_poison {
                    trial.forgiven += 1;
                    return Moved::default();
                }
                match message_id {
                    _ if !has_standby => Moved::default(),
                    Some(message_id) => self.suspend(message_id, reason, now),
                    None => self.roll_back(&format!("it crashed: {reason}")),
                }
            }
            Stage::Suspended { standby, message_id: followed, .. } if standby.key.version == version => {
                if message_id.as_ref() == Some(followed) { self.acquit() } else { Moved::default() }
            }
            Stage::Suspended { candidate, message_id: followed, .. } if candidate.key.version == version => {
                if is_poison || message_id.as_ref() == Some(followed) {
                    return Moved::default();
                }
                self.roll_back(&format!("it crashed again: {reason}"))
            }
            _ => Moved::default(),
        }
    }

    fn suspend(&mut self, message_id: String, reason: &str, now: Instant) -> Moved {
        let (live, trial, standby) = match std::mem::take(&mut self.stage) {
            Stage::Probation { live, trial, standby: Some(standby) } => (live, trial, standby),
            stage => {
                self.stage = stage;
                return Moved::default();
            }
        };
        live.facts.step(VersionState::Suspended, &format!("{reason}, on message {message_id}"));
        standby.facts.tally.follow(&message_id);
        self.stage = Stage::Suspended { candidate: live, trial, standby, message_id, until: now + SUSPENSION_MAX };
        Moved::changed()
    }

    /// The message crashes the standby as well: the candidate goes on.
    pub(super) fn acquit(&mut self) -> Moved {
        let Stage::Suspended { message_id, .. } = &self.stage else { return Moved::default() };
        let message_id = message_id.clone();
        self.resume(&format!("cleared: message {message_id} crashes the version before it as well"));
        self.remember_poison(message_id);
        Moved::changed()
    }

    fn remember_poison(&mut self, message_id: String) {
        if !self.poison.contains(&message_id) {
            self.poison.push_back(message_id);
        }
        let surplus = self.poison.len().saturating_sub(POISON_MAX);
        self.poison.drain(..surplus);
    }

    fn resume(&mut self, reason: &str) {
        match std::mem::take(&mut self.stage) {
            Stage::Suspended { candidate, trial, standby, .. } => {
                standby.facts.tally.unfollow();
                let trial = Trial { forgiven: trial.forgiven + 1, ..trial };
                self.stage = Stage::Probation { live: candidate, trial, standby: Some(standby) };
                self.stand(reason);
            }
            stage => self.stage = stage,
        }
    }

    fn park(&mut self, version: &str, role: Role, reason: String) -> Moved {
        let is_candidate = match &self.stage {
            Stage::Probation { live, .. } => live.key.version == version,
            Stage::Suspended { candidate, .. } => candidate.key.version == version,
            _ => false,
        };
        if is_candidate && self.has_standby() {
            return self.roll_back(&format!("no runner of it comes up: {reason}"));
        }
        if matches!(&self.stage, Stage::Suspended { standby, .. } if standby.key.version == version) {
            // Better one that may be to blame than none.
            self.resume("the version before it takes no calls any more");
        }
        let Some(live) = self.lives_mut().find(|live| live.key.version == version) else { return Moved::default() };
        if !live.parked.contains(&role) {
            live.parked.push(role);
        }
        let reason = if live.serves() { format!("{}: {reason}", role_name(role)) } else { reason };
        live.facts.step(VersionState::Parked, &reason);
        Moved::changed()
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Handler => "handler only",
        Role::Actions => "actions only",
    }
}

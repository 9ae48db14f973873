//! One wanted plugin as the writer keeps it: its versions, what was seen of its file, and what was refused.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::facts::{Facts, now_ms};
use super::lifecycle::{Key, Wanted};
use super::orders::short;
use super::record::Record;
use super::slot::Slot;
use super::status::{PluginState, PluginStatus, RejectionStatus, VersionState};
use crate::plugin::error::PluginError;
use crate::plugin::store::Fingerprint;

const RETRY_BACKOFF: Duration = Duration::from_secs(1);
const RETRY_BACKOFF_MAX: Duration = Duration::from_secs(60);
/// What failed this often for outside reasons waits for its file or config to change.
const RETRIES_MAX: u32 = 60;
/// Rejected versions that are still shown.
const REJECTED_SHOWN_MAX: usize = 4;
const WAITING: &str = "a changed library waits: run `plugsocket plugins reload`";
const WAITING_FOR_START: &str = "a changed library waits for the next start (reload = \"off\")";

/// One wanted plugin.
#[derive(Default)]
pub(super) struct Entry {
    pub(super) slot: Slot,
    pub(super) since_ms: u64,
    pub(super) rejected: Option<Rejected>,
    /// What was looked at last; the same is not looked at again.
    pub(super) seen: Option<(Fingerprint, Wanted)>,
    pub(super) is_missing: bool,
    /// A changed file that is not tried by itself, and why not.
    pub(super) waiting: Option<(Fingerprint, &'static str)>,
    pub(super) refused_actions: BTreeMap<String, String>,
    pub(super) record: Record,
    /// The last good version was begun with, or there was none.
    pub(super) is_begun: bool,
    /// There is a mark that a version in this process is on probation.
    pub(super) is_marked: bool,
    /// Versions that have left, or were refused.
    past: Vec<Arc<Facts>>,
}

/// What was refused last.
pub(super) struct Rejected {
    pub(super) key: Option<Key>,
    pub(super) status: RejectionStatus,
    failures: u32,
    pub(super) is_worth_retrying: bool,
    pub(super) retry_at: Option<Instant>,
}

impl Entry {
    pub(super) fn new(name: &str, record: Record) -> Self {
        let recalled = |entry: &super::record::Quarantined| {
            Facts::recalled(name, (&entry.version, &entry.sha256), VersionState::RolledBack, entry.at_ms, &entry.reason)
        };
        let past = record.quarantine.iter().map(recalled).collect();
        Self { since_ms: now_ms(), past, record, ..Self::default() }
    }

    /// Remembers a version that has left or was refused.
    pub(super) fn remember(&mut self, facts: &Arc<Facts>) {
        self.past.retain(|past| !past.has_ended() || (past.version != facts.version && past.state() != VersionState::Retired));
        self.past.push(Arc::clone(facts));
        let record = &self.record;
        let is_stale = |past: &Arc<Facts>| {
            past.has_ended()
                && past.state() == VersionState::RolledBack
                && !record.is_quarantined(&past.version)
                && past.version != facts.version
        };
        self.past.retain(|past| !is_stale(past));
        let rejected: Vec<_> =
            self.past.iter().filter(|past| past.state() == VersionState::Rejected).map(|past| past.version.clone()).collect();
        let surplus = rejected.len().saturating_sub(REJECTED_SHOWN_MAX);
        if let Some(surplus) = rejected.get(..surplus) {
            self.past.retain(|past| past.state() != VersionState::Rejected || !surplus.contains(&past.version));
        }
    }

    /// Versions that are not tried again by themselves.
    pub(super) fn refused(&self) -> impl Iterator<Item = &Arc<Facts>> {
        self.past.iter().filter(|past| matches!(past.state(), VersionState::RolledBack | VersionState::Rejected))
    }

    /// The version may be tried again.
    pub(super) fn forgive(&mut self, version: &str) {
        self.past.retain(|past| past.version != version || !past.has_ended());
        let is_it = |rejected: &mut Rejected| rejected.key.as_ref().is_some_and(|key| key.version == version);
        self.rejected.take_if(is_it);
        self.seen = None;
        self.waiting = None;
    }

    /// All of its versions, the one that takes calls first.
    pub(super) fn facts(&self) -> Vec<Arc<Facts>> {
        let lives = self.slot.lives().map(|live| Arc::clone(&live.facts));
        lives.chain(self.past.iter().rev().map(Arc::clone)).collect()
    }

    pub(super) fn status(&self, name: &str) -> PluginStatus {
        let holder = self.slot.holder();
        let serving = self.slot.serving();
        let state = match holder {
            Some(live) if live.parked.is_empty() => PluginState::Live,
            Some(_) => PluginState::Parked,
            None if self.is_missing => PluginState::Missing,
            None => PluginState::Rejected,
        };
        let manifest = serving.map(|live| &live.manifest);
        PluginStatus {
            name: name.to_owned(),
            state,
            version: serving.map(|live| live.key.version.clone()),
            manifest_version: manifest.map(|manifest| manifest.version.clone()),
            actions: manifest.map(|manifest| manifest.actions.clone()).unwrap_or_default(),
            since_ms: self.since_ms,
            refused_actions: self.refused_actions.clone(),
            last_rejection: self.rejected.as_ref().map(|rejected| rejected.status.clone()),
            waiting: self.waiting.map(|(_, text)| text.to_owned()),
            versions: Vec::new(),
        }
    }

    /// A changed file is left alone; logged once.
    pub(super) fn note_waiting(&mut self, name: &str, fingerprint: Fingerprint, is_off: bool) {
        let waiting = (fingerprint, if is_off { WAITING_FOR_START } else { WAITING });
        if self.waiting.replace(waiting) != Some(waiting) {
            tracing::info!(plugin = name, "{}", waiting.1);
        }
    }

    pub(super) fn note_missing(&mut self, name: &str, looked_for: Vec<PathBuf>) {
        if std::mem::replace(&mut self.is_missing, true) {
            return;
        }
        match self.slot.holder() {
            Some(live) => tracing::warn!(plugin = name, version = live.key.version, "file is gone; its live version stays in service"),
            None => self.reject(name, None, &PluginError::Missing { looked_for }),
        }
    }

    /// Its version is in quarantine.
    pub(super) fn note_quarantined(&mut self, name: &str, key: Key) {
        let why = self.record.quarantine.iter().find(|entry| entry.version == key.version);
        let (sha256, reason) = why.map_or(("", ""), |entry| (entry.sha256.as_str(), entry.reason.as_str()));
        let reason = format!("quarantined: {reason}; to try it again: `plugsocket plugins retry {}`", short(sha256));
        tracing::warn!(plugin = name, version = key.version, sha256, reason, "plugin file is not tried");
        let status = RejectionStatus { version: key.version.clone(), reason, at_ms: now_ms() };
        self.rejected = Some(Rejected { key: Some(key), status, failures: 0, is_worth_retrying: false, retry_at: None });
    }

    /// A file was refused; `found` when it could be copied.
    pub(super) fn reject(&mut self, name: &str, found: Option<(Key, Arc<Facts>)>, error: &PluginError) {
        let reason = error.to_string();
        let key = found.as_ref().map(|(key, _)| key.clone());
        let version = key.as_ref().map(|key| key.version.clone()).unwrap_or_default();
        let before = self.rejected.take();
        let is_repeated = before.as_ref().is_some_and(|before| before.key == key && before.status.reason == reason);
        let failures = before.filter(|before| before.key == key).map_or(1, |before| before.failures.saturating_add(1));
        let may_retry = error.is_worth_retrying() && failures <= RETRIES_MAX;
        let backoff = RETRY_BACKOFF.saturating_mul(1 << (failures - 1).min(6)).min(RETRY_BACKOFF_MAX);
        match found {
            Some((_, facts)) if !is_repeated => {
                facts.refuse(&reason);
                self.remember(&facts);
            }
            Some(_) => {}
            None if is_repeated => {}
            None => tracing::warn!(plugin = name, reason, retried = may_retry, "plugin file rejected"),
        }
        if !is_repeated {
            metrics::counter!("plugsocket_plugin_rejections_total", "plugin" => name.to_owned()).increment(1);
        }
        self.rejected = Some(Rejected {
            key,
            status: RejectionStatus { version, reason, at_ms: now_ms() },
            failures,
            is_worth_retrying: error.is_worth_retrying(),
            retry_at: may_retry.then(|| Instant::now() + backoff),
        });
    }
}

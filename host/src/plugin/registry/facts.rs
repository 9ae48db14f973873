//! What is known of one version for as long as anybody asks, and every change of where it stands.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use plugsocket_plugin::call::Manifest;

use super::status::{VersionState, VersionStatus};
use super::watched::Tally;
use crate::config::Isolation;

/// One version of one plugin. Outlives what it tells of.
pub(super) struct Facts {
    plugin: String,
    pub(super) version: String,
    /// Of its file alone.
    pub(super) sha256: String,
    isolation: Isolation,
    pub(super) tally: Arc<Tally>,
    manifest: OnceLock<Manifest>,
    standing: Mutex<Standing>,
    has_ended: AtomicBool,
}

#[derive(Clone)]
struct Standing {
    state: VersionState,
    since_ms: u64,
    reason: String,
}

impl Facts {
    /// Of a version that stands where `state` says since `since_ms`, which is not logged.
    pub(super) fn recalled(plugin: &str, ids: (&str, &str), state: VersionState, since_ms: u64, reason: &str) -> Arc<Self> {
        let standing = Standing { state, since_ms, reason: reason.to_owned() };
        Arc::new(Self {
            plugin: plugin.to_owned(),
            version: ids.0.to_owned(),
            sha256: ids.1.to_owned(),
            isolation: Isolation::Process,
            tally: Arc::default(),
            manifest: OnceLock::new(),
            standing: Mutex::new(standing),
            has_ended: AtomicBool::new(true),
        })
    }

    /// Of a version that was just staged. `ids` are the version's and the file's.
    pub(super) fn staged(plugin: &str, ids: (&str, &str), isolation: Isolation, tally: Arc<Tally>) -> Arc<Self> {
        let standing = Standing { state: VersionState::Staged, since_ms: now_ms(), reason: String::new() };
        let facts = Self {
            plugin: plugin.to_owned(),
            version: ids.0.to_owned(),
            sha256: ids.1.to_owned(),
            isolation,
            tally,
            manifest: OnceLock::new(),
            standing: Mutex::new(standing),
            has_ended: AtomicBool::new(false),
        };
        facts.log(None, VersionState::Staged, "copied from the plugins folder");
        Arc::new(facts)
    }

    pub(super) fn describe(&self, manifest: &Manifest) {
        let _ = self.manifest.set(manifest.clone()); // Told once.
    }

    pub(super) fn state(&self) -> VersionState {
        self.standing().state
    }

    /// The one place where a version changes its state.
    pub(super) fn step(&self, to: VersionState, reason: &str) {
        let mut standing = self.standing();
        let from = standing.state;
        if from != to || standing.reason != reason {
            *standing = Standing { state: to, since_ms: now_ms(), reason: reason.to_owned() };
            drop(standing);
            self.log(Some(from), to, reason);
        }
    }

    /// It never came up.
    pub(super) fn refuse(&self, reason: &str) {
        self.has_ended.store(true, Ordering::Relaxed);
        self.step(VersionState::Rejected, reason);
    }

    /// Its instances are gone. What was rolled back is remembered as that.
    pub(super) fn end(&self, reason: &str) {
        self.has_ended.store(true, Ordering::Relaxed);
        match self.state() {
            VersionState::RolledBack | VersionState::Rejected => self.log(Some(self.state()), VersionState::Retired, reason),
            _ => self.step(VersionState::Retired, reason),
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self, from: Option<VersionState>, to: VersionState, reason: &str) {
        let (plugin, sha256, version) = (&self.plugin, &self.sha256, &self.version);
        let (from, to_name) = (from.map_or("seen", VersionState::name), to.name());
        let number = self.manifest.get().map(|manifest| manifest.version.as_str());
        macro_rules! event {
            ($level:ident, $text:literal) => {
                tracing::$level!(plugin, version, sha256, number, from, to = to_name, reason, $text)
            };
        }
        match to {
            VersionState::Staged => event!(info, "plugin version staged"),
            VersionState::Checked => event!(info, "plugin version checked"),
            VersionState::Starting => event!(info, "plugin version starting"),
            VersionState::Probation => event!(info, "plugin version is live, on probation"),
            VersionState::Current => event!(info, "plugin version is live"),
            VersionState::Standby => event!(info, "plugin version stands by"),
            VersionState::Draining => event!(info, "plugin version drains"),
            VersionState::Retired => event!(info, "version retired"),
            VersionState::Rejected => event!(warn, "plugin file rejected"),
            VersionState::RolledBack => event!(error, "plugin version rolled back and quarantined"),
            VersionState::Suspended => event!(warn, "plugin version suspended: it crashed, and the message is tried on the one before"),
            VersionState::Parked => event!(error, "plugin version parked: it takes no calls"),
        }
        metrics::counter!("plugsocket_plugin_transitions_total", "plugin" => plugin.clone(), "to" => to_name).increment(1);
    }

    pub(super) fn status(&self) -> VersionStatus {
        let (standing, counts) = (self.standing().clone(), self.tally.counts());
        let manifest = self.manifest.get();
        VersionStatus {
            version: self.version.clone(),
            sha256: self.sha256.clone(),
            manifest_version: manifest.map(|manifest| manifest.version.clone()).unwrap_or_default(),
            sdk: manifest.map(|manifest| manifest.sdk.clone()).unwrap_or_default(),
            isolation: isolation_name(self.isolation),
            state: standing.state,
            since_ms: standing.since_ms,
            calls: counts.calls,
            errors: counts.errors,
            timeouts: counts.timeouts,
            crashes: counts.crashes,
            in_flight: counts.in_flight,
            last_reason: Some(standing.reason).filter(|reason| !reason.is_empty()),
        }
    }
}

fn isolation_name(isolation: Isolation) -> &'static str {
    match isolation {
        Isolation::Process => "process",
        Isolation::InProcess => "in-process",
    }
}

pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

//! The one task that changes what is live.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use plugsocket_plugin::call::Role;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::lifecycle::{Attempt, Attempted, Key, Live, Wanted, candidates};
use super::status::{PluginState, PluginStatus, RejectionStatus};
use super::{Command, RegistryError, RegistryOptions, Shared, Table};
use crate::config::Settings;
use crate::plugin::error::PluginError;
use crate::plugin::library::loaded_count;
use crate::plugin::store::{Fingerprint, StagedStore};

const RETRY_BACKOFF: Duration = Duration::from_secs(1);
const RETRY_BACKOFF_MAX: Duration = Duration::from_secs(60);
/// What failed this often for outside reasons waits for its file or config to change.
const RETRIES_MAX: u32 = 60;
const RETIRED_WARNING: u64 = 200;

pub(super) struct Writer {
    options: RegistryOptions,
    store: StagedStore,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    runtime: Handle,
    slots: BTreeMap<String, Slot>,
    is_warned_of_retired: bool,
}

/// One wanted plugin.
#[derive(Default)]
struct Slot {
    live: Option<Live>,
    since_ms: u64,
    rejected: Option<Rejected>,
    /// What was looked at last; the same is not looked at again.
    seen: Option<(Fingerprint, Wanted)>,
    is_missing: bool,
    refused_actions: BTreeMap<String, String>,
}

struct Rejected {
    key: Option<Key>,
    status: RejectionStatus,
    failures: u32,
    is_worth_retrying: bool,
    retry_at: Option<Instant>,
}

impl Writer {
    pub(super) fn new(options: RegistryOptions, store: StagedStore, shared: Arc<Shared>, tasks: TaskTracker, runtime: Handle) -> Self {
        Self { options, store, shared, tasks, runtime, slots: BTreeMap::new(), is_warned_of_retired: false }
    }

    /// Passes when asked, and when a failed constructor is due again; at `stop` takes everything out of service.
    pub(super) async fn run(mut self, mut asked: mpsc::Receiver<Command>, stop: CancellationToken) {
        loop {
            let retry_at = self.slots.values().filter_map(|slot| slot.rejected.as_ref()?.retry_at).min();
            let due = async {
                match retry_at {
                    Some(at) => time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let mut waiting = Vec::new();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                first = asked.recv() => match first {
                    Some(command) => self.note(command, &mut waiting),
                    None => break,
                },
                () = due => {}
            }
            while let Ok(command) = asked.try_recv() {
                self.note(command, &mut waiting);
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.pass() => {}
            }
            for done in waiting {
                let _ = done.send(()); // A caller may have given up.
            }
        }
        self.shared.table.store(Arc::new(Table::default()));
        for live in std::mem::take(&mut self.slots).into_values().filter_map(|slot| slot.live) {
            self.retire(live);
        }
    }

    fn note(&mut self, command: Command, waiting: &mut Vec<oneshot::Sender<()>>) {
        match command {
            Command::Pass { done, .. } => waiting.push(done),
            Command::Rollback { plugin, done } => {
                let _ = done.send(Err(RegistryError::NoGoodVersion(plugin)));
            }
            Command::Retry { id, done } => {
                let _ = done.send(Err(RegistryError::NotRefused(id)));
            }
        }
    }

    /// Makes what is live agree with files and settings, plugin by plugin; each goes live as soon as it is ready.
    pub(super) async fn pass(&mut self) {
        let settings = self.options.settings.load_full();
        let wanted = self.wanted(&settings);
        let attempts: Vec<Attempt> = wanted.iter().filter_map(|(name, wanted)| self.attempt(name, wanted, &settings)).collect();
        let mut coming: BTreeSet<String> = attempts.iter().map(|attempt| attempt.name.clone()).collect();
        let mut attempts: FuturesUnordered<_> = attempts.into_iter().map(Attempt::run).collect();
        self.publish(&settings, &coming);
        while let Some((name, seen, attempted)) = attempts.next().await {
            if let (Some(slot), Some(wanted)) = (self.slots.get_mut(&name), wanted.get(&name)) {
                slot.seen = seen.map(|seen| (seen, wanted.clone()));
            }
            let replaced = self.settle(&name, attempted);
            coming.remove(&name);
            self.publish(&settings, &coming);
            if let Some(live) = replaced {
                self.retire(live);
            }
        }
        // Last: until then an action that has moved to another plugin was served by the one it had.
        let unwanted: Vec<String> = self.slots.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        for name in unwanted {
            if let Some(live) = self.slots.remove(&name).and_then(|slot| slot.live) {
                tracing::info!(plugin = name, sha256 = live.key.version, "plugin unloaded: the config does not ask for it any more");
                self.publish(&settings, &coming);
                self.retire(live);
            }
        }
        self.warn_of_retired();
    }

    /// The plugins that the settings ask for, and what for.
    fn wanted(&self, settings: &Settings) -> BTreeMap<String, Wanted> {
        let handler = settings.server.handler.as_ref().filter(|_| self.options.roles.handler);
        let handler = handler.map(|name| (name, Role::Handler));
        let actions = settings.actions.values().filter(|_| self.options.roles.actions).map(|action| (&action.plugin, Role::Actions));
        let mut wanted = BTreeMap::new();
        for (name, role) in handler.into_iter().chain(actions) {
            let entry = wanted
                .entry(name.clone())
                .or_insert_with(|| Wanted { roles: Vec::new(), settings: settings.plugins.get(name).cloned().unwrap_or_default() });
            if !entry.roles.contains(&role) {
                entry.roles.push(role);
            }
        }
        wanted
    }

    /// An attempt, when there is something new to try.
    fn attempt(&mut self, name: &str, wanted: &Wanted, settings: &Settings) -> Option<Attempt> {
        let slot = self.slots.entry(name.to_owned()).or_insert_with(|| Slot { since_ms: now_ms(), ..Slot::default() });
        let found = match candidates(&settings.plugins_dir, name) {
            Ok(paths) => paths.iter().find_map(|path| Some((path.clone(), Fingerprint::of(path)?))).ok_or(paths),
            Err(error) => {
                reject(name, slot, None, &error);
                return None;
            }
        };
        let (file, fingerprint) = match found {
            Ok(found) => found,
            Err(paths) => {
                note_missing(name, slot, paths);
                return None;
            }
        };
        slot.is_missing = false;
        // Taken, not looked at: whatever comes of this attempt, it is not due again at once.
        let is_due = slot.rejected.as_mut().is_some_and(|rejected| rejected.retry_at.take_if(|at| *at <= Instant::now()).is_some());
        if slot.seen.as_ref().is_some_and(|(seen, how)| *seen == fingerprint && how == wanted) && !is_due {
            return None;
        }
        let live = slot.live.as_ref().map(|live| live.key.clone());
        // A file that is put there again is asked for again, when what it failed for was not its own.
        let refused = slot.rejected.as_ref().filter(|rejected| !rejected.is_worth_retrying).and_then(|rejected| rejected.key.clone());
        Some(Attempt {
            name: name.to_owned(),
            file,
            wanted: wanted.clone(),
            store: self.store.clone(),
            launcher: self.options.launcher.clone(),
            runtime: self.runtime.clone(),
            known: live.into_iter().chain(refused).collect(),
        })
    }

    /// Writes an attempt's end into the slot; answers the version it replaces.
    fn settle(&mut self, name: &str, attempted: Attempted) -> Option<Live> {
        let slot = self.slots.get_mut(name)?;
        match attempted {
            Attempted::Known => None,
            Attempted::Rejected(key, error) => {
                reject(name, slot, key, &error);
                None
            }
            Attempted::Live(live) => {
                tracing::info!(plugin = name, sha256 = live.key.version, version = live.manifest.version, "plugin version is live");
                metrics::counter!("plugsocket_plugin_reloads_total", "plugin" => name.to_owned()).increment(1);
                slot.since_ms = now_ms();
                slot.rejected = None;
                slot.live.replace(*live)
            }
        }
    }

    /// One pointer: calls already running go on, later ones find the new version. What moves to a plugin that is still `coming` stays
    /// where it was until that is there.
    fn publish(&mut self, settings: &Settings, coming: &BTreeSet<String>) {
        let mut table = Table::default();
        let before = self.shared.table.load_full();
        let mut refused: BTreeMap<&str, BTreeMap<String, String>> = BTreeMap::new();
        for (action, entry) in &settings.actions {
            let live = self.slots.get(&entry.plugin).and_then(|slot| slot.live.as_ref());
            let Some((live, version)) = live.and_then(|live| Some((live, live.actions.as_ref()?))) else {
                if let Some(version) = before.actions.get(action).filter(|_| coming.contains(&entry.plugin)) {
                    table.actions.insert(action.clone(), Arc::clone(version));
                }
                continue;
            };
            if live.manifest.actions.contains(action) {
                table.actions.insert(action.clone(), Arc::clone(version));
            } else {
                let exports = live.manifest.actions.join(", ");
                let reason = format!("plugin `{}` does not export the action `{action}`; it exports: {exports}", entry.plugin);
                refused.entry(&entry.plugin).or_default().insert(action.clone(), reason);
            }
        }
        // Servers send no more of what has left the map, but jobs of it that are queued already still run.
        for (action, version) in before.actions.iter().filter(|(action, _)| !settings.actions.contains_key(*action)) {
            let live = self.slots.get(version.plugin.as_ref()).and_then(|slot| slot.live.as_ref());
            let live = live.filter(|live| live.manifest.actions.contains(action));
            if let Some(version) = live.and_then(|live| live.actions.as_ref()) {
                table.actions.insert(action.clone(), Arc::clone(version));
            }
        }
        if let Some(name) = &settings.server.handler {
            let live = self.slots.get(name).and_then(|slot| slot.live.as_ref()?.handler.clone());
            table.handler = live.or_else(|| before.handler.clone().filter(|_| coming.contains(name)));
        }
        self.shared.table.store(Arc::new(table));
        for (name, slot) in &mut self.slots {
            let refused = refused.remove(name.as_str()).unwrap_or_default();
            for (action, reason) in refused.iter().filter(|(action, reason)| slot.refused_actions.get(*action) != Some(*reason)) {
                tracing::warn!(plugin = name, action, reason, "action refused: nobody serves it here");
            }
            slot.refused_actions = refused;
        }
        let statuses: Vec<PluginStatus> = self.slots.iter().map(|(name, slot)| slot.status(name)).collect();
        let live = self.slots.values().filter(|slot| slot.live.is_some()).count();
        metrics::gauge!("plugsocket_plugins_live").set(u32::try_from(live).unwrap_or(u32::MAX));
        self.shared.statuses.store(Arc::new(statuses));
    }

    fn retire(&self, live: Live) {
        self.tasks.spawn(live.retire(self.store.clone()));
    }

    fn warn_of_retired(&mut self) {
        let live = u64::try_from(self.slots.values().filter(|slot| slot.live.is_some()).count()).unwrap_or_default();
        let retired = loaded_count().saturating_sub(live);
        metrics::gauge!("plugsocket_plugin_versions_retired").set(u32::try_from(retired).unwrap_or(u32::MAX));
        if retired >= RETIRED_WARNING && !self.is_warned_of_retired {
            self.is_warned_of_retired = true;
            tracing::warn!(
                retired,
                "many retired plugin versions are in memory and can't be unloaded: restart this process at a quiet time"
            );
        }
    }
}

impl Slot {
    fn status(&self, name: &str) -> PluginStatus {
        let state = match &self.live {
            Some(_) => PluginState::Live,
            None if self.is_missing => PluginState::Missing,
            None => PluginState::Rejected,
        };
        let manifest = self.live.as_ref().map(|live| &live.manifest);
        PluginStatus {
            name: name.to_owned(),
            state,
            version: self.live.as_ref().map(|live| live.key.version.clone()),
            manifest_version: manifest.map(|manifest| manifest.version.clone()),
            actions: manifest.map(|manifest| manifest.actions.clone()).unwrap_or_default(),
            since_ms: self.since_ms,
            refused_actions: self.refused_actions.clone(),
            last_rejection: self.rejected.as_ref().map(|rejected| rejected.status.clone()),
            waiting: None,
            versions: Vec::new(),
        }
    }
}

fn reject(name: &str, slot: &mut Slot, key: Option<Key>, error: &PluginError) {
    let reason = error.to_string();
    let version = key.as_ref().map(|key| key.version.clone()).unwrap_or_default();
    let before = slot.rejected.take();
    let is_repeated = before.as_ref().is_some_and(|before| before.key == key && before.status.reason == reason);
    let failures = before.filter(|before| before.key == key).map_or(1, |before| before.failures.saturating_add(1));
    let may_retry = error.is_worth_retrying() && failures <= RETRIES_MAX;
    let backoff = RETRY_BACKOFF.saturating_mul(1 << (failures - 1).min(6)).min(RETRY_BACKOFF_MAX);
    if !is_repeated {
        let stays = slot.live.as_ref().map(|live| live.key.version.as_str());
        tracing::warn!(plugin = name, sha256 = version, reason, live = stays, retried = may_retry, "plugin file rejected");
        metrics::counter!("plugsocket_plugin_rejections_total", "plugin" => name.to_owned()).increment(1);
    }
    slot.rejected = Some(Rejected {
        key,
        status: RejectionStatus { version, reason, at_ms: now_ms() },
        failures,
        is_worth_retrying: error.is_worth_retrying(),
        retry_at: may_retry.then(|| Instant::now() + backoff),
    });
}

fn note_missing(name: &str, slot: &mut Slot, looked_for: Vec<PathBuf>) {
    slot.seen = None;
    if std::mem::replace(&mut slot.is_missing, true) {
        return;
    }
    match &slot.live {
        Some(live) => tracing::warn!(plugin = name, sha256 = live.key.version, "file is gone; its live version stays in service"),
        None => reject(name, slot, None, &PluginError::Missing { looked_for }),
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

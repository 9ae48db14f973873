//! From a file to a live version, and from a live version to its end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use plugsocket_plugin::call::{Manifest, Role};
use serde_json::{Map, Value};
use tokio::sync::{Notify, mpsc};
use tokio::time::{self, Instant};

use super::facts::Facts;
use super::record::Good;
use super::start::{Start, Starter, gently};
use super::watched::{Tally, Watched};
use crate::config::PluginSettings;
use crate::plugin::blame::RunnerEvent;
use crate::plugin::error::PluginError;
use crate::plugin::store::{Fingerprint, Staged, StagedStore};
use crate::plugin::{LiveVersion, Retirable};

/// How long instances that are killed are waited for.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);
const RETIRE_POLL: Duration = Duration::from_millis(10);

/// What the settings ask of one plugin.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wanted {
    pub(super) roles: Vec<Role>,
    pub(super) settings: PluginSettings,
}

impl Wanted {
    pub(super) fn config(&self) -> Result<Map<String, Value>, PluginError> {
        match serde_json::to_value(&self.settings.config) {
            Ok(Value::Object(config)) => Ok(config),
            _ => Err(PluginError::Manifest("the config table has no JSON form".to_owned())),
        }
    }

    /// With the config table that a version was good with.
    pub(super) fn with_config_of(&self, good: &Good) -> Self {
        let config = toml::Table::try_from(&good.config).unwrap_or_default();
        Self { roles: self.roles.clone(), settings: PluginSettings { config, ..self.settings.clone() } }
    }
}

/// What makes two versions the same: nothing is loaded again while it stays.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Key {
    pub(super) version: String,
    pub(super) wanted: Wanted,
}

/// A version that takes calls, or could.
pub(super) struct Live {
    pub(super) key: Key,
    pub(super) facts: Arc<Facts>,
    pub(super) manifest: Manifest,
    pub(super) handler: Option<Arc<LiveVersion>>,
    pub(super) actions: Option<Arc<LiveVersion>>,
    pub(super) events: mpsc::UnboundedReceiver<RunnerEvent>,
    /// The roles in which no runner of it comes up at present.
    pub(super) parked: Vec<Role>,
    pub(super) is_in_process: bool,
    pub(super) staged: Staged,
    instances: Vec<Arc<dyn Retirable>>,
}

/// Everything one attempt needs.
pub(super) struct Attempt {
    pub(super) name: String,
    pub(super) file: PathBuf,
    pub(super) wanted: Wanted,
    pub(super) tools: Tools,
    /// What is live or refused already and is not tried again.
    pub(super) known: Vec<Key>,
    pub(super) quarantined: Vec<String>,
    /// At the first look: the version to begin with, when the file is another one.
    pub(super) good: Option<(Good, PathBuf)>,
    /// The `seen` that counts afterwards, when `file` is not the one in the plugins folder.
    pub(super) seen: Option<Fingerprint>,
}

/// What every attempt works with.
#[derive(Clone)]
pub(super) struct Tools {
    pub(super) store: StagedStore,
    pub(super) starter: Arc<dyn Starter>,
    pub(super) wake: Arc<Notify>,
    pub(super) is_worn: bool,
}

/// How an attempt ended.
pub(super) enum Attempted {
    /// The file is one that is known already.
    Known(Key),
    /// Its version is not tried until somebody asks for it.
    Quarantined(Key),
    /// A new version.
    Live(Box<Live>),
    /// The last good version, while the file is another one and has yet to be tried.
    LastGood(Box<Live>),
    /// That does not come up.
    NoLastGood { version: String, error: PluginError },
    /// Refused. The facts are missing when the file could not be copied.
    Rejected(Option<(Key, Arc<Facts>)>, PluginError),
}

/// The paths that serve a plugin, in the order they are tried.
pub(super) fn candidates(plugins_dir: &Path, name: &str) -> Result<Vec<PathBuf>, PluginError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if name.is_empty() || name.len() > 64 || !name.bytes().all(is_plain) {
        return Err(PluginError::Name(name.to_owned()));
    }
    let ending = if cfg!(target_os = "macos") { "dylib" } else { "so" };
    let mut names = vec![format!("lib{name}.{ending}"), format!("{name}.{ending}")];
    if name.contains('-') {
        names.push(format!("lib{}.{ending}", name.replace('-', "_"))); // Cargo's name for the same crate.
    }
    Ok(names.into_iter().map(|name| plugins_dir.join(name)).collect())
}

/// The file that serves a plugin.
///
/// # Errors
/// [`PluginError::Missing`], [`PluginError::Name`]
pub fn library_path(plugins_dir: &Path, name: &str) -> Result<PathBuf, PluginError> {
    let looked_for = candidates(plugins_dir, name)?;
    match looked_for.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(PluginError::Missing { looked_for }),
    }
}

impl Attempt {
    /// Stages, tries, brings up. Also answers what the file looked like.
    pub(super) async fn run(self) -> (String, Option<Fingerprint>, Attempted) {
        let before = self.seen.or_else(|| Fingerprint::of(&self.file));
        let staged = match self.wanted.config() {
            Ok(config) => self.tools.stage(&self.name, &self.file, &config).await.map(|staged| (staged, config)),
            Err(error) => Err(error),
        };
        if let Some((good, copy)) = &self.good
            && !staged.as_ref().is_ok_and(|(staged, _)| staged.version == good.version)
        {
            if let Ok((staged, _)) = &staged {
                self.tools.store.remove(staged);
            }
            let attempted = match self.tools.bring_up_good(&self.name, &self.wanted, good, copy).await {
                Ok(live) => Attempted::LastGood(live),
                Err(error) => Attempted::NoLastGood { version: good.version.clone(), error },
            };
            return (self.name, None, attempted);
        }
        let (staged, config) = match staged {
            Ok(staged) => staged,
            Err(error) => return (self.name, before, Attempted::Rejected(None, error)),
        };
        let seen = self.seen.or(Some(staged.fingerprint));
        let key = Key { version: staged.version.clone(), wanted: self.wanted.clone() };
        let untried = if self.known.contains(&key) {
            Some(Attempted::Known(key.clone()))
        } else {
            self.quarantined.contains(&key.version).then(|| Attempted::Quarantined(key.clone()))
        };
        if let Some(attempted) = untried {
            self.tools.store.remove(&staged);
            return (self.name, seen, attempted);
        }
        let attempted = match self.tools.bring_up(&self.name, key.clone(), staged, config).await {
            Ok(live) => Attempted::Live(live),
            Err((facts, error)) => Attempted::Rejected(Some((key, facts)), error),
        };
        (self.name, seen, attempted)
    }
}

impl Tools {
    async fn stage(&self, name: &str, file: &Path, config: &Map<String, Value>) -> Result<Staged, PluginError> {
        let config = serde_json::to_vec(config).unwrap_or_default();
        let (store, name, file) = (self.store.clone(), name.to_owned(), file.to_owned());
        gently(move || store.stage(&name, &file, &config)).await
    }

    /// From the kept copy, and with the config table it was good with.
    pub(super) async fn bring_up_good(&self, name: &str, wanted: &Wanted, good: &Good, copy: &Path) -> Result<Box<Live>, PluginError> {
        let staged = self.stage(name, copy, &good.config).await?;
        if staged.version != good.version {
            self.store.remove(&staged);
            return Err(PluginError::NotLoadable(format!("the kept copy {} is damaged", copy.display())));
        }
        let key = Key { version: good.version.clone(), wanted: wanted.with_config_of(good) };
        self.bring_up(name, key, staged, good.config.clone()).await.map_err(|(_, error)| error)
    }

    async fn bring_up(
        &self,
        name: &str,
        key: Key,
        staged: Staged,
        config: Map<String, Value>,
    ) -> Result<Box<Live>, (Arc<Facts>, PluginError)> {
        let tally = Tally::new(Arc::clone(&self.wake));
        let (roles, settings) = (key.wanted.roles.clone(), key.wanted.settings.clone());
        let facts = Facts::staged(name, (&staged.version, &staged.sha256), settings.isolation, Arc::clone(&tally));
        let (plugin, version): (Arc<str>, Arc<str>) = (name.into(), staged.version.as_str().into());
        let (told, events) = mpsc::unbounded_channel();
        let start = Start {
            plugin: Arc::clone(&plugin),
            facts: Arc::clone(&facts),
            library: staged.path.clone(),
            roles,
            config,
            settings,
            events: told,
            is_worn: self.is_worn,
        };
        let started = match self.starter.start(start).await {
            Ok(started) => started,
            Err(error) => {
                self.store.remove(&staged);
                return Err((facts, error));
            }
        };
        facts.describe(&started.manifest);
        let (mut handler, mut actions, mut instances) = (None, None, Vec::new());
        for (role, instance) in started.instances {
            let callee = Arc::new(Watched::new(Arc::clone(&instance) as _, Arc::clone(&tally)));
            let serving = LiveVersion { plugin: Arc::clone(&plugin), version: Arc::clone(&version), callee };
            let place = if role == Role::Handler { &mut handler } else { &mut actions };
            *place = Some(Arc::new(serving));
            instances.push(instance);
        }
        let (manifest, is_in_process) = (started.manifest, started.is_in_process);
        Ok(Box::new(Live { key, facts, manifest, handler, actions, events, parked: Vec::new(), is_in_process, staged, instances }))
    }
}

impl Live {
    /// Whether it takes calls in any of its roles.
    pub(super) fn serves(&self) -> bool {
        self.parked.len() < self.instances.len()
    }

    /// The handler, unless it is parked.
    pub(super) fn handler(&self) -> Option<&Arc<LiveVersion>> {
        self.handler.as_ref().filter(|_| !self.parked.contains(&Role::Handler))
    }

    /// The actions, unless they are parked.
    pub(super) fn actions(&self) -> Option<&Arc<LiveVersion>> {
        self.actions.as_ref().filter(|_| !self.parked.contains(&Role::Actions))
    }

    /// Lets running calls finish on this version, then ends it. Nobody can find it any more; whoever holds it may still begin a call.
    pub(super) async fn retire(self, store: StagedStore) {
        let limit = self.key.wanted.settings.drain_timeout;
        let deadline = Instant::now() + limit;
        let is_held = |version: &Option<Arc<LiveVersion>>| version.as_ref().is_some_and(|version| Arc::strong_count(version) > 1);
        while (is_held(&self.handler) || is_held(&self.actions)) && Instant::now() < deadline {
            time::sleep(RETIRE_POLL).await;
        }
        self.instances.iter().for_each(|instance| instance.close());
        let ended = async {
            for instance in &self.instances {
                instance.ended().await;
            }
        };
        tokio::pin!(ended);
        let mut reason = "its calls have ended".to_owned();
        if time::timeout_at(deadline, &mut ended).await.is_err() {
            let running: usize = self.instances.iter().map(|instance| instance.running()).sum();
            reason = format!("killed: {running} calls were still running after {limit:?} (plugins.<name>.drain_timeout)");
            tracing::warn!(version = self.key.version, running, ?limit, "calls of a retired version did not end; it is killed");
            self.instances.iter().for_each(|instance| instance.kill());
            if time::timeout(KILL_TIMEOUT, ended).await.is_err() {
                reason += "; its threads are left behind";
            }
        }
        let staged = self.staged;
        // It takes the system a millisecond, for the pages of the file.
        let _ = tokio::task::spawn_blocking(move || store.remove(&staged)).await;
        self.facts.end(&reason);
    }
}

//! From a file to a live version, and from a live version to its end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use plugsocket_plugin::call::{CreateRequest, Manifest, Role};
use serde_json::{Map, Value};
use tokio::runtime::Handle;
use tokio::time::{self, Instant};

use crate::config::{Isolation, PluginSettings};
use crate::plugin::check::Checker;
use crate::plugin::error::PluginError;
use crate::plugin::inspect::inspect;
use crate::plugin::launcher::Launcher;
use crate::plugin::library::{Instance, Library, loaded_count};
use crate::plugin::pool::{InProcess, PoolHost, PoolOptions};
use crate::plugin::runners::{Runners, RunnersOptions};
use crate::plugin::store::{Fingerprint, Staged, StagedStore};
use crate::plugin::{LiveVersion, Retirable};
use crate::wire::codes::SYSTEM_ACTIONS;

/// How long the constructor may take in this process, after it succeeded in the throw-away one.
const CREATE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long calls that run on a retired version are waited for.
const RETIRE_TIMEOUT: Duration = Duration::from_secs(60);
const RETIRE_POLL: Duration = Duration::from_millis(10);
/// Each load costs memory and may cost a thread-local key, of which a process has 1 024; the load beyond them aborts it.
const LOADS_MAX: u64 = 900;

/// What the settings ask of one plugin.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wanted {
    pub(super) roles: Vec<Role>,
    pub(super) settings: PluginSettings,
}

impl Wanted {
    fn config(&self) -> Result<Map<String, Value>, PluginError> {
        match serde_json::to_value(&self.settings.config) {
            Ok(Value::Object(config)) => Ok(config),
            _ => Err(PluginError::Manifest("the config table has no JSON form".to_owned())),
        }
    }
}

/// What makes two versions the same: nothing is loaded again while it stays.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Key {
    pub(super) version: String,
    wanted: Wanted,
}

/// A version that takes calls.
pub(super) struct Live {
    pub(super) key: Key,
    pub(super) manifest: Manifest,
    pub(super) handler: Option<Arc<LiveVersion>>,
    pub(super) actions: Option<Arc<LiveVersion>>,
    pools: Vec<Arc<dyn Retirable>>,
    staged: Staged,
}

/// Everything one attempt needs.
pub(super) struct Attempt {
    pub(super) name: String,
    pub(super) file: PathBuf,
    pub(super) wanted: Wanted,
    pub(super) store: StagedStore,
    pub(super) launcher: Launcher,
    pub(super) runtime: Handle,
    /// What is live or refused already and is not tried again.
    pub(super) known: Vec<Key>,
}

/// How an attempt ended.
pub(super) enum Attempted {
    /// The file is one that is known already.
    Known,
    /// A new version.
    Live(Box<Live>),
    /// Refused. The key is missing when the file could not be copied.
    Rejected(Option<Key>, PluginError),
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
    /// Stages, inspects, tries in the child, loads, creates. Also answers what the file looked like.
    pub(super) async fn run(self) -> (String, Option<Fingerprint>, Attempted) {
        let seen = Fingerprint::of(&self.file);
        let config = match self.wanted.config() {
            Ok(config) => config,
            Err(error) => return (self.name, seen, Attempted::Rejected(None, error)),
        };
        let staged = match self.stage(&config).await {
            Ok(staged) => staged,
            Err(error) => return (self.name, seen, Attempted::Rejected(None, error)),
        };
        let seen = Some(staged.fingerprint);
        let key = Key { version: staged.version.clone(), wanted: self.wanted.clone() };
        if self.known.contains(&key) {
            self.store.remove(&staged);
            return (self.name, seen, Attempted::Known);
        }
        let attempted = match self.bring_up(&key, &staged, config).await {
            Ok(live) => Attempted::Live(Box::new(live)),
            Err(error) => {
                self.store.remove(&staged);
                Attempted::Rejected(Some(key), error)
            }
        };
        (self.name, seen, attempted)
    }

    async fn stage(&self, config: &Map<String, Value>) -> Result<Staged, PluginError> {
        let config = serde_json::to_vec(config).unwrap_or_default();
        let (store, name, file) = (self.store.clone(), self.name.clone(), self.file.clone());
        blocking(move || store.stage(&name, &file, &config)).await
    }

    async fn bring_up(&self, key: &Key, staged: &Staged, config: Map<String, Value>) -> Result<Live, PluginError> {
        let path = staged.path.clone();
        for warning in blocking(move || inspect(&path)).await?.warnings {
            tracing::warn!(plugin = %self.name, sha256 = %staged.version, warning, "plugin has a weakness");
        }
        match self.wanted.settings.isolation {
            Isolation::InProcess => self.in_process(key, staged, config).await,
            Isolation::Process => self.in_runners(key, staged, config).await,
        }
    }

    /// Each role in runners of its own. The first is the check as well: it costs no more than itself.
    async fn in_runners(&self, key: &Key, staged: &Staged, config: Map<String, Value>) -> Result<Live, PluginError> {
        let (plugin, version): (Arc<str>, Arc<str>) = (self.name.as_str().into(), staged.version.as_str().into());
        let mut pools: Vec<(Role, Arc<Runners>)> = Vec::new();
        let mut found = None;
        for role in &self.wanted.roles {
            let (events, _) = tokio::sync::mpsc::unbounded_channel();
            let options = RunnersOptions {
                plugin: Arc::clone(&plugin),
                version: Arc::clone(&version),
                library: staged.path.clone(),
                role: *role,
                config: config.clone(),
                settings: self.wanted.settings.clone(),
                launcher: self.launcher.clone(),
                events,
            };
            let (runners, manifest) = Runners::start(options).await?;
            judge(&manifest, &self.wanted.roles, Isolation::Process)?;
            pools.push((*role, runners));
            found = Some(manifest);
        }
        let manifest = found.ok_or_else(|| PluginError::Manifest("nothing is wanted of it".to_owned()))?;
        let mut live = Live { key: key.clone(), manifest, handler: None, actions: None, pools: Vec::new(), staged: staged.clone() };
        for (role, runners) in pools {
            live.add(role, runners, &plugin, &version);
        }
        Ok(live)
    }

    async fn in_process(&self, key: &Key, staged: &Staged, config: Map<String, Value>) -> Result<Live, PluginError> {
        let manifest = Checker::new(self.launcher.clone()).check(&staged.path, &self.wanted.roles, &config).await?;
        judge(&manifest, &self.wanted.roles, Isolation::InProcess)?;
        let loaded = loaded_count();
        if loaded >= LOADS_MAX {
            return Err(PluginError::TooManyVersions(loaded));
        }
        let plugin: Arc<str> = self.name.as_str().into();
        let host = PoolHost::new(Arc::clone(&plugin), self.runtime.clone());
        let (path, roles, given) = (staged.path.clone(), self.wanted.roles.clone(), Arc::clone(&host));
        let create = blocking(move || create(&path, &roles, &config, &given));
        let created = time::timeout(CREATE_TIMEOUT, create).await;
        let instances = created.unwrap_or_else(|_| Err(PluginError::Constructor(format!("it did not end within {CREATE_TIMEOUT:?}"))))?;
        let settings = &self.wanted.settings;
        let options = PoolOptions { plugin: Arc::clone(&plugin), threads: settings.threads, waiting_max: settings.waiting_max };
        let version: Arc<str> = staged.version.as_str().into();
        let mut live = Live { key: key.clone(), manifest, handler: None, actions: None, pools: Vec::new(), staged: staged.clone() };
        for (role, instance) in instances.take() {
            let pool = InProcess::start(instance, Arc::clone(&host), &options);
            let pool = pool.map_err(PluginError::files("start threads for", &staged.path))?;
            live.add(role, pool, &plugin, &version);
        }
        Ok(live)
    }
}

/// Whether the manifest fits what the plugin is wanted for.
///
/// # Errors
/// [`PluginError::Manifest`]
pub fn judge(manifest: &Manifest, roles: &[Role], isolation: Isolation) -> Result<(), PluginError> {
    if manifest.panic == "abort" && isolation == Isolation::InProcess {
        let text = "it is built with panic = \"abort\", so its panics would end this process; build it with panic = \"unwind\", or give it isolation = \"process\"";
        return Err(PluginError::Manifest(text.to_owned()));
    }
    if let Some(action) = manifest.actions.iter().find(|action| SYSTEM_ACTIONS.contains(&action.as_str())) {
        return Err(PluginError::Manifest(format!("it exports `{action}`, a name reserved for the server itself")));
    }
    if roles.contains(&Role::Handler) && !manifest.handler {
        let exports = manifest.actions.join(", ");
        let text = format!("server.handler names it but it exports no handler (it exports the actions: {exports})");
        return Err(PluginError::Manifest(text));
    }
    Ok(())
}

/// Instances that nobody runs yet; shut down when nobody ever does, as when their constructors end after everybody stopped waiting.
#[derive(Default)]
struct Created(Vec<(Role, Instance)>);

impl Created {
    fn take(mut self) -> Vec<(Role, Instance)> {
        std::mem::take(&mut self.0)
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        for (_, instance) in self.0.drain(..) {
            instance.shutdown();
        }
    }
}

fn create(path: &Path, roles: &[Role], config: &Map<String, Value>, host: &Arc<PoolHost>) -> Result<Created, PluginError> {
    let library = Library::load(path)?;
    let mut created = Created::default();
    for role in roles {
        let request = CreateRequest { role: *role, config: config.clone() };
        created.0.push((*role, library.create(&request, Arc::clone(host) as _)?));
    }
    Ok(created)
}

impl Live {
    fn add<I: Retirable + 'static>(&mut self, role: Role, instance: Arc<I>, plugin: &Arc<str>, version: &Arc<str>) {
        self.pools.push(Arc::clone(&instance) as _);
        let serving = LiveVersion { plugin: Arc::clone(plugin), version: Arc::clone(version), callee: instance };
        let place = if role == Role::Handler { &mut self.handler } else { &mut self.actions };
        *place = Some(Arc::new(serving));
    }

    /// Lets running calls finish on this version, then ends it. Nobody can find it any more; whoever holds it may still begin a call.
    pub(super) async fn retire(self, store: StagedStore) {
        let deadline = Instant::now() + RETIRE_TIMEOUT;
        let is_held = |version: &Option<Arc<LiveVersion>>| version.as_ref().is_some_and(|version| Arc::strong_count(version) > 1);
        while (is_held(&self.handler) || is_held(&self.actions)) && Instant::now() < deadline {
            time::sleep(RETIRE_POLL).await;
        }
        self.pools.iter().for_each(|pool| pool.close());
        let ended = async {
            for pool in &self.pools {
                pool.ended().await;
            }
        };
        let (copy, sha256) = (self.staged.path.display(), &self.key.version);
        if time::timeout_at(deadline, ended).await.is_err() {
            let running: usize = self.pools.iter().map(|pool| pool.running()).sum();
            tracing::warn!(%copy, %sha256, running, "calls of a retired version did not end");
            self.pools.iter().for_each(|pool| pool.kill());
        } else {
            tracing::info!(%copy, %sha256, "version retired");
        }
        store.remove(&self.staged);
    }
}

/// Runs on the blocking threads; when the future is dropped the work goes on and its result is lost.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, PluginError> + Send + 'static) -> Result<T, PluginError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(PluginError::Check(format!("the host failed while loading it: {error}"))))
}

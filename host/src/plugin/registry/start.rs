//! The last step from a file to a version: its instances, in this process or in runners.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use plugsocket_plugin::call::{CreateRequest, Manifest, Role};
use serde_json::{Map, Value};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time;

use super::facts::Facts;
use super::status::VersionState;
use crate::config::{Isolation, PluginSettings};
use crate::plugin::Retirable;
use crate::plugin::blame::RunnerEvent;
use crate::plugin::check::Checker;
use crate::plugin::error::PluginError;
use crate::plugin::inspect::inspect;
use crate::plugin::launcher::Launcher;
use crate::plugin::library::{Instance, Library, loaded_count};
use crate::plugin::pool::{InProcess, PoolHost, PoolOptions};
use crate::plugin::runners::{Runners, RunnersOptions};
use crate::wire::codes::SYSTEM_ACTIONS;

/// How long the constructor may take in this process, after it succeeded in the throw-away one.
const CREATE_TIMEOUT: Duration = Duration::from_secs(5);

/// Brings copies to life. Tests script it.
#[async_trait]
pub(super) trait Starter: Send + Sync {
    /// Tries the copy, then brings up an instance for each role.
    async fn start(&self, start: Start) -> Result<Started, PluginError>;

    /// Libraries loaded into this process since it started.
    fn loaded(&self) -> u64;
}

/// What is to be brought up.
pub(super) struct Start {
    pub(super) plugin: Arc<str>,
    pub(super) facts: Arc<Facts>,
    pub(super) library: PathBuf,
    pub(super) roles: Vec<Role>,
    pub(super) config: Map<String, Value>,
    pub(super) settings: PluginSettings,
    /// Told of what happens to the instances beside their calls.
    pub(super) events: mpsc::UnboundedSender<RunnerEvent>,
    /// No more libraries may be loaded into this process.
    pub(super) is_worn: bool,
}

/// What came up.
pub(super) struct Started {
    pub(super) manifest: Manifest,
    pub(super) instances: Vec<(Role, Arc<dyn Retirable>)>,
    /// Their code stays in this process for ever.
    pub(super) is_in_process: bool,
}

/// The real one.
pub(super) struct System {
    pub(super) launcher: Launcher,
    pub(super) runtime: Handle,
}

#[async_trait]
impl Starter for System {
    async fn start(&self, start: Start) -> Result<Started, PluginError> {
        let path = start.library.clone();
        for warning in blocking(move || inspect(&path)).await?.warnings {
            tracing::warn!(plugin = %start.plugin, sha256 = %start.facts.sha256, warning, "plugin has a weakness");
        }
        match start.settings.isolation {
            Isolation::Process => self.in_runners(start).await,
            Isolation::InProcess => self.in_process(start).await,
        }
    }

    fn loaded(&self) -> u64 {
        loaded_count()
    }
}

impl System {
    /// Each role in runners of its own; the first of them is the check as well.
    async fn in_runners(&self, start: Start) -> Result<Started, PluginError> {
        start.facts.step(VersionState::Starting, "a runner loads it");
        let mut instances: Vec<(Role, Arc<dyn Retirable>)> = Vec::new();
        let mut described = None;
        for role in start.roles {
            let options = RunnersOptions {
                plugin: Arc::clone(&start.plugin),
                version: start.facts.version.as_str().into(),
                library: start.library.clone(),
                role,
                config: start.config.clone(),
                settings: start.settings.clone(),
                launcher: self.launcher.clone(),
                events: start.events.clone(),
            };
            let (runners, manifest) = Runners::start(options).await?;
            instances.push((role, runners));
            described = Some(manifest);
        }
        let manifest = described.ok_or_else(|| PluginError::Manifest("nothing is wanted of it".to_owned()))?;
        Ok(Started { manifest, instances, is_in_process: false })
    }

    async fn in_process(&self, start: Start) -> Result<Started, PluginError> {
        let loaded = loaded_count();
        if start.is_worn {
            return Err(PluginError::TooManyVersions(loaded));
        }
        let manifest = Checker::new(self.launcher.clone()).check(&start.library, &start.roles, &start.config).await?;
        judge(&manifest, &start.roles, Isolation::InProcess)?;
        start.facts.step(VersionState::Checked, "a process of its own loaded it");
        start.facts.step(VersionState::Starting, "");
        let host = PoolHost::new(Arc::clone(&start.plugin), self.runtime.clone());
        let (path, roles, config, given) = (start.library.clone(), start.roles, start.config, Arc::clone(&host));
        let create = blocking(move || create(&path, &roles, &config, &given));
        let created = time::timeout(CREATE_TIMEOUT, create).await;
        let created = created.unwrap_or_else(|_| Err(PluginError::Constructor(format!("it did not end within {CREATE_TIMEOUT:?}"))))?;
        let options = PoolOptions { plugin: start.plugin, threads: start.settings.threads, waiting_max: start.settings.waiting_max };
        let mut instances: Vec<(Role, Arc<dyn Retirable>)> = Vec::new();
        for (role, instance) in created.take() {
            let pool = InProcess::start(instance, Arc::clone(&host), &options);
            instances.push((role, pool.map_err(PluginError::files("start threads for", &start.library))?));
        }
        Ok(Started { manifest, instances, is_in_process: true })
    }
}

/// Whether the manifest fits what the plugin is wanted for.
///
/// # Errors
/// [`PluginError::Manifest`]
pub fn judge(manifest: &Manifest, roles: &[Role], isolation: Isolation) -> Result<(), PluginError> {
    if manifest.panic == "abort" && isolation == Isolation::InProcess {
        let text = "it is built with panic = \"abort\", so its panics would end this process; build it with panic = \"unwind\", or set \
                    isolation = \"process\" for it";
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

/// How much less than others a thread gets that copies files, while there is not enough for all.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// Runs on a thread of its own, which leaves the processor to those who serve; when the future is dropped the work goes on and its result
/// is lost.
pub(super) async fn gently<T: Send + 'static>(work: impl FnOnce() -> Result<T, PluginError> + Send + 'static) -> Result<T, PluginError> {
    let (done, is_done) = oneshot::channel();
    let run = move || {
        // Of this thread only, where the system can do that; without it the work is done all the same.
        #[cfg(target_os = "linux")]
        let _ = rustix::process::setpriority_process(None, NICENESS);
        let _ = done.send(work());
    };
    thread::Builder::new().name("stage".to_owned()).spawn(run).map_err(PluginError::files("start a thread to copy", "a library"))?;
    is_done.await.unwrap_or_else(|_| Err(PluginError::Check("the host failed while copying it".to_owned())))
}

/// Runs on the blocking threads; when the future is dropped the work goes on and its result is lost.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, PluginError> + Send + 'static) -> Result<T, PluginError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(PluginError::Check(format!("the host failed while loading it: {error}"))))
}

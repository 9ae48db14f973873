//! Which version serves what: one writer brings files to life, everybody else reads one pointer.

mod entry;
mod facts;
mod lifecycle;
mod orders;
mod pass;
mod probation;
mod publish;
mod record;
mod slot;
mod start;
mod status;
mod watched;
mod writer;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::facts::Facts;
pub use self::lifecycle::library_path;
pub use self::start::judge;
use self::start::{Starter, System};
pub use self::status::{PluginState, PluginStatus, RegistryError, RejectionStatus, VersionState, VersionStatus};
use self::writer::Writer;
use super::error::PluginError;
use super::launcher::Launcher;
use super::store::{Guard, StagedStore};
use super::trust::Trust;
use super::{LiveVersion, Plugins};
use crate::config::{LiveSettings, Reload};

/// How long [`Registry::close`] waits for plugins to end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
const COMMANDS_WAITING: usize = 16;

/// What this process needs plugins for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    /// The server's handler, `server.handler`.
    pub handler: bool,
    /// The worker's actions, `[actions]`.
    pub actions: bool,
}

/// What a registry works with.
pub struct RegistryOptions {
    /// What plugins are needed for.
    pub roles: Roles,
    /// Read anew at every [`Registry::apply`].
    pub settings: LiveSettings,
    /// Starts throw-away children and runners.
    pub launcher: Launcher,
    /// What is done about folders and files that others could change.
    pub trust: Trust,
}

/// The plugins of this process.
pub struct Registry {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    settings: LiveSettings,
    worn: CancellationToken,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What the writer is asked to do; each is told when it is done.
enum Command {
    Pass { done: oneshot::Sender<()>, with_waiting: bool },
    Rollback { plugin: String, done: oneshot::Sender<Result<String, RegistryError>> },
    Retry { id: String, done: oneshot::Sender<Result<String, RegistryError>> },
    Leave { done: oneshot::Sender<()> },
}

/// What readers see.
#[derive(Default)]
struct Shared {
    table: ArcSwap<Table>,
    listed: ArcSwap<Vec<Listed>>,
}

/// One plugin's status, and where the numbers of its versions are.
struct Listed {
    status: PluginStatus,
    facts: Vec<Arc<Facts>>,
}

/// Never changed, only replaced.
#[derive(Default)]
struct Table {
    actions: HashMap<String, Arc<LiveVersion>>,
    handler: Option<Arc<LiveVersion>>,
}

impl Registry {
    /// Opens the store of copies and brings up what the settings ask for. A plugin that does not come up is logged and stands in
    /// [`Self::snapshot`]; it does not fail the start.
    ///
    /// # Errors
    /// [`PluginError::Untrusted`] when others could change the plugins folder or `state_dir`; [`PluginError::Files`] when the folder of
    /// copies can't be used.
    pub async fn start(options: RegistryOptions) -> Result<Arc<Self>, PluginError> {
        let starter = System { launcher: options.launcher.clone(), runtime: Handle::current() };
        Self::start_with(options, Arc::new(starter)).await
    }

    async fn start_with(options: RegistryOptions, starter: Arc<dyn Starter>) -> Result<Arc<Self>, PluginError> {
        let (settings, trust) = (options.settings.load_full(), options.trust);
        let store = tokio::task::spawn_blocking(move || {
            trust.check_folders(&settings.plugins_dir, &settings.state_dir)?;
            let guard = Guard { trust, plugins_lock: Some(settings.plugins_lock.clone()) };
            StagedStore::open(&settings.state_dir).map(|store| store.guarded(guard))
        });
        let store = store.await.map_err(|error| PluginError::Check(error.to_string()))??;
        let (shared, tasks, stop) = (Arc::new(Shared::default()), TaskTracker::new(), CancellationToken::new());
        let (commands, asked) = mpsc::channel(COMMANDS_WAITING);
        let (settings, worn) = (Arc::clone(&options.settings), CancellationToken::new());
        let mut writer = Writer::new(options, store, starter, Arc::clone(&shared), tasks.clone(), worn.clone());
        writer.pass(false).await;
        tasks.spawn(writer.run(asked, stop.clone()));
        Ok(Arc::new(Self { shared, commands, settings, worn, tasks, stop }))
    }

    /// Makes what is live agree with files and settings; resolves when it does, or is known not to. Several callers share one pass.
    /// Dropping the future does not stop the pass.
    pub async fn apply(&self) {
        let (done, is_done) = oneshot::channel();
        let _ = self.ask(Command::Pass { done, with_waiting: false }, is_done).await; // Fails only when the registry is closed.
    }

    /// As [`Self::apply`], but with the changed libraries that wait for it under `reload = "manual"`.
    ///
    /// # Errors
    /// [`RegistryError::ReloadOff`], [`RegistryError::Closed`]
    pub async fn reload(&self) -> Result<(), RegistryError> {
        if self.settings.load().reload == Reload::Off {
            return Err(RegistryError::ReloadOff);
        }
        let (done, is_done) = oneshot::channel();
        self.ask(Command::Pass { done, with_waiting: true }, is_done).await
    }

    /// Takes a plugin back to its standby, or else to the good version before this one; the version left is quarantined. Answers a
    /// sentence of what happened. Dropping the future does not stop it.
    ///
    /// # Errors
    /// [`RegistryError`]: nothing was changed.
    pub async fn rollback(&self, plugin: &str) -> Result<String, RegistryError> {
        let (done, is_done) = oneshot::channel();
        self.ask(Command::Rollback { plugin: plugin.to_owned(), done }, is_done).await?
    }

    /// Forgets that a version was rejected or rolled back, and tries it again. `sha256` begins its version or its file's sha256, with at
    /// least 6 digits. Answers a sentence of what happened.
    ///
    /// # Errors
    /// [`RegistryError`]: nothing was changed.
    pub async fn retry(&self, sha256: &str) -> Result<String, RegistryError> {
        let (done, is_done) = oneshot::channel();
        self.ask(Command::Retry { id: sha256.to_owned(), done }, is_done).await?
    }

    async fn ask<T>(&self, command: Command, is_done: oneshot::Receiver<T>) -> Result<T, RegistryError> {
        self.commands.send(command).await.map_err(|_| RegistryError::Closed)?;
        is_done.await.map_err(|_| RegistryError::Closed)
    }

    /// What every wanted plugin and its versions are doing at this moment.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Vec<PluginStatus>> {
        Arc::new(self.shared.listed.load().iter().map(Listed::read).collect())
    }

    /// Fires when so many libraries were loaded into this process and replaced that it must be started anew (`retired_max`): none can be
    /// unloaded, and there is an end to how many fit.
    #[must_use]
    pub fn worn(&self) -> CancellationToken {
        self.worn.clone()
    }

    /// This process is about to end, because somebody wants it to: should it be killed before [`Self::close`], no version is to blame.
    pub async fn leave(&self) {
        let (done, is_done) = oneshot::channel();
        let _ = self.ask(Command::Leave { done }, is_done).await; // Fails only when the registry is closed.
    }

    /// Takes every version out of service and runs the plugins' `shutdown`, waiting at most 5 s. Call it when no more calls come.
    pub async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        if time::timeout(CLOSE_TIMEOUT, self.tasks.wait()).await.is_err() {
            tracing::warn!("plugins did not shut down within {CLOSE_TIMEOUT:?}; going on without them");
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Plugins for Registry {
    fn action(&self, action: &str) -> Option<Arc<LiveVersion>> {
        self.shared.table.load().actions.get(action).map(Arc::clone)
    }

    fn handler(&self) -> Option<Arc<LiveVersion>> {
        self.shared.table.load().handler.clone()
    }
}

#[cfg(test)]
mod tests;

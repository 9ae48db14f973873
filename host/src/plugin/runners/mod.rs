//! The host's side of runner processes: starts them, makes calls in them, and puts another one in the place of one that has ended.

mod cgroup;
mod end;
mod life;
mod link;
mod speech;
mod start;
mod supervise;
mod verdict;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use plugsocket_plugin::call::{Manifest, Role};
use serde_json::{Map, Value};
use tokio::sync::{Notify, mpsc};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::life::Runner;
use super::blame::RunnerEvent;
use super::error::PluginError;
use super::launcher::Launcher;
use super::{Answer, Call, CallError, Callee, Retirable};
use crate::config::PluginSettings;

/// What a version's runners load, and how they live.
pub(super) struct RunnersOptions {
    /// The plugin's name, for logs and process lists.
    pub(super) plugin: Arc<str>,
    /// The version's id.
    pub(super) version: Arc<str>,
    /// The private copy.
    pub(super) library: PathBuf,
    /// Which instance.
    pub(super) role: Role,
    /// Handed to the constructor.
    pub(super) config: Map<String, Value>,
    pub(super) settings: PluginSettings,
    pub(super) launcher: Launcher,
    /// Told what happens beside the calls.
    pub(super) events: mpsc::UnboundedSender<RunnerEvent>,
}

/// The runners of one version in one role. Dropping it ends them without waiting for their calls.
pub(super) struct Runners {
    shared: Arc<Shared>,
}

struct Shared {
    options: Arc<RunnersOptions>,
    /// The one that takes calls, for each place.
    places: Vec<ArcSwapOption<Runner>>,
    /// Told when a place changes.
    changed: Notify,
    /// Places whose runner did not come up several times in a row.
    parked: AtomicUsize,
    closing: CancellationToken,
    killed: CancellationToken,
    tasks: TaskTracker,
}

impl Runners {
    /// Starts all of them; answers when the first serves.
    ///
    /// # Errors
    /// [`PluginError::Constructor`] with the plugin's text, or when it hangs; [`PluginError::Load`], [`PluginError::Check`] for a crash;
    /// [`PluginError::Files`] when no process can be started.
    pub(super) async fn start(options: RunnersOptions) -> Result<(Arc<Self>, Manifest), PluginError> {
        let started = start::start(&options).await?;
        let manifest = started.manifest.clone();
        let places = options.settings.runners.max(1);
        let shared = Arc::new(Shared {
            options: Arc::new(options),
            places: (0..places).map(|_| ArcSwapOption::empty()).collect(),
            changed: Notify::new(),
            parked: AtomicUsize::new(0),
            closing: CancellationToken::new(),
            killed: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let first = shared.put(0, started);
        for place in 0..places {
            let first = (place == 0).then(|| Arc::clone(&first));
            shared.tasks.spawn(Arc::clone(&shared).supervise(place, first));
        }
        shared.tasks.close();
        Ok((Arc::new(Self { shared }), manifest))
    }
}

impl Shared {
    /// The runner with the fewest calls, once there is one. `None` when all are parked.
    async fn runner(&self) -> Result<Arc<Runner>, CallError> {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            if let Some(runner) = self.best() {
                return Ok(runner);
            }
            if self.closing.is_cancelled() {
                return Err(CallError::Gone("this version has been retired".to_owned()));
            }
            if self.parked.load(Ordering::Acquire) == self.places.len() {
                return Err(CallError::Unavailable("it ended at every start".to_owned()));
            }
            changed.await;
        }
    }

    fn serving(&self) -> impl Iterator<Item = Arc<Runner>> {
        self.places.iter().filter_map(ArcSwapOption::load_full).filter(|runner| !runner.left().is_cancelled())
    }

    fn best(&self) -> Option<Arc<Runner>> {
        let mut serving = self.serving();
        if self.places.len() == 1 { serving.next() } else { serving.min_by_key(|runner| runner.open()) }
    }
}

#[async_trait]
impl Callee for Runners {
    async fn call(&self, call: Call) -> Result<Answer, CallError> {
        if let Some(chained) = call.chained.as_ref().filter(|chained| chained.is_behind()) {
            let bound = self.shared.serving().find(|runner| chained.runner().is_some_and(|bound| runner.is(bound)));
            return bound.ok_or(CallError::NotBegun)?.run_behind(&call).await;
        }
        let deadline = call.timeout.map(|limit| Instant::now() + limit);
        loop {
            let runner = match (self.shared.best(), deadline) {
                (Some(runner), _) => runner,
                (None, None) => self.shared.runner().await?,
                (None, Some(deadline)) => match time::timeout_at(deadline, self.shared.runner()).await {
                    Ok(runner) => runner?,
                    Err(_) => return Err(CallError::Unavailable("none came up in time".to_owned())),
                },
            };
            if let Some(answer) = runner.run(&call, deadline).await? {
                return Ok(answer);
            }
            // It had left before the call began. Another one takes the call, here or in the version that follows.
            if self.shared.closing.is_cancelled() {
                return Err(CallError::Interrupted { is_suspect: false });
            }
        }
    }

    fn ends_calls(&self) -> bool {
        true
    }
}

#[async_trait]
impl Retirable for Runners {
    fn close(&self) {
        self.shared.closing.cancel();
        self.shared.changed.notify_waiters();
    }

    fn kill(&self) {
        self.shared.killed.cancel();
        self.close();
    }

    async fn ended(&self) {
        self.shared.tasks.wait().await;
    }

    fn running(&self) -> usize {
        self.shared.places.iter().filter_map(ArcSwapOption::load_full).map(|runner| runner.open()).sum()
    }
}

impl Drop for Runners {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests;

//! What every long-running process has: settings, log, metrics, signals, the ops listener, and reloading of what applies live.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{descriptors, service, sockets};
use crate::config::Common;
use crate::config::{Follower, LiveSettings, Override, Settings, Source};
use crate::ops::control::{ControlSocket, Operate};
use crate::ops::http::{Ops, Page, Readiness};
use crate::ops::logs::Logs;
use crate::ops::metrics::Metrics;
use crate::ops::signals;
use crate::plugin::ControlRequest;
use crate::plugin::Launcher;
use crate::plugin::Plugins as _;
use crate::plugin::{Change, Watcher};
use crate::plugin::{PluginState, PluginStatus};
use crate::plugin::{Registry, RegistryOptions, Roles, Trust};
use crate::queue::{self, Health, Queue, QueueOptions};
use crate::server::Sessions;
use crate::wire::ids::NodeId;

/// How long background tasks may take to end after the drain: more than the 3 s in which the queue still writes.
const TASKS_END: Duration = Duration::from_secs(4);

/// Plugins folder and config file are looked at this often even when nothing was told: network file systems and replaced folders tell nothing.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// One process.
pub(super) struct Process {
    source: Source,
    follower: Mutex<Option<Follower>>,
    pub settings: LiveSettings,
    logs: Logs,
    metrics: Metrics,
    pub node: NodeId,
    /// Fires at the first signal.
    signalled: CancellationToken,
    /// Fires then too, and when the process is to be started anew.
    pub stop: CancellationToken,
    /// Fires after the drain: ends what the drain still needed.
    pub end: CancellationToken,
    pub tasks: TaskTracker,
}

impl Process {
    /// Reads the config, then starts log, metrics and signal handlers.
    pub fn start(common: &Common, first: Vec<Override>) -> anyhow::Result<Self> {
        let source = common.source(first);
        let (settings, follower) = Follower::start(source.clone())?;
        let logs = Logs::start(&settings.log_level, common.log_format)?;
        let signalled = signals::install()?;
        descriptors::raise();
        let process = Self {
            source,
            follower: Mutex::new(Some(follower)),
            settings: Arc::new(ArcSwap::from_pointee(settings)),
            logs,
            metrics: Metrics::start()?,
            node: NodeId::random()?,
            stop: signalled.child_token(),
            signalled,
            end: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        process.tasks.spawn(process.metrics.clone().upkeep(process.end.clone()));
        process.tasks.spawn(service::run(process.signalled.clone(), process.end.clone()));
        Ok(process)
    }

    /// Takes the ops listener's socket that was passed to the process, or binds its address, when there is one. `key` is where the address
    /// comes from.
    pub async fn bind_ops(address: Option<SocketAddr>, key: &str) -> anyhow::Result<Option<TcpListener>> {
        if let Some(passed) = sockets::ops()? {
            return Ok(Some(passed));
        }
        let Some(address) = address else { return Ok(None) };
        let listener = TcpListener::bind(address).await.with_context(|| {
            format!("can't listen on {address} for health, metrics and pages; choose another address with --set {key}=127.0.0.1:9001")
        })?;
        Ok(Some(listener))
    }

    /// Starts the ops listener; answers where it listens.
    pub fn serve_ops(
        &self,
        listener: Option<TcpListener>,
        queue: &Queue,
        readiness: Readiness,
        pages: Vec<Page>,
    ) -> anyhow::Result<Option<SocketAddr>> {
        let Some(listener) = listener else { return Ok(None) };
        let bound = listener.local_addr()?;
        let settings = self.settings.load();
        let ops = Ops {
            outbox: Arc::clone(&queue.outbox),
            presence: Arc::clone(&queue.presence),
            readiness,
            metrics: self.metrics.clone(),
            token: settings.ops.token.clone(),
            body_bytes_max: usize::try_from(settings.ops.body_max.as_u64()).unwrap_or(usize::MAX),
            settings: Arc::clone(&self.settings),
            pages,
        };
        let end = self.end.clone();
        self.tasks.spawn(async move {
            if let Err(error) = ops.serve(listener, end).await {
                tracing::error!(%error, "the ops listener failed");
            }
        });
        Ok(Some(bound))
    }

    /// Brings up the plugins the settings ask for.
    pub async fn start_plugins(&self, roles: Roles, trust: Trust) -> anyhow::Result<Arc<Registry>> {
        let options = RegistryOptions { roles, settings: Arc::clone(&self.settings), launcher: Launcher::own_executable()?, trust };
        let registry = Registry::start(options).await?;
        let (worn, stop, end) = (registry.worn(), self.stop.clone(), self.end.clone());
        self.tasks.spawn(async move {
            if end.run_until_cancelled(worn.cancelled()).await.is_some() {
                tracing::warn!("stopping to start anew: no more plugin libraries can be loaded into this process (retired_max)");
                stop.cancel();
            }
        });
        let (leaving, stop, end) = (Arc::clone(&registry), self.stop.clone(), self.end.clone());
        self.tasks.spawn(async move {
            if end.run_until_cancelled(stop.cancelled()).await.is_some() {
                leaving.leave().await;
            }
        });
        Ok(registry)
    }

    /// Opens the control socket of a process in this role. Without it nobody is served worse, so that its failure is told and no more.
    pub async fn serve_control(&self, role: &str, registry: &Arc<Registry>) {
        let state_dir = &self.settings.load().state_dir;
        match ControlSocket::bind(state_dir, role).await {
            Ok(socket) => {
                tracing::debug!(path = %socket.path().display(), "control socket open");
                drop(self.tasks.spawn(socket.serve(operate(registry), self.tasks.clone(), self.end.clone())));
            }
            Err(error) => tracing::warn!(%error, "no control socket: `plugsocket plugins` will not find this process"),
        }
    }

    /// Applies changes of plugins and config until the process ends; a second call does nothing.
    pub fn keep_current(&self, registry: &Arc<Registry>) -> anyhow::Result<()> {
        let settings = self.settings.load();
        let (watcher, mut changes) = Watcher::start(&settings.plugins_dir, Some(self.source.path()))
            .with_context(|| format!("{} can't be watched", settings.plugins_dir.display()))?;
        let follower = self.follower.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut follower) = follower else { return Ok(()) };
        let (live, logs, end) = (Arc::clone(&self.settings), self.logs.clone(), self.end.clone());
        let registry = Arc::clone(registry);
        let follow = async move {
            let _watching = watcher;
            // The file may have been edited between its first reading and the watcher's start.
            if reload(&mut follower, &live, &logs).await {
                registry.apply().await;
            }
            loop {
                let change = tokio::select! {
                    change = changes.recv() => match change { Some(change) => Some(change), None => break },
                    () = tokio::time::sleep(LOOK_INTERVAL) => None,
                };
                let is_reloaded = change != Some(Change::PluginsChanged) && reload(&mut follower, &live, &logs).await;
                if is_reloaded || change != Some(Change::ConfigChanged) {
                    registry.apply().await;
                }
            }
        };
        self.tasks.spawn(async move { end.run_until_cancelled(follow).await });
        Ok(())
    }

    /// Ends what is left once the drain is over. A process that is worn, and that nobody asked to stop, starts anew and does not come
    /// back from here.
    pub async fn finish(self, registry: &Registry) -> anyhow::Result<()> {
        self.end.cancel();
        self.tasks.close();
        if tokio::time::timeout(TASKS_END, self.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.tasks.len(), "background tasks did not end in time");
        }
        if registry.worn().is_cancelled() && !self.signalled.is_cancelled() {
            return start_anew();
        }
        Ok(())
    }
}

/// Puts a fresh process of the same executable, arguments and environment into this one's place, with the same process id.
fn start_anew() -> anyhow::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    use std::os::unix::process::CommandExt as _;
    // On Linux the link stays right when the file is replaced by an upgrade; but a process is named after the path it was started by.
    let (link, named) = (Path::new("/proc/self/exe"), std::env::current_exe());
    let file = |path: &Path| path.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()));
    let program = match named {
        Ok(named) if !link.exists() || file(&named) == file(link) => named,
        _ if link.exists() => link.to_owned(),
        named => named.context("this executable is not found")?,
    };
    let mut arguments = std::env::args_os();
    let mut command = Command::new(&program);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments);
    sockets::pass_on(&mut command).context("the sockets that were passed to this process can't be passed on")?;
    tracing::info!("starting anew");
    service::status("starting anew");
    Err(anyhow::Error::from(command.exec()).context("this process can't start anew; start it again"))
}

/// Whether something was applied.
async fn reload(follower: &mut Follower, live: &LiveSettings, logs: &Logs) -> bool {
    let before = live.load_full();
    let needs_restart = match follower.look(live).await {
        Ok(Some(keys)) => keys,
        Ok(None) => return false,
        Err(error) => {
            tracing::error!("config refused, going on with what was: {:#}", anyhow::Error::from(error));
            metrics::counter!("plugsocket_config_refused_total").increment(1);
            return false;
        }
    };
    if !needs_restart.is_empty() {
        tracing::warn!(keys = needs_restart.join(", "), "config changed where it needs a restart");
    }
    let after = live.load_full();
    if *before == *after {
        return false;
    }
    if before.log_level != after.log_level
        && let Err(error) = logs.set_level(&after.log_level)
    {
        tracing::error!("log_level stays: {error}");
    }
    tracing::info!(actions = after.actions.len(), "config applied");
    true
}

/// What the control socket does with its requests.
fn operate(registry: &Arc<Registry>) -> Operate {
    let registry = Arc::clone(registry);
    Arc::new(move |request| {
        let registry = Arc::clone(&registry);
        Box::pin(async move {
            let done = match request {
                ControlRequest::List => return serde_json::to_value(&*registry.snapshot()).map_err(|error| error.to_string()),
                ControlRequest::Reload => registry.reload().await.map(|()| "every plugin looked at".to_owned()),
                ControlRequest::Rollback { plugin } => registry.rollback(&plugin).await,
                ControlRequest::Retry { sha256 } => registry.retry(&sha256).await,
            };
            done.map(Value::String).map_err(|error| error.to_string())
        })
    })
}

/// Why a server can't serve clients at present.
pub(super) fn server_readiness(sessions: Sessions, registry: &Arc<Registry>, queue: &Queue) -> Readiness {
    let (registry, queue) = (Arc::clone(registry), queue.clone());
    Arc::new(move || {
        let mut reasons = plugin_reasons(&registry);
        if sessions.is_draining() {
            reasons.push("draining".to_owned());
        }
        if sessions.is_lost() {
            reasons.push("this node was taken for dead and its connections were closed; another one is being announced".to_owned());
        }
        if registry.handler().is_none() {
            reasons.push("no handler is live: clients can't register (`server.handler`)".to_owned());
        }
        reasons.extend(queue_reason(&queue));
        if reasons.is_empty() && !sessions.is_ready() {
            reasons.push("deliveries do not arrive yet".to_owned());
        }
        reasons
    })
}

/// Why a worker can't serve jobs at present.
pub(super) fn worker_readiness(registry: &Arc<Registry>, queue: &Queue) -> Readiness {
    let (registry, queue) = (Arc::clone(registry), queue.clone());
    Arc::new(move || plugin_reasons(&registry).into_iter().chain(queue_reason(&queue)).collect())
}

pub(super) fn plugin_reasons(registry: &Registry) -> Vec<String> {
    let statuses = registry.snapshot();
    let down = statuses.iter().filter(|status| status.version.is_none() || status.state == PluginState::Parked);
    let parked = |status: &PluginStatus| status.versions.first().and_then(|version| version.last_reason.clone());
    down.map(|status| match &status.last_rejection {
        _ if status.state == PluginState::Parked => {
            format!("plugin `{}`: parked, no runner of it comes up: {}", status.name, parked(status).unwrap_or_default())
        }
        Some(rejection) => format!("plugin `{}`: {}", status.name, rejection.reason),
        None => format!("plugin `{}`: its file is missing", status.name),
    })
    .collect()
}

fn queue_reason(queue: &Queue) -> Option<String> {
    match &*queue.health.borrow() {
        Health::Up => None,
        Health::Down(reason) => Some(format!("queue: {reason}")),
    }
}

/// The Redis queue, or why these settings have none.
pub(super) fn open_redis(process: &Process, settings: &Settings) -> anyhow::Result<Queue> {
    if settings.queue == "memory" {
        anyhow::bail!("`queue = \"memory\"` works inside one process only: use `plugsocket dev`, or set queue = \"redis://…\"");
    }
    let queue = queue::redis::open(&settings.queue, QueueOptions::from_settings(settings), process.end.clone(), &process.tasks)?;
    Ok(queue)
}

/// A ready line on standard output, for people and for whoever starts the process.
pub(super) fn announce(line: &str) {
    use std::io::Write as _;
    // A closed standard output is no reason to stop serving.
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

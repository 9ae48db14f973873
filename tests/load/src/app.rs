//! The measured side: server, workers and their runners from a folder of built binaries, with a config of their own.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, ensure};
use tempfile::TempDir;

use crate::procs::{self, Process};
use crate::redis::Redis;
use crate::usage::{Group, Measured, descendants};

/// Built binaries of one revision.
#[derive(Debug, Clone)]
pub struct Bins {
    pub folder: PathBuf,
    /// How reports call it.
    pub name: String,
}

impl Bins {
    /// # Errors
    /// A binary that is not there.
    pub fn new(folder: &Path) -> anyhow::Result<Self> {
        for file in ["plugsocket", "plugsocket-server", "plugsocket-worker", "libchat.so"] {
            let path = folder.join(file);
            ensure!(path.is_file(), "{} is not there: `cargo build --release` makes it", path.display());
        }
        let name = folder.file_name().map_or_else(|| folder.display().to_string(), |name| name.to_string_lossy().into_owned());
        Ok(Self { folder: folder.canonicalize()?, name })
    }
}

/// How messages travel and where plugin code runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    RedisRunners,
    RedisInside,
    MemoryInside,
    MemoryRunners,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::RedisRunners => "redis+process",
            Self::RedisInside => "redis+in-process",
            Self::MemoryInside => "memory+in-process",
            Self::MemoryRunners => "memory+process",
        }
    }

    fn isolation(self) -> &'static str {
        match self {
            Self::RedisRunners | Self::MemoryRunners => "process",
            Self::RedisInside | Self::MemoryInside => "in-process",
        }
    }

    fn is_memory(self) -> bool {
        matches!(self, Self::MemoryInside | Self::MemoryRunners)
    }
}

/// What differs from the usual.
#[derive(Debug, Clone)]
pub struct Setup {
    pub kind: Kind,
    pub servers: usize,
    /// 0 leaves the worker for [`App::start_worker`].
    pub workers: usize,
    /// Calls at once, in the worker and in its runner; `None` = the defaults.
    pub slots: Option<usize>,
}

impl Setup {
    pub fn of(kind: Kind) -> Self {
        Self { kind, servers: 1, workers: 1, slots: None }
    }
}

/// A running app; ends when it is dropped.
pub struct App {
    setup: Setup,
    bins: Bins,
    servers: Vec<Process>,
    workers: Vec<Process>,
    pub addresses: Vec<SocketAddr>,
    /// The first server's HTTP API.
    pub ops: SocketAddr,
    /// In the names of its keys.
    pub name: String,
    folder: TempDir,
    redis: u32,
}

impl App {
    /// # Errors
    /// A process that does not get ready in time; its last words are in the error.
    pub fn start(bins: &Bins, redis: &Redis, setup: Setup) -> anyhow::Result<Self> {
        static APPS: AtomicU32 = AtomicU32::new(0);
        let folder = procs::folder()?;
        fs::create_dir(folder.path().join("plugins"))?;
        fs::copy(bins.folder.join("libchat.so"), folder.path().join("plugins/libchat.so"))?;
        let name = format!("load{}", APPS.fetch_add(1, Ordering::Relaxed));
        fs::write(folder.path().join("plugsocket.toml"), config(&name, &redis.url(), &setup))?;
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let (servers, workers, addresses) = (Vec::new(), Vec::new(), Vec::new());
        let mut app = Self { bins: bins.clone(), servers, workers, addresses, ops: unknown, name, folder, redis: redis.pid(), setup };
        for number in 0..app.setup.servers {
            let (program, arguments): (_, &[&str]) =
                if app.setup.kind.is_memory() { ("plugsocket", &["dev"]) } else { ("plugsocket-server", &[]) };
            let server = app.run(program, arguments)?;
            app.addresses.push(address(&server.wait_for("listening on ws://")?)?);
            if app.setup.kind.is_memory() {
                server.wait_for("worker ready")?;
            }
            let ops = address(&server.wait_for("ops on http://")?)?;
            if number == 0 {
                app.ops = ops;
            }
            app.servers.push(server);
        }
        if !app.setup.kind.is_memory() {
            for _ in 0..app.setup.workers {
                app.start_worker()?;
            }
        }
        Ok(app)
    }

    /// One more worker.
    pub fn start_worker(&mut self) -> anyhow::Result<()> {
        let worker = self.run("plugsocket-worker", &[])?;
        worker.wait_for("worker ready")?;
        self.workers.push(worker);
        Ok(())
    }

    fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<Process> {
        let mut command = Command::new(self.bins.folder.join(program));
        command.args(arguments).arg("--config").arg(self.folder.path().join("plugsocket.toml"));
        Process::start(program, command)
    }

    /// The library that is loaded; another one in its place is taken up while everything runs.
    pub fn library(&self) -> PathBuf {
        self.folder.path().join("plugins/libchat.so")
    }

    /// All processes, runners as they are at this moment.
    pub fn measured(&self) -> Measured {
        let mut all = Vec::new();
        for (group, hosts) in [(Group::Server, &self.servers), (Group::Worker, &self.workers)] {
            for host in hosts {
                all.push((group, host.pid()));
                all.extend(descendants(host.pid()).into_iter().map(|runner| (Group::Runners, runner)));
            }
        }
        if !self.setup.kind.is_memory() {
            all.push((Group::Redis, self.redis));
        }
        Measured(all)
    }

    /// The runners of the workers.
    pub fn worker_runners(&self) -> Vec<u32> {
        self.workers.iter().flat_map(|worker| descendants(worker.pid())).collect()
    }
}

/// The address in what follows `ws://`.
fn address(rest: &str) -> anyhow::Result<SocketAddr> {
    let text = rest.split(['/', ' ']).next().unwrap_or("");
    text.parse().with_context(|| format!("no address: {rest}"))
}

fn config(name: &str, queue: &str, setup: &Setup) -> String {
    let isolation = setup.kind.isolation();
    let (slots, threads) =
        setup.slots.map_or((String::new(), String::new()), |slots| (format!("slots = {slots}\n"), format!("threads = {slots}\n")));
    format!(
        "app = \"{name}\"\nqueue = \"{queue}\"\nplugins_dir = \"plugins\"\nstate_dir = \"var\"\nlog_level = \"error\"\n\
         [server]\nlisten = \"127.0.0.1:0\"\nhandler = \"chat\"\n\
         [worker]\n{slots}\
         [ops]\nlisten = \"127.0.0.1:0\"\nworker_listen = \"\"\n\
         [queue_options]\njobs_max = 100000000\n\
         [limits]\nmessages_per_second = 0\naccepts_per_second = 0\nconnections_per_ip_max = 1000000\nunanswered_max = 1000000\n\
         idle_timeout = \"300s\"\nping_interval = \"100s\"\n\
         [actions]\necho = \"chat\"\nreport = \"chat\"\nchat_text = \"chat\"\njoin = \"chat\"\n\
         [plugins.chat]\nisolation = \"{isolation}\"\n{threads}\
         [plugins.chat.config]\nheartbeat = \"0s\"\n"
    )
}

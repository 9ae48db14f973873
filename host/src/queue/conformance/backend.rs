//! What the suite runs on: a queue of either kind, and a private redis-server.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::queue::{Consumer, Entry, Queue, QueueOptions, Stored, Taken, TlsFiles, memory, redis as redis_queue};
use crate::wire::ids::{NodeId, SessionId};
use crate::wire::job::Job;
use crate::wire::json::Json;

/// Nothing in the suite may take longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Memory,
    Redis,
}

/// A redis-server on a Unix socket in a folder of its own.
pub(super) struct Server {
    child: Mutex<Option<Child>>,
    folder: TempDir,
    arguments: Vec<String>,
}

impl Server {
    pub(super) fn start(arguments: &[&str]) -> Arc<Self> {
        let server = Self::absent(arguments);
        server.launch();
        server
    }

    /// The same, not running yet.
    pub(super) fn absent(arguments: &[&str]) -> Arc<Self> {
        let folder = TempDir::new().unwrap();
        Arc::new(Self { child: Mutex::default(), folder, arguments: arguments.iter().map(|text| (*text).to_owned()).collect() })
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    pub(super) fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    pub(super) fn launch(&self) {
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(self.socket())
            .arg("--dir")
            .arg(self.folder.path())
            .args(&self.arguments)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server must be installed");
        *self.child.lock().unwrap() = Some(child);
        let client = redis::Client::open(self.url()).unwrap();
        let started = std::time::Instant::now();
        while client.get_connection().and_then(|mut connection| redis::cmd("PING").query::<String>(&mut connection)).is_err() {
            assert!(started.elapsed() < PATIENCE, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends a signal by name.
    pub(super) fn signal(&self, signal: &str) {
        let id = self.child.lock().unwrap().as_ref().unwrap().id();
        assert!(Command::new("kill").arg(format!("-{signal}")).arg(id.to_string()).status().unwrap().success());
    }

    pub(super) fn stop(&self) {
        if let Some(mut child) = self.child.lock().unwrap().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// One server for all tests that run at the time, stopped with the last of them.
fn shared_server() -> Arc<Server> {
    static SHARED: OnceLock<Mutex<Weak<Server>>> = OnceLock::new();
    let mut shared = SHARED.get_or_init(Mutex::default).lock().unwrap();
    shared.upgrade().unwrap_or_else(|| {
        let server = Server::start(&[]);
        *shared = Arc::downgrade(&server);
        server
    })
}

type DeadLetters = Box<dyn Fn() -> Vec<(String, String)> + Send + Sync>;

/// A queue under test.
pub(super) struct Backend {
    pub(super) queue: Queue,
    pub(super) options: QueueOptions,
    pub(super) server: Option<Arc<Server>>,
    memory_dead: Option<DeadLetters>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

pub(super) fn options() -> QueueOptions {
    static APPS: AtomicU32 = AtomicU32::new(0);
    let app = format!("t{}", APPS.fetch_add(1, Ordering::Relaxed));
    QueueOptions {
        php_lists: vec![format!("queues:{app}_out")],
        app,
        partitions: 8,
        partition_jobs_max: 100_000,
        batcher_items_max: 4096,
        confirm_timeout: Duration::from_secs(5),
        lease: Duration::from_secs(1),
        partition_held_max: 1_000,
        dead_max: 100,
        dead_age_max: Duration::from_secs(3600),
        store_ttl: Duration::ZERO,
        php_item_bytes_max: 64 << 10,
        php_prefix: String::new(),
        php_waiting_max: 1_000,
        php_in_lists: Vec::new(),
        tls: TlsFiles::default(),
    }
}

impl Backend {
    /// Another queue of the same kind, on the same server where there is one.
    pub(super) fn beside(&self, options: QueueOptions) -> Self {
        match &self.server {
            Some(server) => Self::on(Arc::clone(server), options),
            None => Self::in_memory(options),
        }
    }

    pub(super) fn open(kind: Kind) -> Self {
        match kind {
            Kind::Redis => Self::on(shared_server(), options()),
            Kind::Memory => Self::in_memory(options()),
        }
    }

    pub(super) fn in_memory(options: QueueOptions) -> Self {
        let (queue, dead) = memory::open_with_dead(&options);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        Self { queue, options, server: None, memory_dead: Some(Box::new(dead)), stop, tasks }
    }

    pub(super) fn on(server: Arc<Server>, options: QueueOptions) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let queue = redis_queue::open(&server.url(), options.clone(), stop.clone(), &tasks).unwrap();
        Self { queue, options, server: Some(server), memory_dead: None, stop, tasks }
    }

    /// A second process on the same queue; the memory queue has only one.
    pub(super) fn other(&self) -> Queue {
        match &self.server {
            None => self.queue.clone(),
            Some(server) => redis_queue::open(&server.url(), self.options.clone(), self.stop.clone(), &self.tasks).unwrap(),
        }
    }

    pub(super) async fn consumer(&self) -> Arc<dyn Consumer> {
        patiently(self.queue.inbox.consume(&NodeId::random().unwrap())).await.unwrap()
    }

    /// Stores a job, and waits until it is.
    pub(super) async fn offer(&self, job: Job) -> Stored {
        patiently(offer(&self.queue, job)).await
    }

    /// Action and reason of each dead letter.
    pub(super) fn dead_letters(&self) -> Vec<(String, String)> {
        if let Some(dead) = &self.memory_dead {
            return dead();
        }
        let mut found = Vec::new();
        for partition in 0..self.options.partitions {
            let key = format!("ps:{{{}:p{partition}}}:dead", self.options.app);
            let entries: redis::streams::StreamRangeReply = self.command(redis::cmd("XRANGE").arg(key).arg("-").arg("+"));
            for entry in entries.ids {
                found.push((entry.get("a").unwrap_or_default(), entry.get("reason").unwrap()));
            }
        }
        found
    }

    /// Runs a command past the queue.
    pub(super) fn command<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> T {
        let client = redis::Client::open(self.server.as_ref().unwrap().url()).unwrap();
        command.query(&mut client.get_connection().unwrap()).unwrap()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(super) async fn patiently<T>(future: impl Future<Output = T>) -> T {
    time::timeout(PATIENCE, future).await.expect("took too long")
}

pub(super) async fn offer(queue: &Queue, job: Job) -> Stored {
    let (sender, stored) = tokio::sync::oneshot::channel();
    let mut job = job;
    let mut on_stored: crate::queue::OnStored = Box::new(move |stored| drop(sender.send(stored)));
    while let Err(full) = queue.inbox.offer(job, on_stored) {
        (job, on_stored) = (full.offered, full.on_stored);
        queue.inbox.room().await;
    }
    stored.await.unwrap()
}

/// Takes until there are `count` jobs.
pub(super) async fn take(consumer: &Arc<dyn Consumer>, count: usize) -> Vec<Taken> {
    let mut taken = Vec::new();
    let started = Instant::now();
    while taken.len() < count {
        assert!(started.elapsed() < PATIENCE, "only {} of {count} jobs came", taken.len());
        taken.extend(consumer.take(count - taken.len()).await.unwrap());
    }
    taken
}

pub(super) fn session(node: &NodeId) -> SessionId {
    SessionId::random(node).unwrap()
}

pub(super) fn job(session: &SessionId, sequence: u64) -> Job {
    Job {
        session: session.clone(),
        connection_id: session.as_str().into(),
        user_id: None,
        action: format!("a{sequence}"),
        sequence,
        time_ms: 1,
        client_id: None,
        ip: String::new(),
        attempts: 0,
        unserved: 0,
        scheduled_id: None,
        data: Json::encode(&sequence).unwrap(),
    }
}

pub(super) fn entry(session: &SessionId, connection: Option<&str>, user: Option<&str>, groups: &[&str]) -> Entry {
    Entry {
        session: session.clone(),
        connection_id: connection.unwrap_or(session.as_str()).to_owned(),
        user_id: user.map(ToOwned::to_owned),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        identity: format!(r#"{{"connection_id":"{}"}}"#, connection.unwrap_or(session.as_str())).into(),
    }
}

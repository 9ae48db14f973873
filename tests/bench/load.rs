//! Jobs, and a queue of our own to run them through: what every scenario shares. Whatever gets lost or comes out of order ends the run.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{bail, ensure};
use plugsocket::config::Settings;
use plugsocket::queue::{Consumer, Queue, QueueOptions, Stored, Taken, Verdict, redis as redis_queue};
use plugsocket::wire::ids::{NodeId, SessionId};
use plugsocket::wire::job::Job;
use plugsocket::wire::json::Json;
use plugsocket::wire::packed::{JOB_FIELD, put_job};
use tokio::sync::Notify;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::Bench;

/// Nothing may stand still for longer.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// What a worker asks for at once.
pub const TAKE_MAX: usize = 128;
/// Connections that the jobs come from.
pub const SESSIONS: usize = 1_000;
/// Bytes of a client's data.
const DATA_BYTES: usize = 100;

/// The runtime that our side runs on.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// CPU that this process has used, in microseconds.
pub fn own_cpu_us() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let (seconds, nanoseconds) = (u32::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0));
    f64::from(seconds) * 1e6 + f64::from(nanoseconds) / 1e3
}

/// A queue with an app of its own.
pub struct Setup {
    pub queue: Queue,
    pub app: String,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Setup {
    /// Opens one and waits until it serves.
    pub async fn open(bench: &Bench, partitions: u32, change: impl FnOnce(&mut QueueOptions)) -> anyhow::Result<Self> {
        static APPS: AtomicU32 = AtomicU32::new(0);
        let app = format!("bench{}", APPS.fetch_add(1, Ordering::Relaxed));
        let mut options = QueueOptions::from_settings(&Settings { app: app.clone(), ..Settings::default() });
        options.partitions = partitions;
        options.partition_jobs_max = usize::MAX;
        options.php_lists.clear();
        change(&mut options);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let queue = redis_queue::open(&bench.redis.url(), options, stop.clone(), &tasks)?;
        time::timeout(PATIENCE, queue.inbox.room()).await?;
        Ok(Self { queue, app, stop, tasks })
    }

    /// Ends it.
    pub async fn close(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.tasks.close();
        time::timeout(PATIENCE, self.tasks.wait()).await?;
        Ok(())
    }
}

/// Makes jobs, round about over the sessions, each session's counted from 1.
pub struct Source {
    sessions: Vec<SessionId>,
    data: Json,
    made: usize,
}

impl Source {
    pub fn new(sessions: usize) -> anyhow::Result<Self> {
        let node = NodeId::random()?;
        let sessions = (0..sessions).map(|_| SessionId::random(&node)).collect::<Result<_, _>>()?;
        let data = Json::encode(&serde_json::json!({ "text": "x".repeat(DATA_BYTES - r#"{"text":""}"#.len()) }))?;
        Ok(Self { sessions, data, made: 0 })
    }

    pub fn job(&mut self) -> Job {
        let session = &self.sessions[self.made % self.sessions.len()];
        let sequence = self.made / self.sessions.len() + 1;
        self.made += 1;
        let time_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        Job {
            session: session.clone(),
            connection_id: session.as_str().into(),
            user_id: Some("1234".into()),
            action: "chat_text".to_owned(),
            sequence: sequence as u64,
            time_ms: u64::try_from(time_ms).unwrap_or(0),
            client_id: None,
            ip: "127.0.0.1".to_owned(),
            attempts: 0,
            unserved: 0,
            scheduled_id: None,
            data: self.data.clone(),
        }
    }

    /// The command that stores such a job, for the reference: as many bytes, none of them zero, which no argument of `redis-benchmark` can have.
    pub fn xadd(&mut self) -> Vec<Vec<u8>> {
        let mut packed = Vec::new();
        put_job(&mut packed, &self.job());
        let mut command: Vec<Vec<u8>> = ["XADD", "bench:reference", "*", JOB_FIELD].map(|word| word.as_bytes().to_vec()).to_vec();
        command.push(vec![b'x'; packed.len()]);
        command
    }
}

/// What became of the jobs that were offered.
#[derive(Default)]
pub struct Stores {
    stored: AtomicUsize,
    failed: AtomicUsize,
    changed: Notify,
}

impl Stores {
    fn told(&self, outcome: &Stored, wake_at: usize) {
        let counter = if *outcome == Stored::Yes { &self.stored } else { &self.failed };
        let told = counter.fetch_add(1, Ordering::Relaxed) + 1;
        if told == wake_at || *outcome != Stored::Yes {
            self.changed.notify_one();
        }
    }

    /// Resolves when `count` have been stored.
    pub async fn wait(&self, count: usize) -> anyhow::Result<()> {
        while self.stored.load(Ordering::Relaxed) < count {
            ensure!(self.failed.load(Ordering::Relaxed) == 0, "jobs were refused");
            time::timeout(PATIENCE, self.changed.notified()).await?;
        }
        Ok(())
    }
}

/// Offers `count` jobs as fast as there is room.
pub async fn offer_all(queue: &Queue, source: &mut Source, count: usize, window: &Window) -> anyhow::Result<Arc<Stores>> {
    let stores = Arc::new(Stores::default());
    for _ in 0..count {
        window.enter().await?;
        let told = Arc::clone(&stores);
        let mut offered = queue.inbox.offer(source.job(), Box::new(move |outcome| told.told(&outcome, count)));
        while let Err(full) = offered {
            time::timeout(PATIENCE, queue.inbox.room()).await?;
            offered = queue.inbox.offer(full.offered, full.on_stored);
        }
    }
    Ok(stores)
}

/// Bounds the jobs that are offered and not settled.
pub struct Window(Option<tokio::sync::Semaphore>);

impl Window {
    pub fn of(jobs: usize) -> Self {
        Self(Some(tokio::sync::Semaphore::new(jobs)))
    }

    pub fn unbounded() -> Self {
        Self(None)
    }

    async fn enter(&self) -> anyhow::Result<()> {
        if let Some(room) = &self.0 {
            time::timeout(PATIENCE, room.acquire()).await??.forget();
        }
        Ok(())
    }

    fn leave(&self, jobs: usize) {
        if let Some(room) = &self.0 {
            room.add_permits(jobs);
        }
    }
}

/// Checks that every session's jobs come once and in order.
#[derive(Default)]
pub struct Order(HashMap<SessionId, u64>);

impl Order {
    pub fn check(&mut self, taken: &Taken) -> anyhow::Result<()> {
        let Job { session, sequence, .. } = &taken.job;
        let last = match self.0.get_mut(session) {
            Some(last) => last,
            None => self.0.entry(session.clone()).or_default(),
        };
        if *sequence != *last + 1 {
            bail!("session {session}: job {sequence} came after job {last}");
        }
        *last = *sequence;
        Ok(())
    }
}

/// Takes and settles `count` jobs; `tick` is told how many are done after each take.
pub async fn take_all(
    consumer: &dyn Consumer,
    count: usize,
    window: &Window,
    order: &mut Order,
    mut tick: impl FnMut(usize),
) -> anyhow::Result<()> {
    let (mut done, mut last) = (0, time::Instant::now());
    while done < count {
        let taken = consumer.take(TAKE_MAX).await?;
        if taken.is_empty() {
            ensure!(last.elapsed() < PATIENCE, "{} of {count} jobs never came", count - done);
            continue;
        }
        last = time::Instant::now();
        let jobs = taken.len();
        for job in taken {
            order.check(&job)?;
            ensure!(consumer.may_start(&job.receipt), "a job may not start: the lease was lost");
            consumer.settle(job.receipt, Verdict::Done).await?;
        }
        window.leave(jobs);
        done += jobs;
        tick(done);
    }
    ensure!(done == count, "{} jobs too many", done - count);
    Ok(())
}

/// Fails when anything is left in the partitions.
pub fn nothing_left(bench: &Bench, app: &str, partitions: u32) -> anyhow::Result<()> {
    let mut wire = bench.redis.wire()?;
    for partition in 0..partitions {
        let key = format!("ps:{{{app}:p{partition}}}:in");
        let left = wire.call(&[b"XLEN", key.as_bytes()])?;
        ensure!(left == "0", "{left} entries are left in {key}");
    }
    Ok(())
}

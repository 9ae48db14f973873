//! Connections to Redis: opened with our own settings and deadlines, supervised, and made anew with backoff; never by redis-rs itself.

mod facts;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisError, Value};
use tokio::sync::{Notify, watch};
use tokio::time;
use tokio_util::sync::CancellationToken;

use super::address::Address;
use super::answers::{integer, is_passing, server_error, text};
use super::keys::Keys;
use super::link::{Link, LinkError};
use super::pauses::{Backoff, REMIND_INTERVAL};
use super::scripts;
use crate::queue::{Health, QueueError, QueueOptions};

/// Longest time one ordinary command may take before its connection counts as broken.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a blocking read waits inside Redis.
pub(super) const BLOCK: Duration = Duration::from_secs(1);
/// A blocking read's own deadline is later than its end inside Redis: otherwise its answer would get lost.
pub(super) const BLOCKING_TIMEOUT: Duration = BLOCK.saturating_add(Duration::from_secs(2));

const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a call waits for a connection.
const BLIP: Duration = Duration::from_secs(1);

/// What the supervisor knows.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Status {
    Connecting,
    Up,
    Unreachable(String),
    Refused(String),
}

/// A connection as Redis knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fence {
    run: String,
    /// Its number there.
    pub(super) client: i64,
}

/// Opens connections, and keeps the one for short calls alive.
pub(super) struct Connector {
    address: Address,
    keys: Keys,
    partitions_wanted: u32,
    /// As stored in Redis; 0 until the first connection.
    partitions: AtomicU32,
    /// Names the data in Redis: another name means that what was there is gone.
    data: Mutex<String>,
    status: watch::Sender<Status>,
    health: watch::Sender<Health>,
    calls: Mutex<Option<MultiplexedConnection>>,
    broken: Notify,
    stop: CancellationToken,
}

impl Connector {
    /// Checks the URL; connects to nothing yet.
    ///
    /// # Errors
    /// [`QueueError::Invalid`] for a URL or an app name that can't be used.
    pub(super) fn new(url: &str, options: &QueueOptions, stop: CancellationToken) -> Result<(Self, watch::Receiver<Health>), QueueError> {
        let address = Address::parse(url, &options.tls)?;
        let keys = Keys::new(&options.app)
            .ok_or_else(|| QueueError::Invalid(format!("app name `{}` is not 1 to 64 of A-Z a-z 0-9 _ -", options.app)))?;
        let (health, receiver) = watch::channel(Health::Down("not connected yet".to_owned()));
        let connector = Self {
            address,
            keys,
            partitions_wanted: options.partitions.max(1),
            partitions: AtomicU32::new(0),
            data: Mutex::default(),
            status: watch::channel(Status::Connecting).0,
            health,
            calls: Mutex::new(None),
            broken: Notify::new(),
            stop,
        };
        Ok((connector, receiver))
    }

    pub(super) fn keys(&self) -> &Keys {
        &self.keys
    }

    pub(super) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Partitions as stored in Redis; 0 until Redis has been reached once.
    pub(super) fn partitions(&self) -> u32 {
        self.partitions.load(Ordering::Relaxed)
    }

    /// A new connection of its own. `response_timeout` bounds every command on it.
    pub(super) async fn connect(&self, response_timeout: Duration) -> Result<MultiplexedConnection, RedisError> {
        self.address.connect(response_timeout).await
    }

    /// A new connection for the hot path. Makes sure that nothing more is executed of what was sent on the one before (`fence`): a stalled
    /// Redis would otherwise run it later, after what is sent again.
    pub(super) async fn link(&self, fence: &mut Option<Fence>) -> Result<Link, LinkError> {
        let mut link = self.address.link().await?;
        let mut identify = redis::Pipeline::new();
        identify.cmd("CLIENT").arg("ID");
        identify.cmd("INFO").arg("server");
        let answers = link.run(&identify, CALL_TIMEOUT).await?;
        let client = answers.first().and_then(integer).unwrap_or(0);
        let info = answers.get(1).map(text).unwrap_or_default();
        let run = info.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap_or_default().trim().to_owned();
        // Numbers begin anew at a restart: there it would hit somebody else, and nothing is left to be fenced off.
        if let Some(former) = fence.as_ref().filter(|former| !run.is_empty() && former.run == run && former.client != client) {
            let mut kill = redis::Pipeline::new();
            kill.cmd("CLIENT").arg("KILL").arg("ID").arg(former.client);
            let killed = link.run(&kill, CALL_TIMEOUT).await?;
            if let Some(Value::ServerError(error)) = killed.first() {
                tracing::warn!(%error, "former connection could not be closed at Redis; allow CLIENT KILL in its ACL");
            }
        }
        if run.is_empty() {
            tracing::warn!("Redis does not say its run id; what an abandoned connection sent may still run late; allow INFO in its ACL");
        }
        *fence = Some(Fence { run, client });
        Ok(link)
    }

    /// Loads the scripts through a connection of our own.
    pub(super) async fn load_scripts_by(&self, link: &mut Link) -> Result<(), LinkError> {
        for answer in link.run(&scripts::load_all(), CALL_TIMEOUT).await? {
            if let Value::ServerError(error) = answer {
                return Err(LinkError::Refused(error.to_string()));
            }
        }
        Ok(())
    }

    /// Waits until Redis is reachable and fit.
    pub(super) async fn ready(&self) -> Result<(), QueueError> {
        let mut status = self.status.subscribe();
        loop {
            match &*status.borrow_and_update() {
                Status::Up => return Ok(()),
                Status::Refused(reason) => return Err(QueueError::Refused(reason.clone())),
                Status::Connecting | Status::Unreachable(_) => {}
            }
            tokio::select! {
                () = self.stop.cancelled() => return Err(QueueError::Closed),
                changed = status.changed() => if changed.is_err() { return Err(QueueError::Closed) },
            }
        }
    }

    /// Tells the supervisor that a connection broke, so that it looks at once.
    pub(super) fn report_broken(&self) {
        self.broken.notify_one();
    }

    fn held(&self) -> Option<MultiplexedConnection> {
        self.calls.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn hold(&self, connection: Option<MultiplexedConnection>) {
        *self.calls.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = connection;
    }

    /// The connection for short calls. A moment without one, as at the start, is waited out.
    async fn calls(&self) -> Result<MultiplexedConnection, QueueError> {
        if self.held().is_none() {
            let _ = time::timeout(BLIP, self.ready()).await;
        }
        self.held().ok_or_else(|| match &*self.status.borrow() {
            Status::Refused(reason) => QueueError::Refused(reason.clone()),
            Status::Unreachable(reason) => QueueError::Unreachable(reason.clone()),
            Status::Connecting | Status::Up => QueueError::Unreachable("not connected yet".to_owned()),
        })
    }

    /// Runs one short command on the shared connection.
    pub(super) async fn call(&self, command: &Cmd) -> Result<Value, QueueError> {
        let mut connection = self.calls().await?;
        let mut answer = connection.send_packed_command(command).await;
        if matches!(&answer, Ok(Value::ServerError(error)) if error.code() == "NOSCRIPT") {
            self.load_scripts(&mut connection).await.map_err(|error| self.failed(&error))?;
            answer = connection.send_packed_command(command).await;
        }
        match answer {
            Ok(Value::ServerError(error)) => {
                if is_passing(&error) {
                    self.report_broken();
                }
                Err(server_error(&error))
            }
            Ok(value) => Ok(value),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Runs several short commands in one round trip; answers may be server errors.
    pub(super) async fn call_many(&self, pipeline: &redis::Pipeline) -> Result<Vec<Value>, QueueError> {
        let mut connection = self.calls().await?;
        connection.send_packed_commands(pipeline, 0, pipeline.len()).await.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &RedisError) -> QueueError {
        self.report_broken();
        QueueError::Unreachable(error.to_string())
    }

    pub(super) async fn load_scripts(&self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        let scripts = scripts::load_all();
        for answer in connection.send_packed_commands(&scripts, 0, scripts.len()).await? {
            if let Value::ServerError(error) = answer {
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Connects, watches, connects again, until stopped.
    pub(super) async fn supervise(&self) {
        let mut backoff = Backoff::new();
        let mut told = None;
        while !self.stop.is_cancelled() {
            let status = match self.establish().await {
                Ok(connection) => {
                    self.hold(Some(connection.clone()));
                    tracing::info!(partitions = self.partitions(), "queue is up");
                    self.publish(Status::Up);
                    (backoff, told) = (Backoff::new(), None);
                    let reason = self.watch(connection).await;
                    self.hold(None);
                    Status::Unreachable(reason)
                }
                Err(QueueError::Refused(reason)) => Status::Refused(reason),
                Err(QueueError::Unreachable(reason)) => Status::Unreachable(reason),
                Err(error) => Status::Unreachable(error.to_string()),
            };
            if self.stop.is_cancelled() {
                break;
            }
            remind(&status, &mut told);
            self.publish(status);
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = time::sleep(backoff.next()) => {}
            }
        }
        self.publish(Status::Unreachable("queue is closed".to_owned()));
    }

    fn publish(&self, status: Status) {
        let health = match &status {
            Status::Up => Health::Up,
            Status::Connecting => Health::Down("not connected yet".to_owned()),
            Status::Unreachable(reason) | Status::Refused(reason) => Health::Down(reason.clone()),
        };
        metrics::gauge!("plugsocket_queue_up").set(if status == Status::Up { 1.0 } else { 0.0 });
        self.health.send_replace(health);
        self.status.send_replace(status);
    }

    async fn establish(&self) -> Result<MultiplexedConnection, QueueError> {
        let unreachable = |error: RedisError| QueueError::Unreachable(self.address.explain(&error));
        let mut connection = self.connect(CALL_TIMEOUT).await.map_err(unreachable)?;
        let info = connection.send_packed_command(redis::cmd("INFO").arg("memory")).await.map_err(unreachable)?;
        check_policy(&text(&info))?;
        self.load_scripts(&mut connection).await.map_err(unreachable)?;
        self.probe(&mut connection).await.map_err(QueueError::Unreachable)?;
        self.read_config(&mut connection).await?;
        Ok(connection)
    }

    /// Looks once per second, and at once when somebody reports a broken connection; answers why it is over.
    async fn watch(&self, mut connection: MultiplexedConnection) -> String {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return "queue is closed".to_owned(),
                () = self.broken.notified() => {}
                () = time::sleep(CHECK_INTERVAL) => {}
            }
            match self.probe(&mut connection).await {
                Ok(Some(partitions)) if partitions == self.partitions() => {}
                Ok(Some(partitions)) => return format!("the queue has {partitions} partitions now"),
                Ok(None) => {
                    if let Err(error) = self.read_config(&mut connection).await {
                        return error.to_string();
                    }
                }
                Err(reason) => return reason,
            }
        }
    }
}

/// Says what is wrong when it changes, and now and then while it lasts.
fn remind(status: &Status, told: &mut Option<(Status, time::Instant)>) {
    if told.as_ref().is_some_and(|(last, when)| last == status && when.elapsed() < REMIND_INTERVAL) {
        return;
    }
    match status {
        Status::Refused(reason) => tracing::error!(reason, "queue refused; tried again until it is mended"),
        Status::Unreachable(reason) => tracing::warn!(reason, "queue is unreachable; tried again with backoff"),
        Status::Connecting | Status::Up => {}
    }
    *told = Some((status.clone(), time::Instant::now()));
}

fn check_policy(info: &str) -> Result<(), QueueError> {
    match info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:")).map(str::trim) {
        None | Some("noeviction") => Ok(()),
        Some(policy) => Err(QueueError::Refused(format!(
            "maxmemory-policy {policy} would silently delete messages; run: redis-cli CONFIG SET maxmemory-policy noeviction"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_evicting_policy_is_refused_with_the_command_that_mends_it() {
        assert!(check_policy("maxmemory:0\r\nmaxmemory_policy:noeviction\r\n").is_ok());
        let error = check_policy("maxmemory_policy:allkeys-lru\r\n").unwrap_err().to_string();
        assert!(error.contains("CONFIG SET maxmemory-policy noeviction"), "{error}");
    }
}

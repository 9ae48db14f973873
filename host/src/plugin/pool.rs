//! A plugin in this process: its own threads, bounded waiting, and the way back from its calls to the host.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use async_trait::async_trait;
use bytes::Bytes;
use plugsocket_plugin::call::{HostOperation, Operation, Status};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::time;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::desk::{Desk, Refused};
use super::library::{Host, Instance};
use super::log::log;
use super::{Answer, Call, CallError, Callee, HostSink, Retirable};

/// What a plugin hears that asks the host for something when it must not.
pub(super) const OUTSIDE_OF_CALLS: &str = "only possible during a call";
pub(super) const CALL_IS_OVER: &str = "call is over";

/// How a plugin's calls run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolOptions {
    /// Names the threads and the log's events.
    pub plugin: Arc<str>,
    /// Calls at once; at least 1.
    pub threads: usize,
    /// Calls that may wait beyond those.
    pub waiting_max: usize,
}

/// What the threads run: a plugin's instance, or a test's function.
pub(super) trait Subject: Send + Sync + Sized + 'static {
    /// Runs one call on this thread.
    fn call(&self, token: u64, operation: Operation, input: &[u8]) -> Answer;

    /// Ends it; no call runs any more.
    fn shutdown(self);
}

impl Subject for Instance {
    fn call(&self, token: u64, operation: Operation, input: &[u8]) -> Answer {
        self.call(token, operation, input)
    }

    fn shutdown(self) {
        self.shutdown();
    }
}

/// One instance, called directly by threads of its own.
///
/// Panics inside the plugin are contained; a crash ends the process. Dropping it lets the threads finish what they run, and end.
pub struct InProcess {
    desk: Arc<Desk<Work>>,
    /// Calls that may run and wait.
    open_max: usize,
    host: Arc<PoolHost>,
    /// Told of calls that wait, and that no thread has been called for.
    offered: Arc<Notify>,
    ended: CancellationToken,
    tasks: TaskTracker,
}

struct Work {
    token: u64,
    operation: Operation,
    input: Bytes,
    /// By the thread that begins it, or by its caller, who has given up: whoever is first.
    is_claimed: Arc<AtomicBool>,
    answer: oneshot::Sender<Answer>,
}

impl Work {
    fn run<S: Subject>(self, subject: &S, answers: &Answers) {
        // When nobody waits for it, it never begins.
        if !self.answer.is_closed() && !self.is_claimed.swap(true, Ordering::AcqRel) {
            let answer = subject.call(self.token, self.operation, &self.input);
            answers.lock().push((self.answer, answer));
        }
    }
}

/// The way back: to wake the runtime's thread costs a system call, so it is woken once for many answers.
#[derive(Default)]
struct Answers {
    ended: Mutex<Vec<(oneshot::Sender<Answer>, Answer)>>,
    wake: Notify,
}

/// Calls threads until `ended` fires: once for all calls that are made in one go.
async fn call_threads(desk: Arc<Desk<Work>>, offered: Arc<Notify>, ended: CancellationToken) {
    while ended.run_until_cancelled(offered.notified()).await.is_some() {
        tokio::task::yield_now().await;
        desk.call();
    }
}

impl Answers {
    fn lock(&self) -> MutexGuard<'_, Vec<(oneshot::Sender<Answer>, Answer)>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flush(&self) {
        if !self.lock().is_empty() {
            self.wake.notify_one();
        }
    }
}

/// Hands answers out until `ended` fires, and then those that are left.
async fn hand_out(answers: Arc<Answers>, ended: CancellationToken) {
    let mut batch = Vec::new();
    loop {
        let is_over = ended.run_until_cancelled(answers.wake.notified()).await.is_none();
        std::mem::swap(&mut batch, &mut *answers.lock());
        for (call, answer) in batch.drain(..) {
            let _ = call.send(answer);
        }
        if is_over {
            return;
        }
    }
}

impl InProcess {
    /// Starts the threads of an instance that was created with `host`.
    ///
    /// # Errors
    /// The system's, when it gives no threads; the instance is then shut down.
    pub(super) fn start<S: Subject>(subject: S, host: Arc<PoolHost>, options: &PoolOptions) -> io::Result<Arc<Self>> {
        let threads = options.threads.max(1);
        let desk = Arc::new(Desk::new());
        let open_max = threads.saturating_add(options.waiting_max);
        let (subject, answers, offered) = (Arc::new(subject), Arc::new(Answers::default()), Arc::new(Notify::new()));
        let (ended, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn_on(call_threads(Arc::clone(&desk), Arc::clone(&offered), ended.clone()), &host.runtime);
        tasks.spawn_on(hand_out(Arc::clone(&answers), ended.clone()), &host.runtime);
        tasks.close();
        let pool = Arc::new(Self { desk: Arc::clone(&desk), open_max, host, offered, ended, tasks });
        let start = |name: String, life: Box<dyn FnOnce() + Send>| thread::Builder::new().name(name).spawn(life).map(drop);
        let mut started = Ok(());
        if desk.has_alarm() {
            let (watched, answers) = (Arc::clone(&desk), Arc::clone(&answers));
            started = start("alarm".to_owned(), Box::new(move || watched.watch(|| answers.flush())));
        }
        for _ in 0..threads {
            let (served, shared, answers, ended) = (Arc::clone(&desk), Arc::clone(&subject), Arc::clone(&answers), pool.ended.clone());
            let run = move || {
                served.serve(|work: Work| work.run(shared.as_ref(), &answers), || answers.flush());
                // Exactly one thread, the last, gets the instance itself.
                if let Some(subject) = Arc::into_inner(shared) {
                    let _ended = ended.drop_guard();
                    subject.shutdown();
                }
            };
            started = started.and_then(|()| start(format!("plug:{}", options.plugin), Box::new(run)));
        }
        if let Err(error) = started {
            // Threads that did start end with the pool, and the last of them shuts the instance down.
            desk.close();
            if let Some(subject) = Arc::into_inner(subject) {
                subject.shutdown();
                pool.ended.cancel();
            }
            return Err(error);
        }
        if let Some(subject) = Arc::into_inner(subject) {
            subject.shutdown(); // Unreachable while the desk is open; kept so that the instance can't be lost.
        }
        Ok(pool)
    }
}

#[async_trait]
impl Retirable for InProcess {
    fn close(&self) {
        self.desk.close();
    }

    fn kill(&self) {
        self.desk.close();
    }

    async fn ended(&self) {
        self.ended.cancelled().await;
        self.tasks.wait().await;
    }

    fn running(&self) -> usize {
        self.desk.running()
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        self.desk.close();
    }
}

#[async_trait]
impl Callee for InProcess {
    async fn call(&self, call: Call) -> Result<Answer, CallError> {
        // The guard lives in this future: whoever gives up on a call also takes back its say.
        let token = self.host.admit(call.sink);
        let (answer, answered) = oneshot::channel();
        let is_claimed = Arc::new(AtomicBool::new(false));
        let work = Work { token: token.number, operation: call.operation, input: call.input, is_claimed: Arc::clone(&is_claimed), answer };
        let offered = self.desk.offer(work, self.open_max, |work| !work.answer.is_closed()).map_err(|refused| match refused {
            Refused::Full => CallError::Overloaded,
            Refused::Closed => CallError::Gone("this version has been retired".to_owned()),
        })?;
        if offered {
            self.offered.notify_one();
        }
        let answered = match call.timeout {
            Some(limit) => time::timeout(limit, answered)
                .await
                .map_err(|_| if is_claimed.swap(true, Ordering::AcqRel) { CallError::TimedOut } else { CallError::Late })?,
            None => answered.await,
        };
        answered.map_err(|_| CallError::Gone("its thread ended during the call".to_owned()))
    }

    fn ends_calls(&self) -> bool {
        false
    }
}

/// The host as the plugin's threads see it: tokens lead to the call they ask for.
pub(super) struct PoolHost {
    plugin: Arc<str>,
    runtime: Handle,
    next: AtomicU64,
    calls: Mutex<HashMap<u64, Arc<dyn HostSink>>>,
}

/// One call's right to ask; gone when dropped.
struct Token<'host> {
    host: &'host PoolHost,
    number: u64,
}

impl Drop for Token<'_> {
    fn drop(&mut self) {
        self.host.calls().remove(&self.number);
    }
}

impl PoolHost {
    /// Requests of the plugin called `plugin` are answered on `runtime`.
    pub(super) fn new(plugin: Arc<str>, runtime: Handle) -> Arc<Self> {
        Arc::new(Self { plugin, runtime, next: AtomicU64::new(1), calls: Mutex::default() })
    }

    fn calls(&self) -> MutexGuard<'_, HashMap<u64, Arc<dyn HostSink>>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(&self, sink: Arc<dyn HostSink>) -> Token<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.calls().insert(number, sink);
        Token { host: self, number }
    }
}

impl Host for PoolHost {
    fn invoke(&self, token: u64, operation: u32, input: Bytes) -> Answer {
        let Ok(operation) = HostOperation::try_from(operation) else {
            return Answer { status: Status::Unsupported, bytes: Bytes::new() };
        };
        if operation == HostOperation::Log {
            return log(&self.plugin, &input);
        }
        let Some(sink) = self.calls().get(&token).map(Arc::clone) else {
            return Answer::retry(if token == 0 { OUTSIDE_OF_CALLS } else { CALL_IS_OVER });
        };
        self.runtime.block_on(sink.request(operation, input))
    }
}

#[cfg(test)]
mod tests;

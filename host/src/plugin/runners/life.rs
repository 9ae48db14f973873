//! One runner from its first call to its end, and who is to blame for that.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt as _, poll};
use plugsocket_plugin::call::Status;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::process::Child;
use tokio::sync::{mpsc, watch};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use super::RunnersOptions;
use super::cgroup::Confined;
use super::end::{EXIT_GRACE, End, end_process, is_sigkill};
use super::link::{Event, Link, operation_of};
use super::speech::Speech;
use super::start::Started;
use super::verdict::{Verdict, judge, tell};
use crate::plugin::blame::{RunnerEvent, Subject, end_name};
use crate::plugin::crumbs::Crumbs;
use crate::plugin::floor::Floor;
use crate::plugin::frames::{Frame, Head, Kind, take};
use crate::plugin::library::host_panicked;
use crate::plugin::{Answer, Call, CallError};

/// Room for one read.
const READ_BYTES: usize = 16 * 1024;
/// How often a runner that is to be ended is looked at.
const DOOM_POLL: Duration = Duration::from_millis(5);
/// A runner that has not said for so long what became of a cancelled call says nothing any more.
const SILENCE_MAX: Duration = if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(10) };

/// A runner that serves, or did.
pub(super) struct Runner {
    pub(super) id: u32,
    pub(super) started: Instant,
    link: Link,
    crumbs: Crumbs,
    floor: Floor,
    open_max: usize,
    timeout_grace: Duration,
    /// Calls that were given up because they took too long, since when, and of which the runner has not said yet that they don't run.
    overdue: Mutex<HashMap<u64, Instant>>,
    doom: watch::Sender<Doom>,
    left: CancellationToken,
    ended: CancellationToken,
}

/// Whether and when it is to be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doom {
    None,
    /// Told to finish and go.
    Closed,
    /// Killed then, or as soon as no call is open.
    Until(Instant),
    Now,
}

/// What its task owns.
pub(super) struct Body {
    child: Child,
    group: Confined,
    socket: UnixStream,
    input: BytesMut,
    speech: Arc<Speech>,
}

/// A call's place with the runner; whoever drops it before the answer gives up.
struct Open<'runner> {
    runner: &'runner Runner,
    number: u64,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.runner.cancel(self.number);
    }
}

impl Runner {
    pub(super) fn new(started: Started, options: &RunnersOptions) -> (Arc<Self>, Body) {
        let Started { child, group, socket, input, crumbs, speech, .. } = started;
        let settings = &options.settings;
        let runner = Self {
            id: child.id().unwrap_or_default(),
            started: Instant::now(),
            link: Link::new(),
            crumbs,
            floor: Floor::default(),
            open_max: settings.threads.max(1).saturating_add(settings.waiting_max),
            timeout_grace: settings.timeout_grace,
            overdue: Mutex::default(),
            doom: watch::Sender::new(Doom::None),
            left: CancellationToken::new(),
            ended: CancellationToken::new(),
        };
        (Arc::new(runner), Body { child, group, socket, input, speech })
    }

    /// Whether it is the one that a chain is bound to.
    pub(super) fn is(&self, link: u64) -> bool {
        self.link.id == link
    }

    /// Calls that are open.
    pub(super) fn open(&self) -> usize {
        self.link.open()
    }

    /// Whether it has come up: it has answered a call, or ended of one. What is noted of a thread in no call is the plugin's own crash.
    pub(super) fn has_served(&self) -> bool {
        let has_ended_of_call = || self.crumbs.fault().map_or_else(|| !self.crumbs.begun().is_empty(), |fault| fault.call.is_some());
        self.link.answered() > 0 || has_ended_of_call()
    }

    /// Whether it takes no more calls though nobody wanted it to end.
    pub(super) fn has_crashed(&self) -> bool {
        self.left.is_cancelled() && *self.doom.borrow() == Doom::None
    }

    /// Fires when it takes no more calls.
    pub(super) fn left(&self) -> &CancellationToken {
        &self.left
    }

    /// Fires when its process has ended and everybody who waited for it knows.
    pub(super) fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    fn overdue(&self) -> MutexGuard<'_, HashMap<u64, Instant>> {
        self.overdue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self) {
        self.left.cancel();
        self.link.leave();
    }

    /// Whether it no longer takes in what it is told, though it lives.
    pub(super) fn is_silent(&self) -> bool {
        self.overdue().values().any(|since| since.elapsed() > SILENCE_MAX)
    }

    /// Finishes what it has, and ends.
    pub(super) fn close(&self) {
        self.leave();
        self.doom.send_if_modified(|doom| {
            let is_first = *doom == Doom::None;
            if is_first {
                *doom = Doom::Closed;
                self.link.send(Head::of(Kind::Close), &[]);
            }
            is_first
        });
    }

    /// Ends at once.
    pub(super) fn kill(&self) {
        self.leave();
        self.doom.send_replace(Doom::Now);
    }

    /// Makes a call that comes behind others. Its time begins with the second poll: the first one hands it over, and nobody waits for it before the
    /// one in front of it has ended.
    pub(super) async fn run_behind(&self, call: &Call) -> Result<Answer, CallError> {
        let number = AtomicU64::new(0);
        let mut made = std::pin::pin!(self.make(call, &number));
        if let Poll::Ready(result) = poll!(made.as_mut()) {
            return result?.ok_or(CallError::NotBegun);
        }
        let mut is_second = false;
        std::future::poll_fn(|_| if std::mem::replace(&mut is_second, true) { Poll::Ready(()) } else { Poll::Pending }).await;
        let deadline = call.timeout.map(|limit| Instant::now() + limit);
        self.within(deadline, &number, made).await?.ok_or(CallError::NotBegun)
    }

    /// Makes a call. It ends by `deadline`, waiting included. `None` when the runner has left before the call could begin.
    pub(super) async fn run(&self, call: &Call, deadline: Option<Instant>) -> Result<Option<Answer>, CallError> {
        let number = AtomicU64::new(0);
        let made = std::pin::pin!(self.make(call, &number));
        self.within(deadline, &number, made).await
    }

    async fn within(
        &self,
        deadline: Option<Instant>,
        number: &AtomicU64,
        mut made: Pin<&mut impl Future<Output = Result<Option<Answer>, CallError>>>,
    ) -> Result<Option<Answer>, CallError> {
        let Some(deadline) = deadline else { return made.await };
        match time::timeout_at(deadline, made.as_mut()).await {
            Ok(result) => result,
            // While a suspect was alone, or had no place to be: that is nobody's failure.
            Err(_) if number.load(Ordering::Relaxed) == 0 => Err(CallError::Overloaded),
            Err(_) if self.note_overdue(number.load(Ordering::Relaxed)) => Err(CallError::TimedOut),
            Err(_) => Err(CallError::Late),
        }
    }

    async fn make(&self, call: &Call, given: &AtomicU64) -> Result<Option<Answer>, CallError> {
        let place = match call.suspicions {
            0 => self.floor.shared().await,
            count => self.floor.alone(count > 1).await,
        };
        let served = async {
            let Some((number, pending)) = self.link.begin(call, self.open_max)? else { return Ok(None) };
            given.store(number, Ordering::Relaxed);
            let _open = Open { runner: self, number };
            loop {
                match pending.next().await {
                    Event::Ended(result) => return result.map(Some),
                    Event::Request { request, operation, input } => {
                        let answer = match operation_of(operation) {
                            Some(operation) => {
                                let asked = AssertUnwindSafe(call.sink.request(operation, input)).catch_unwind();
                                asked.await.unwrap_or_else(host_panicked)
                            }
                            None => Answer { status: Status::Unsupported, bytes: Bytes::new() },
                        };
                        self.link.respond(number, request, &answer);
                    }
                }
            }
        };
        place.run(served).await
    }

    /// A call has been given up because of its time. If it runs, it and its runner are ended; if not, it never begins. Whether it had begun.
    fn note_overdue(&self, number: u64) -> bool {
        self.overdue().insert(number, Instant::now());
        if !self.cancel(number) {
            self.overdue().remove(&number); // It has just ended.
            return true;
        }
        // When the call begins before the `Cancel` arrives, the runner says so.
        let is_running = self.crumbs.calls().contains(&number);
        if is_running {
            self.end_for(number);
        }
        is_running || self.crumbs.begun().contains(&number) // It may have ended, and its answer be on its way.
    }

    /// Whether the call was open.
    fn cancel(&self, number: u64) -> bool {
        let is_open = self.link.forget(number);
        if is_open {
            self.link.send(Head::call(Kind::Cancel, 0, number), &[]);
        }
        is_open
    }

    fn end_for(&self, number: u64) {
        if self.overdue().contains_key(&number) {
            self.end_within(self.timeout_grace);
        }
    }

    /// Is ended, and is not to blame on anybody.
    pub(super) fn end_within(&self, grace: Duration) {
        self.leave();
        self.doom.send_if_modified(|doom| {
            let is_new = matches!(doom, Doom::None | Doom::Closed);
            if is_new {
                *doom = Doom::Until(Instant::now() + grace);
            }
            is_new
        });
    }

    /// Its life. Run it in a task of its own; it ends with the process.
    pub(super) async fn live(self: Arc<Self>, body: Body, options: Arc<RunnersOptions>, events: mpsc::UnboundedSender<RunnerEvent>) {
        let Body { mut child, group, socket, input, speech } = body;
        let (read, write) = socket.into_split();
        let write = async {
            self.link.write(write).await;
            std::future::pending::<()>().await;
        };
        let mut read = std::pin::pin!(self.read(read, input, &options));
        let end = tokio::select! {
            end = &mut read => end,
            () = write => End::Closed,
            () = self.doomed() => End::Doomed,
            // What it has written is still read. Processes that the plugin has started may hold the socket open for ever.
            _ = child.wait() => time::timeout(EXIT_GRACE, &mut read).await.unwrap_or(End::Closed),
        };
        self.leave();
        let (status, was_killed) = end_process(&mut child, &end).await;
        if end == End::Doomed {
            let _ = time::timeout(EXIT_GRACE, &mut read).await;
        }
        if end != End::Garbage {
            self.link.receive_kept(&self.crumbs.kept());
        }
        let open = self.link.close();
        let is_expected = match *self.doom.borrow() {
            Doom::None => false,
            Doom::Closed => status.as_ref().is_ok_and(ExitStatus::success),
            Doom::Until(_) | Doom::Now => end == End::Doomed,
        };
        let verdict = if is_expected { Verdict::default() } else { judge(&self.crumbs, &open) };
        let reason = match (&status, &end) {
            (_, End::Garbage) => "it wrote garbage to its socket".to_owned(),
            // One that was dying already, and only took its time, says how itself.
            (_, End::Closed) if was_killed && status.as_ref().map_or(true, is_sigkill) => "it closed its socket".to_owned(),
            (Ok(status), _) => end_name(*status),
            (Err(error), _) => error.to_string(),
        };
        if !is_expected {
            let _ = time::timeout(EXIT_GRACE, speech.ended()).await;
            let subject = verdict.culprit.and_then(|number| open.get(&number)).map(|call| Subject::of(call.operation, &call.input));
            tell(&options, self.id, &reason, subject.as_ref(), open.len(), &speech);
            let is_killed = !was_killed && status.as_ref().is_ok_and(is_sigkill);
            let is_doubtful = subject.is_none() && (is_killed || !verdict.suspects.is_empty());
            let _ = events.send(RunnerEvent::Crashed { subject, is_doubtful, reason: reason.clone() });
        } else if !open.is_empty() {
            tracing::warn!(plugin = %options.plugin, version = %options.version, runner = self.id, calls = open.len(), "runner ended before its calls did");
        }
        for (number, pending) in open {
            let error = if verdict.culprit == Some(number) {
                CallError::Crashed(reason.clone())
            } else {
                CallError::Interrupted { is_suspect: verdict.suspects.contains(&number) }
            };
            pending.push(Event::Ended(Err(error)));
        }
        group.end().await;
        self.ended.cancel();
    }

    async fn read(&self, mut socket: OwnedReadHalf, mut input: BytesMut, options: &RunnersOptions) -> End {
        loop {
            loop {
                match take(&mut input) {
                    Ok(Some(Frame { kind: Kind::Log, payload, .. })) => drop(crate::plugin::log::log(&options.plugin, &payload)),
                    Ok(Some(Frame { kind: Kind::Running, number, .. })) => self.end_for(number),
                    Ok(Some(Frame { kind: Kind::Cancelled, number, .. })) => drop(self.overdue().remove(&number)),
                    Ok(Some(frame)) => self.link.receive(frame),
                    Ok(None) => break,
                    Err(_) => return End::Garbage,
                }
            }
            input.reserve(READ_BYTES);
            if !matches!(socket.read_buf(&mut input).await, Ok(count) if count > 0) {
                return End::Closed;
            }
        }
    }

    /// Resolves when it is to be killed.
    async fn doomed(&self) {
        let mut doom = self.doom.subscribe();
        loop {
            let now = *doom.borrow_and_update();
            match now {
                Doom::Now => return,
                Doom::Until(deadline) if Instant::now() >= deadline || self.link.open() == 0 => return,
                Doom::Until(_) => time::sleep(DOOM_POLL).await,
                Doom::None | Doom::Closed => {
                    if doom.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            }
        }
    }
}

//! The child: a process that holds one loaded library and runs its calls on threads of its own, for a host at the other end of a socket.

mod faults;
mod out;

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use bytes::{Bytes, BytesMut};
use plugsocket_plugin::call::{CreateRequest, HostOperation, Operation, Status};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Resource, Rlimit, getppid, setrlimit};
use serde::{Deserialize, Serialize};

use self::out::Out;
use super::Answer;
use super::crumbs::Crumbs;
use super::desk::Desk;
use super::error::PluginError;
use super::frames::{Frame, Head, Kind, PROTOCOL, take};
use super::library::{Host, Instance, Library};
use super::pool::{CALL_IS_OVER, OUTSIDE_OF_CALLS};
use super::registry::judge;
use super::turns;
use crate::config::Isolation;

/// First argument of a binary that is started as a runner. Behind it the plugin's name, for those who list processes, and the host's process id.
pub(super) const RUNNER_ARGUMENT: &str = "__run-plugin";
/// `Kind::Refused`: the plugin's own constructor failed.
pub(super) const REFUSED_CONSTRUCTOR: u8 = 1;

const READ_BYTES: usize = 64 * 1024;
/// Of a thread that runs calls.
const STACK_BYTES: usize = 2 * 1024 * 1024;
/// Longest request of a plugin; the queue takes less.
const REQUEST_BYTES_MAX: usize = 16 * 1024 * 1024;
const EXIT_USAGE: u8 = 2;

/// What a runner is to load.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) protocol: u32,
    pub(super) library: PathBuf,
    pub(super) request: CreateRequest,
    pub(super) threads: usize,
    /// Bytes of memory; 0 = no limit.
    pub(super) memory_max: u64,
}

/// Everything that the threads share.
struct Runner {
    desk: Desk<Work>,
    door: Arc<Door>,
    crumbs: &'static Crumbs,
}

struct Work {
    number: u64,
    operation: Operation,
    input: Bytes,
}

/// The life of a runner. Call it before the process has threads or state.
pub(super) fn run_child(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let host = arguments.nth(1).and_then(|id| id.to_str()?.parse::<i32>().ok());
    let Some(socket) = host.and_then(|host| take_socket(host).ok()) else {
        eprintln!("plugsocket: this hidden argument is for the host itself");
        return ExitCode::from(EXIT_USAGE);
    };
    let mut input = BytesMut::with_capacity(READ_BYTES);
    // Until the process ends: all threads use it.
    let socket: &'static UnixStream = Box::leak(Box::new(socket));
    // Otherwise the host is gone, or is no host.
    let Ok((hello, memory)) = greet(socket, &mut input) else { return ExitCode::FAILURE };
    let door = Arc::new(Door { out: Out::new(socket), next: AtomicU64::new(1), waiters: Mutex::default() });
    match load(&hello, &memory, &door) {
        Ok((instance, crumbs, manifest)) => {
            drop(memory);
            door.out.send(Head::of(Kind::Ready), manifest.as_bytes());
            serve(socket, input, instance, Runner { desk: Desk::new(), door, crumbs }, hello.threads)
        }
        Err(error) => {
            let (code, text) = match error {
                PluginError::Constructor(text) => (REFUSED_CONSTRUCTOR, text),
                other => (0, other.to_string()),
            };
            door.out.send(Head { code, ..Head::of(Kind::Refused) }, text.as_bytes());
            faults::end(1)
        }
    }
}

/// The socket comes as standard input, so that nothing needs to be inherited but the three streams. It gets a number of its own, which
/// what the plugin starts does not inherit, and standard input becomes empty.
fn take_socket(host: i32) -> io::Result<UnixStream> {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // It may have died before it could be followed.
    if getppid().is_none_or(|parent| parent.as_raw_nonzero().get() != host) {
        return Err(io::ErrorKind::NotConnected.into());
    }
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?)?;
    faults::close_others(&socket)?;
    Ok(UnixStream::from(socket))
}

/// Reads the hello, and the descriptor of the crumbs beside its first byte.
fn greet(socket: &UnixStream, input: &mut BytesMut) -> io::Result<(Hello, OwnedFd)> {
    let mut chunk = vec![0; READ_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let count = recvmsg(socket, &mut [IoSliceMut::new(&mut chunk)], &mut beside, RecvFlags::CMSG_CLOEXEC)?.bytes;
    let memory = beside.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let memory = memory.ok_or(io::ErrorKind::InvalidData)?;
    input.extend_from_slice(chunk.get(..count).unwrap_or_default());
    loop {
        if let Some(frame) = take(input).map_err(io::Error::other)? {
            let hello: Hello = serde_json::from_slice(&frame.payload)?;
            return Ok((hello, memory));
        }
        let count = (&*socket).read(&mut chunk)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        input.extend_from_slice(chunk.get(..count).unwrap_or_default());
    }
}

fn load(hello: &Hello, memory: &OwnedFd, door: &Arc<Door>) -> Result<(Instance, &'static Crumbs, String), PluginError> {
    if hello.protocol != PROTOCOL {
        let text = "the executable has been replaced by another release: restart this process";
        return Err(PluginError::Check(text.to_owned()));
    }
    if hello.memory_max > 0 {
        // Private memory that can be written, whatever it is for. macOS knows the limit and does not enforce it.
        // The limit counts the stacks of threads whole, used or not: they come on top.
        let bytes = hello.memory_max.saturating_add(hello.threads.saturating_mul(STACK_BYTES) as u64);
        let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
        setrlimit(Resource::Data, limit).map_err(|error| PluginError::Check(format!("its memory can't be limited: {error}")))?;
    }
    let crumbs = Crumbs::open(memory, hello.threads).map_err(PluginError::files("map", "the memory shared with the host"))?;
    let crumbs: &'static Crumbs = Box::leak(Box::new(crumbs));
    faults::install(crumbs);
    let library = Library::load(&hello.library)?;
    let manifest = library.describe()?;
    judge(&manifest, &[hello.request.role], Isolation::Process)?;
    let manifest = serde_json::to_string(&manifest).map_err(|error| PluginError::Manifest(error.to_string()))?;
    turns::take_turns(); // Threads that the constructor starts are as any others.
    let instance = library.create(&hello.request, Arc::clone(door) as _)?;
    Ok((instance, crumbs, manifest))
}

/// Reads what the host writes until the host is gone or wants the end.
fn serve(mut socket: &UnixStream, mut input: BytesMut, instance: Instance, runner: Runner, threads: usize) -> ! {
    let (runner, instance) = (Arc::new(runner), Arc::new(instance));
    for number in 1..=threads.max(1) {
        let (runner, instance) = (Arc::clone(&runner), Arc::clone(&instance));
        let work_off = move || {
            faults::name_thread(number as u64);
            runner.desk.serve(|work| runner.crumbs.note(number, work.number), |work| runner.run(&instance, number, &work));
            // Exactly one thread, the last, gets the instance itself.
            if let Some(instance) = Arc::into_inner(instance) {
                instance.shutdown();
                runner.door.out.finish();
                faults::end(0);
            }
        };
        if let Err(error) = thread::Builder::new().name(format!("call {number}")).stack_size(STACK_BYTES).spawn(work_off) {
            eprintln!("plugsocket: no thread for calls: {error}");
            faults::end(1);
        }
    }
    drop(instance);
    let mut chunk = vec![0; READ_BYTES];
    loop {
        loop {
            match take(&mut input) {
                Ok(Some(frame)) => runner.obey(frame),
                Ok(None) => break,
                // Nothing that follows can be understood.
                Err(_) => faults::end(1),
            }
        }
        match socket.read(&mut chunk) {
            Ok(0) | Err(_) => faults::end(0), // The host is gone, and a runner ends with its host.
            Ok(count) => input.extend_from_slice(chunk.get(..count).unwrap_or_default()),
        }
    }
}

impl Runner {
    fn obey(&self, frame: Frame) {
        match frame.kind {
            Kind::Call => {
                let Ok(operation) = Operation::try_from(u32::from(frame.code)) else { return };
                // The host bounds what it sends.
                let _ = self.desk.offer(Work { number: frame.number, operation, input: frame.payload }, usize::MAX, |_| true);
            }
            Kind::Cancel => {
                self.desk.withdraw(|work| work.number == frame.number);
                let is_running = self.crumbs.calls().contains(&frame.number);
                let kind = if is_running { Kind::Running } else { Kind::Cancelled };
                self.door.out.send(Head::call(kind, 0, frame.number), &[]);
                self.door.give_up(frame.number);
            }
            Kind::Response => {
                let Ok(status) = Status::try_from(frame.code) else { return };
                self.door.respond(frame.request, Answer { status, bytes: frame.payload });
            }
            Kind::Close => self.desk.close(),
            _ => {}
        }
    }

    fn run(&self, instance: &Instance, thread: usize, work: &Work) {
        let answer = instance.call(work.number, work.operation, &work.input);
        self.door.out.send(Head::call(Kind::Answer, answer.status as u8, work.number), &answer.bytes);
        // It was noted as it left the desk. Not sooner: a call that has closed the socket is found out by the answer that can't be written.
        self.crumbs.note(thread, 0);
    }
}

/// The host, as the plugin's threads reach it.
struct Door {
    out: Out,
    next: AtomicU64,
    waiters: Mutex<HashMap<u64, Arc<Waiter>>>,
}

/// A thread that waits for a response.
struct Waiter {
    call: u64,
    answer: Mutex<Option<Answer>>,
    wake: Condvar,
}

impl Door {
    /// Nobody answers the requests of a call any more.
    fn give_up(&self, call: u64) {
        let waiters: Vec<_> = self.waiters().extract_if(|_, waiter| waiter.call == call).collect();
        for (_, waiter) in waiters {
            waiter.respond(Answer::retry(CALL_IS_OVER));
        }
    }

    fn waiters(&self) -> MutexGuard<'_, HashMap<u64, Arc<Waiter>>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn respond(&self, request: u64, answer: Answer) {
        let waiter = self.waiters().remove(&request);
        if let Some(waiter) = waiter {
            waiter.respond(answer);
        }
    }
}

impl Waiter {
    fn respond(&self, answer: Answer) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        self.wake.notify_one();
    }
}

impl Host for Door {
    fn invoke(&self, token: u64, operation: u32, input: Bytes) -> Answer {
        let Ok(operation) = HostOperation::try_from(operation) else {
            return Answer { status: Status::Unsupported, bytes: Bytes::new() };
        };
        if input.len() > REQUEST_BYTES_MAX {
            return Answer::retry(format!("a request has {REQUEST_BYTES_MAX} bytes at most, this one has {}", input.len()));
        }
        if operation == HostOperation::Log {
            self.out.send(Head::of(Kind::Log), &input);
            return Answer { status: Status::Done, bytes: Bytes::new() };
        }
        if token == 0 {
            return Answer::retry(OUTSIDE_OF_CALLS);
        }
        let request = self.next.fetch_add(1, Ordering::Relaxed);
        let waiter = Arc::new(Waiter { call: token, answer: Mutex::default(), wake: Condvar::new() });
        self.waiters().insert(request, Arc::clone(&waiter));
        self.out.send(Head { kind: Kind::Request, code: operation as u8, number: token, request }, &input);
        let mut answer = waiter.answer.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(answer) = answer.take() {
                return answer;
            }
            // Never for ever: without its host the process ends.
            answer = waiter.wake.wait(answer).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

//! The child: a process that holds one loaded library and runs its calls on threads of its own, for a host at the other end of a socket.

mod crew;
mod door;
mod faults;
mod out;
mod waiting;

use std::ffi::OsString;
use std::io::{self, IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use bytes::BytesMut;
use plugsocket_plugin::call::CreateRequest;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Resource, Rlimit, getppid, setrlimit};
use serde::{Deserialize, Serialize};

use self::crew::{Left, Runner};
use self::out::Out;
use super::crumbs::Crumbs;
use super::error::PluginError;
use super::frames::{Head, Kind, PROTOCOL, take};
use super::library::{Instance, Library};
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
    let out: &'static Out = Box::leak(Box::new(Out::new(socket)));
    let runner = |crumbs| {
        out.keep_at(crumbs);
        Arc::new(Runner::new(socket, input, out, crumbs, hello.threads))
    };
    match load(&hello, &memory, runner) {
        Ok((instance, runner, manifest)) => {
            drop(memory);
            out.send(Head::of(Kind::Ready), manifest.as_bytes());
            serve(instance, &runner, hello.threads)
        }
        Err(error) => {
            let (code, text) = match error {
                PluginError::Constructor(text) => (REFUSED_CONSTRUCTOR, text),
                other => (0, other.to_string()),
            };
            out.send(Head { code, ..Head::of(Kind::Refused) }, text.as_bytes());
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

fn load(
    hello: &Hello,
    memory: &OwnedFd,
    runner: impl FnOnce(&'static Crumbs) -> Arc<Runner>,
) -> Result<(Instance, Arc<Runner>, String), PluginError> {
    if hello.protocol != PROTOCOL {
        let text = "the executable has been replaced by another release: restart this process";
        return Err(PluginError::Check(text.to_owned()));
    }
    if hello.memory_max > 0 {
        // Private memory that can be written, whatever it is for. macOS knows the limit and does not enforce it.
        // The limit counts the stacks of threads whole, used or not: they come on top.
        let bytes = hello.memory_max.saturating_add(crew_of(hello.threads).saturating_mul(STACK_BYTES) as u64);
        let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
        setrlimit(Resource::Data, limit).map_err(|error| PluginError::Check(format!("its memory can't be limited: {error}")))?;
    }
    let crumbs = Crumbs::open(memory, crew_of(hello.threads)).map_err(PluginError::files("map", "the memory shared with the host"))?;
    let crumbs: &'static Crumbs = Box::leak(Box::new(crumbs));
    faults::install(crumbs);
    let library = Library::load(&hello.library)?;
    let manifest = library.describe()?;
    judge(&manifest, &[hello.request.role], Isolation::Process)?;
    let manifest = serde_json::to_string(&manifest).map_err(|error| PluginError::Manifest(error.to_string()))?;
    turns::take_turns(); // Threads that the constructor starts are as any others.
    let runner = runner(crumbs);
    let instance = library.create(&hello.request, Arc::clone(&runner) as _)?;
    Ok((instance, runner, manifest))
}

/// Starts the threads: they read what the host writes and run its calls until the host is gone or wants the end.
fn serve(instance: Instance, runner: &Arc<Runner>, threads: usize) -> ! {
    let instance = Arc::new(instance);
    if runner.has_alarm() {
        start_thread("alarm", {
            let runner = Arc::clone(runner);
            move || runner.watch()
        });
    }
    for number in 1..crew_of(threads) {
        let (runner, instance) = (Arc::clone(runner), Arc::clone(&instance));
        start_thread(&format!("call {number}"), move || live(number, instance, &runner));
    }
    live(crew_of(threads), instance, runner);
    loop {
        thread::park(); // The last to end ends the process, and it is another one.
    }
}

fn live(number: usize, instance: Arc<Instance>, runner: &Runner) {
    faults::name_thread(number as u64);
    let left = runner.serve(number, instance.as_ref());
    // Exactly one thread, the last, gets the instance itself.
    if let Some(instance) = Arc::into_inner(instance) {
        instance.shutdown();
        runner.out.finish();
        faults::end(0);
    }
    if left == Left::Reading {
        runner.read_on();
    }
}

fn start_thread(name: &str, life: impl FnOnce() + Send + 'static) {
    if let Err(error) = thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(life) {
        eprintln!("plugsocket: no thread for calls: {error}");
        faults::end(1);
    }
}

/// How many threads there are where so many may be in calls: one more, to read.
pub(super) fn crew_of(threads: usize) -> usize {
    threads.max(1).saturating_add(1)
}

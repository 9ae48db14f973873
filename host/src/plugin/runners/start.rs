//! From nothing to a runner that serves: the process, the hello, and its answer.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::sync::{Arc, OnceLock, PoisonError, mpsc};
use std::time::Duration;

use bytes::BytesMut;
use plugsocket_plugin::call::{CreateRequest, Manifest};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::time;

use super::RunnersOptions;
use super::cgroup::Confined;
use super::speech::{Speech, listen};
use crate::plugin::blame::end_name;
use crate::plugin::check::end_of;
use crate::plugin::crumbs::Crumbs;
use crate::plugin::error::PluginError;
use crate::plugin::frames::{Frame, Head, Kind, PROTOCOL, take};
use crate::plugin::runner::{Hello, REFUSED_CONSTRUCTOR, RUNNER_ARGUMENT, crew_of};
use crate::plugin::turns;

/// How long a runner may take to load the library and run its constructor.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// The last words of a process that has ended are waited for this long.
const LAST_WORDS: Duration = Duration::from_millis(200);
const READ_BYTES: usize = 64 * 1024;

/// A runner that serves, and all that is known of it.
pub(super) struct Started {
    pub(super) child: Child,
    pub(super) group: Confined,
    pub(super) socket: UnixStream,
    /// What was read behind its first frame.
    pub(super) input: BytesMut,
    pub(super) crumbs: Crumbs,
    pub(super) manifest: Manifest,
    pub(super) speech: Arc<Speech>,
}

/// Starts one.
///
/// # Errors
/// As [`super::Runners::start`].
pub(super) async fn start(options: &RunnersOptions) -> Result<Started, PluginError> {
    let files = |doing: &'static str| PluginError::files(doing, &options.library);
    let threads = options.settings.threads.max(1);
    let (crumbs, memory) = Crumbs::create(crew_of(threads)).map_err(files("share memory with the runner of"))?;
    let (ours, theirs) = StdStream::pair().map_err(files("make a socket for"))?;
    let hello = Hello {
        protocol: PROTOCOL,
        library: options.library.clone(),
        request: CreateRequest { role: options.role, config: options.config.clone() },
        threads,
        memory_max: options.settings.memory_max.as_u64(),
    };
    let mut child = spawn(options, theirs).await?;
    let speech = listen(&mut child, options);
    let group = Confined::begin(child.id().unwrap_or_default(), hello.memory_max);
    match greet(&ours, &hello, &memory) {
        // It has ended already, and how is told below.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        greeted => greeted.map_err(files("greet the runner of"))?,
    }
    ours.set_nonblocking(true).map_err(files("use the socket of"))?;
    let mut socket = UnixStream::from_std(ours).map_err(files("use the socket of"))?;
    let mut input = BytesMut::with_capacity(READ_BYTES);
    let first = first_frame(&mut socket, &mut input, options);
    let first = match time::timeout(START_TIMEOUT, first).await {
        Ok(first) => first,
        Err(_) => {
            let _ = child.start_kill();
            return Err(PluginError::Constructor(format!("it did not end within {START_TIMEOUT:?}")));
        }
    };
    match first {
        Some(Frame { kind: Kind::Ready, payload, .. }) => {
            let manifest = serde_json::from_slice(&payload).map_err(|error| PluginError::Manifest(error.to_string()))?;
            Ok(Started { child, group, socket, input, crumbs, manifest, speech })
        }
        Some(Frame { kind: Kind::Refused, code, payload, .. }) => {
            let text = end_of(&String::from_utf8_lossy(&payload));
            Err(if code == REFUSED_CONSTRUCTOR { PluginError::Constructor(text) } else { PluginError::Load(text) })
        }
        _ => {
            let _ = child.start_kill();
            let status = child.wait().await.map_err(files("wait for the runner of"))?;
            let _ = time::timeout(LAST_WORDS, speech.ended()).await;
            let text = format!("it ended its runner at the start: {}; it said: {}", end_name(status), speech.last());
            Err(PluginError::Check(text))
        }
    }
}

/// The hello, with the descriptor of the crumbs beside it; at once, so it must fit into a socket's buffer.
fn greet(socket: &StdStream, hello: &Hello, memory: &OwnedFd) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    Head::of(Kind::Hello).put(&mut bytes, &serde_json::to_vec(hello)?);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    let descriptors = [memory.as_fd()];
    beside.push(SendAncillaryMessage::ScmRights(&descriptors));
    let sent = sendmsg(socket, &[IoSlice::new(&bytes)], &mut beside, SendFlags::DONTWAIT)?;
    if sent < bytes.len() {
        return Err(std::io::Error::other("its config table is too large"));
    }
    Ok(())
}

/// The runner's first word that is not for the log; `None` when it has ended, or talks garbage.
async fn first_frame(socket: &mut UnixStream, input: &mut BytesMut, options: &RunnersOptions) -> Option<Frame> {
    loop {
        match take(input) {
            Ok(Some(Frame { kind: Kind::Log, payload, .. })) => drop(crate::plugin::log::log(&options.plugin, &payload)),
            Ok(Some(frame)) => return Some(frame),
            Ok(None) => {
                if !matches!(socket.read_buf(input).await, Ok(count) if count > 0) {
                    return None;
                }
            }
            Err(_) => return None,
        }
    }
}

async fn spawn(options: &RunnersOptions, socket: StdStream) -> Result<Child, PluginError> {
    let mut command = options.launcher.command(RUNNER_ARGUMENT);
    // Or our allocator would take a gigabyte in advance, which counts as the plugin's.
    command.env("MIMALLOC_ARENA_EAGER_COMMIT", "0");
    command.arg(options.plugin.as_ref()).arg(std::process::id().to_string());
    // The socket as standard input: nothing else has to be inherited, and no descriptor can slip through to another child.
    command.stdin(Stdio::from(OwnedFd::from(socket))).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A terminal's Ctrl-C is for the host, which ends its runners in order.
    command.process_group(0);
    let mut command = Command::from(command);
    command.kill_on_drop(true);
    let (answer, answered) = oneshot::channel();
    let lost = || PluginError::Check("the thread that starts runners has ended".to_owned());
    spawner().ok_or_else(lost)?.send(Order { command, runtime: tokio::runtime::Handle::current(), answer }).map_err(|_| lost())?;
    let child = answered.await.map_err(|_| lost())?;
    child.map_err(PluginError::files("start a runner,", options.launcher.program()))
}

struct Order {
    command: Command,
    runtime: tokio::runtime::Handle,
    answer: oneshot::Sender<std::io::Result<Child>>,
}

/// One thread starts all runners and never ends: on Linux a runner is ended with the thread that has started it.
fn spawner() -> Option<mpsc::Sender<Order>> {
    static SPAWNER: OnceLock<Option<std::sync::Mutex<mpsc::Sender<Order>>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, taken) = mpsc::channel::<Order>();
        let work = move || {
            turns::give_way(); // So do the runners, until they serve.
            for mut order in taken {
                let _inside = order.runtime.enter();
                let _ = order.answer.send(order.command.spawn());
            }
        };
        std::thread::Builder::new().name("spawner".to_owned()).spawn(work).ok()?;
        Some(std::sync::Mutex::new(orders))
    });
    Some(spawner.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner).clone())
}

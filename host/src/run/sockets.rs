//! Sockets that a service manager listens on for us and passes on (`LISTEN_FDS`): with them a restart refuses nobody.

use std::io;
use std::net::TcpListener as StdListener;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, bail};
use listenfd::ListenFd;
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::sockopt::socket_acceptconn;
use tokio::net::TcpListener;

/// The name of the ops listener's socket; the clients' is called `server`, or is the first of the others.
const OPS: &str = "ops";
const SERVER: &str = "server";

static PASSED: Mutex<Vec<Passed>> = Mutex::new(Vec::new());

/// One socket, as it was passed. It stays open under its number for as long as the process lives, so that newcomers wait in it while nobody
/// accepts, and a process that starts anew finds it.
struct Passed {
    name: String,
    socket: io::Result<StdListener>,
    is_used: bool,
}

/// Notes what was passed to this process, and takes it out of the environment. Must come before any thread is started.
pub(super) fn claim() {
    // The variables may have been meant for a process that has started us.
    if std::env::var("LISTEN_PID").ok().and_then(|pid| pid.parse().ok()) != Some(std::process::id()) {
        return;
    }
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut sockets = ListenFd::from_env();
    let passed = (0..sockets.len()).map(|index| {
        let socket = sockets.take_tcp_listener(index).and_then(|socket| socket.ok_or_else(|| io::ErrorKind::NotFound.into()));
        let socket = socket.and_then(|socket| match socket_acceptconn(&socket)? {
            true => Ok(socket),
            false => Err(io::Error::other("it does not listen")),
        });
        Passed { name: names.next().unwrap_or_default().to_owned(), socket, is_used: false }
    });
    *passed_sockets() = passed.collect();
}

fn passed_sockets() -> std::sync::MutexGuard<'static, Vec<Passed>> {
    PASSED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The socket for clients, when one was passed: the one called `server`, or else the first that is not called `ops`.
pub(super) fn server() -> anyhow::Result<Option<TcpListener>> {
    let mut passed = passed_sockets();
    let index = passed.iter().position(|passed| passed.name == SERVER).or_else(|| passed.iter().position(|passed| passed.name != OPS));
    index.map(|index| passed[index].listen()).transpose()
}

/// The socket for the ops listener, when one called `ops` was passed.
pub(super) fn ops() -> anyhow::Result<Option<TcpListener>> {
    passed_sockets().iter_mut().find(|passed| passed.name == OPS).map(Passed::listen).transpose()
}

/// Checks that each has found its use: clients of one that nobody accepts from would wait for ever.
pub(super) fn check_all_used() -> anyhow::Result<()> {
    if let Some(left) = passed_sockets().iter().find(|passed| !passed.is_used) {
        bail!(
            "the service manager passed a socket `{}` that has no use here; a server takes one called `server` and one called `ops`, \
               a worker one called `ops` (FileDescriptorName= in the .socket unit)",
            left.name
        );
    }
    Ok(())
}

/// Passes them on to the process that takes this one's place, under the same process id.
pub(super) fn pass_on(command: &mut Command) -> io::Result<()> {
    let passed = passed_sockets();
    if passed.is_empty() {
        return Ok(());
    }
    for socket in passed.iter().filter_map(|passed| passed.socket.as_ref().ok()) {
        fcntl_setfd(socket, FdFlags::empty())?;
    }
    command.env("LISTEN_PID", std::process::id().to_string()).env("LISTEN_FDS", passed.len().to_string());
    Ok(())
}

impl Passed {
    fn listen(&mut self) -> anyhow::Result<TcpListener> {
        self.is_used = true;
        let name = &self.name;
        let socket = match &self.socket {
            Ok(socket) => socket.try_clone(),
            Err(error) => bail!(
                "the socket `{name}` that the service manager passed can't be used: {error}; it must be one that listens on TCP \
                                 (ListenStream= with a port, Accept=no)"
            ),
        };
        let listen = |socket: StdListener| {
            socket.set_nonblocking(true)?;
            TcpListener::from_std(socket)
        };
        socket.and_then(listen).with_context(|| format!("the socket `{name}` that the service manager passed can't be used"))
    }
}

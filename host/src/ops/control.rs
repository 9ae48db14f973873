//! The control socket: a local door for the operator's tool, open to this process's own user and root.

use std::fs::{self, Permissions};
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::plugin::{ANSWER_TIMEOUT, ControlAnswer, ControlRequest, PATH_ENDING, PluginError, REQUEST_BYTES_MAX, SOCKET_ENDING};
use crate::plugin::{SOCKET_PATH_BYTES_MAX, control_dir, private_folder};

/// Connections at once; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 16;
/// A connection that has not asked anything by then is closed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after a failed accept: most often the process is out of file descriptors, and trying at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long another process may take to accept before it counts as one that lives and is busy.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// Names tried when another process, in a container that shares `state_dir`, has our process id.
const NAMES_MAX: u32 = 16;
const DRAFT_ENDING: &str = "new";
/// A socket that has not got its name by then never will.
const DRAFT_AGE_MAX: Duration = Duration::from_secs(60);

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// Its folder can't be used.
    #[error("{0}")]
    Folder(#[from] PluginError),
    /// The system refuses it.
    #[error("can't {doing} {}: {source}", path.display())]
    Socket {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Every name is taken.
    #[error("{NAMES_MAX} processes of this name and id use {} already", .0.display())]
    Taken(PathBuf),
}

fn refused(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ControlError {
    move |source| ControlError::Socket { doing, path: path.to_owned(), source }
}

/// Does what a request asks.
pub type Operate = Arc<dyn Fn(ControlRequest) -> Pin<Box<dyn Future<Output = Result<Value, String>> + Send>> + Send + Sync>;

/// The socket, bound and not yet served. Its files go with it.
pub struct ControlSocket {
    listener: UnixListener,
    /// The socket, and the file that tells where it is, when there is one.
    files: Vec<PathBuf>,
}

impl ControlSocket {
    /// Binds `<state_dir>/control/<role>-<pid>.sock`, or a short path that `<role>-<pid>.path` names, and removes what processes that have
    /// ended left there.
    ///
    /// # Errors
    /// [`ControlError`]
    pub async fn bind(state_dir: &Path, role: &str) -> Result<Self, ControlError> {
        let short = std::env::temp_dir().join(format!("plugsocket-{}", rustix::process::geteuid().as_raw()));
        Self::bind_in(&control_dir(state_dir), &short, role).await
    }

    async fn bind_in(folder: &Path, short_folder: &Path, role: &str) -> Result<Self, ControlError> {
        private_folder(folder)?;
        remove_leftovers(folder).await.map_err(refused("look into", folder))?;
        let pid = std::process::id();
        for number in 1..=NAMES_MAX {
            let name = if number == 1 { format!("{role}-{pid}") } else { format!("{role}-{pid}.{number}") };
            let (place, note) = (folder.join(format!("{name}.{SOCKET_ENDING}")), folder.join(format!("{name}.{PATH_ENDING}")));
            // Those of the dead have just been removed.
            if place.symlink_metadata().is_err() && note.symlink_metadata().is_err() {
                return if draft_of(&place).as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
                    Ok(Self { listener: listen(&place)?, files: vec![place] })
                } else {
                    Self::bind_short(short_folder, &name, note).await
                };
            }
        }
        Err(ControlError::Taken(folder.to_owned()))
    }

    async fn bind_short(folder: &Path, name: &str, note: PathBuf) -> Result<Self, ControlError> {
        private_folder(folder)?;
        remove_leftovers(folder).await.map_err(refused("look into", folder))?;
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(|error| refused("name a socket in", folder)(error.into()))?;
        // Other state folders, and containers that share this one, have processes of the same name.
        let place = folder.join(format!("{name}.{:08x}.{SOCKET_ENDING}", u32::from_be_bytes(random)));
        let bound = Self { listener: listen(&place)?, files: vec![place.clone(), note.clone()] };
        let draft = draft_of(&note);
        let written = fs::write(&draft, place.as_os_str().as_bytes()).and_then(|()| fs::rename(&draft, &note));
        written.map_err(refused("write", &note))?;
        Ok(bound)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.files[0]
    }

    /// Answers until `end` fires, then removes the socket; requests that are being answered then get up to their own time limit.
    pub async fn serve(self, operate: Operate, tasks: TaskTracker, end: CancellationToken) {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let _ = end.run_until_cancelled(self.accept(&operate, &tasks, &end, &room)).await;
    }

    async fn accept(&self, operate: &Operate, tasks: &TaskTracker, end: &CancellationToken, room: &Arc<Semaphore>) {
        loop {
            // The semaphore is never closed.
            let Ok(permit) = Arc::clone(room).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) if is_ours(&stream) => {
                    let (operate, end) = (Arc::clone(operate), end.clone());
                    tasks.spawn(async move {
                        let _permit = permit;
                        let talk = end.run_until_cancelled(talk(stream, &operate));
                        if let Some(Err(error)) = talk.await {
                            tracing::debug!(%error, "a control connection failed");
                        }
                    });
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "accept failed at the control socket");
                    time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        for file in &self.files {
            let _ = fs::remove_file(file);
        }
    }
}

/// Bound under another name first: who looks for leftovers never finds a socket that does not listen yet, or that others may use.
fn listen(place: &Path) -> Result<UnixListener, ControlError> {
    let draft = draft_of(place);
    let listener = UnixListener::bind(&draft).map_err(refused("bind the control socket", &draft))?;
    let named = fs::set_permissions(&draft, Permissions::from_mode(0o600)).and_then(|()| fs::rename(&draft, place));
    named.map_err(|source| {
        let _ = fs::remove_file(&draft);
        refused("name the control socket", place)(source)
    })?;
    Ok(listener)
}

fn draft_of(place: &Path) -> PathBuf {
    let mut draft = place.as_os_str().to_owned();
    draft.push(".");
    draft.push(DRAFT_ENDING);
    draft.into()
}

/// Removes the sockets that nobody listens to, and the notes of such. Those of hung processes stay.
async fn remove_leftovers(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)?.flatten() {
        let path = entry.path();
        let ending = path.extension().unwrap_or_default().to_owned();
        let is_left = if ending == SOCKET_ENDING {
            is_dead(&path).await
        } else if ending == PATH_ENDING {
            let Some(socket) = crate::plugin::noted_socket(&path) else { continue };
            let is_dead = is_dead(&socket).await;
            if is_dead {
                let _ = fs::remove_file(socket);
            }
            is_dead
        } else if ending == DRAFT_ENDING {
            let made = entry.metadata().and_then(|metadata| metadata.modified());
            made.is_ok_and(|made| made.elapsed().is_ok_and(|age| age > DRAFT_AGE_MAX))
        } else {
            false
        };
        if is_left {
            let _ = fs::remove_file(path);
        }
    }
    Ok(())
}

async fn is_dead(socket: &Path) -> bool {
    match time::timeout(PROBE_TIMEOUT, UnixStream::connect(socket)).await {
        Ok(Err(error)) => matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound),
        _ => false,
    }
}

/// Whether the other side is our own user or root. The socket's mode says the same; not every system heeds that.
fn is_ours(stream: &UnixStream) -> bool {
    match stream.peer_cred() {
        Ok(peer) if is_allowed(peer.uid(), rustix::process::geteuid().as_raw()) => true,
        Ok(peer) => {
            tracing::warn!(uid = peer.uid(), "refused at the control socket: neither this process's user nor root");
            false
        }
        Err(error) => {
            tracing::warn!(%error, "refused at the control socket: its user can't be told");
            false
        }
    }
}

fn is_allowed(peer: u32, own: u32) -> bool {
    peer == own || peer == 0
}

/// One request and its answer.
async fn talk(mut stream: UnixStream, operate: &Operate) -> io::Result<()> {
    let request =
        time::timeout(REQUEST_TIMEOUT, read_request(&mut stream)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let answer = match request {
        Err(reason) => ControlAnswer::Failed(reason),
        Ok(request) => {
            match &request {
                ControlRequest::List => tracing::debug!("asked for the plugins at the control socket"),
                request => tracing::info!(?request, "asked at the control socket"),
            }
            match time::timeout(ANSWER_TIMEOUT, operate(request)).await {
                Ok(Ok(told)) => ControlAnswer::Done(told),
                Ok(Err(reason)) => ControlAnswer::Failed(reason),
                Err(_) => {
                    ControlAnswer::Failed(format!("not finished within {ANSWER_TIMEOUT:?}; it goes on, see `plugsocket plugins list`"))
                }
            }
        }
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    time::timeout(REQUEST_TIMEOUT, async { stream.write_all(&line).await.and(stream.shutdown().await) })
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn read_request(stream: &mut UnixStream) -> io::Result<Result<ControlRequest, String>> {
    let mut line = Vec::new();
    let limit = REQUEST_BYTES_MAX as u64 + 1;
    BufReader::new(stream.take(limit)).read_until(b'\n', &mut line).await?;
    if line.len() > REQUEST_BYTES_MAX {
        return Ok(Err(format!("the request has more than {REQUEST_BYTES_MAX} bytes")));
    }
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into()); // Somebody looked whether we live.
    }
    Ok(serde_json::from_slice(&line).map_err(|error| format!("this is no request that this version knows: {error}")))
}

#[cfg(test)]
mod tests;

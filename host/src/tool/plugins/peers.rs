//! The processes that run with a `state_dir`, and asking them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::time;

use crate::config::{Common, Settings};
use crate::plugin::{ANSWER_TIMEOUT, ControlAnswer, ControlRequest, PATH_ENDING, SOCKET_ENDING, control_dir, noted_socket};

/// A process tells of its plugins at once, or hangs.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);
/// Beyond the time after which a process answers anyway.
const CHANGE_TIMEOUT: Duration = ANSWER_TIMEOUT.saturating_add(Duration::from_secs(5));
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A process that is there.
pub(super) struct Peer {
    /// `worker-4711`
    pub(super) name: String,
    socket: PathBuf,
}

/// What a process said, or why it said nothing.
pub(super) type Said = Result<Value, String>;

/// A plugin as a process tells of it; what another release leaves out or adds does not matter.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Plugin {
    pub(super) name: String,
    pub(super) state: String,
    pub(super) version: Option<String>,
    pub(super) manifest_version: Option<String>,
    pub(super) since_ms: u64,
    pub(super) last_rejection: Option<Rejection>,
    pub(super) waiting: Option<String>,
    pub(super) versions: Vec<Version>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Rejection {
    pub(super) version: String,
    pub(super) reason: String,
    pub(super) at_ms: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Version {
    pub(super) version: String,
    pub(super) sha256: String,
    pub(super) manifest_version: String,
    pub(super) sdk: String,
    pub(super) isolation: String,
    pub(super) state: String,
    pub(super) since_ms: u64,
    pub(super) calls: u64,
    pub(super) errors: u64,
    pub(super) timeouts: u64,
    pub(super) crashes: u64,
    pub(super) in_flight: u64,
    pub(super) last_reason: Option<String>,
}

/// The config's `state_dir`.
pub(super) fn state_dir(common: &Common) -> anyhow::Result<PathBuf> {
    let Settings { state_dir, .. } = common.source(Vec::new()).load()?;
    Ok(state_dir)
}

/// Asks every process that runs, all at once; those that have ended meanwhile are left out.
pub(super) async fn ask_all(state_dir: &Path, request: &ControlRequest) -> anyhow::Result<Vec<(Peer, Said)>> {
    let peers = find(state_dir)?;
    let said = ask_each(peers.into_iter().map(|peer| (peer, request.clone())).collect()).await;
    if said.is_empty() {
        bail!(
            "no process runs with state_dir {}: start plugsocket-server, plugsocket-worker or `plugsocket dev`, or name the config of those that run with --config FILE",
            state_dir.display()
        );
    }
    Ok(said)
}

/// Asks each its own question, all at once.
pub(super) async fn ask_each(questions: Vec<(Peer, ControlRequest)>) -> Vec<(Peer, Said)> {
    let ask = async |(peer, request): (Peer, ControlRequest)| {
        let limit = if request == ControlRequest::List { LIST_TIMEOUT } else { CHANGE_TIMEOUT };
        let said = match time::timeout(limit, ask(&peer.socket, &request)).await {
            Ok(Ok(ControlAnswer::Done(told))) => Ok(told),
            Ok(Ok(ControlAnswer::Failed(reason))) => Err(reason),
            Ok(Err(error)) if is_gone(&error) => return None,
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {limit:?}: it hangs, or is stopped")),
        };
        Some((peer, said))
    };
    join_all(questions.into_iter().map(ask)).await.into_iter().flatten().collect()
}

/// What a process tells of its plugins.
pub(super) fn plugins(told: &Value) -> Result<Vec<Plugin>, String> {
    Vec::deserialize(told).map_err(|error| format!("its answer can't be read, it may be of another release: {error}"))
}

fn find(state_dir: &Path) -> anyhow::Result<Vec<Peer>> {
    let folder = control_dir(state_dir);
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(error)
                .with_context(|| format!("can't look into {}: run this as the user of the processes, or as root", folder.display()));
        }
    };
    let mut peers: Vec<Peer> = entries.flatten().filter_map(|entry| peer(&entry.path())).collect();
    peers.sort_by(|one, two| one.name.cmp(&two.name));
    Ok(peers)
}

fn peer(path: &Path) -> Option<Peer> {
    let ending = path.extension()?;
    let socket = if ending == SOCKET_ENDING {
        path.to_owned()
    } else if ending == PATH_ENDING {
        noted_socket(path)?
    } else {
        return None;
    };
    Some(Peer { name: path.file_stem()?.to_str()?.to_owned(), socket })
}

/// Nobody listens, or it ended before it answered a connection.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}

async fn ask(socket: &Path, request: &ControlRequest) -> io::Result<ControlAnswer> {
    let mut stream = UnixStream::connect(socket).await?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answer = Vec::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_until(b'\n', &mut answer).await?;
    if answer.is_empty() {
        return Err(io::Error::other("it closed the connection without an answer: it is ending, or runs as another user"));
    }
    Ok(serde_json::from_slice(&answer)?)
}

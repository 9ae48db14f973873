//! What an operator's tool and a running process say to each other about plugins, and where they meet: one line of JSON each way.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest request, in bytes.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// A process answers within this time, if only that it goes on.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest path of a socket that every system takes, in bytes.
pub const SOCKET_PATH_BYTES_MAX: usize = 103;
/// Ending of a socket's name.
pub const SOCKET_ENDING: &str = "sock";
/// Ending of the file that says where the socket is, when its path beside that file would be too long.
pub const PATH_ENDING: &str = "path";

/// Where the processes of one `state_dir` are found.
#[must_use]
pub fn control_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("control")
}

/// What a process is asked to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum ControlRequest {
    /// Tell of its plugins: an array of [`PluginStatus`](super::PluginStatus).
    List,
    /// Look at every file again, those too that wait for it, or were refused for what may have been mended outside of them.
    Reload,
    /// Put the version before the present one back into service.
    Rollback {
        /// The plugin's name.
        plugin: String,
    },
    /// Try a refused version once more.
    Retry {
        /// Its sha256.
        sha256: String,
    },
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlAnswer {
    /// Done, with what there is to tell.
    Done(Value),
    /// Not done, and why.
    Failed(String),
}

/// The socket that a `.path` file names; `None` when it says nothing sensible.
#[must_use]
pub fn noted_socket(note: &Path) -> Option<PathBuf> {
    let text = std::fs::metadata(note).ok().filter(|metadata| metadata.len() <= SOCKET_PATH_BYTES_MAX as u64);
    let text = text.and_then(|_| std::fs::read_to_string(note).ok())?;
    Some(PathBuf::from(text)).filter(|path| path.is_absolute())
}

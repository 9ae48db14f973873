//! Who is to blame when a process with plugin code in it ends: words for its end, and the message its call was for.

use std::process::ExitStatus;

use plugsocket_plugin::call::{MessageCall, Operation, Role};
use serde::Deserialize;

/// What a call was about, for the log and for those who follow a message from version to version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subject {
    pub(super) operation: Operation,
    /// Empty for calls that belong to no message, as are the others.
    pub(super) action: String,
    pub(super) connection_id: String,
    pub(super) message_id: String,
}

impl Subject {
    /// Read from a call's input. Not for the way of every message: it parses.
    pub(super) fn of(operation: Operation, input: &[u8]) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Connection {
            connection_id: Option<serde_json::Value>,
        }
        let (mut action, mut connection_id, mut message_id) = (String::new(), String::new(), String::new());
        match operation {
            Operation::Action | Operation::Fallback => {
                if let Ok(call) = serde_json::from_slice::<MessageCall<'_>>(input) {
                    (action, connection_id, message_id) = (call.action.into_owned(), call.connection_id.into_owned(), call.meta.message_id);
                }
            }
            Operation::Connect | Operation::Disconnect => {
                let call: Connection = serde_json::from_slice(input).unwrap_or_default();
                connection_id =
                    call.connection_id.map(|id| id.as_str().map_or_else(|| id.to_string(), ToOwned::to_owned)).unwrap_or_default();
            }
            Operation::Loop => {}
        }
        Self { operation, action, connection_id, message_id }
    }
}

/// What happens to an instance beside the ends of its calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RunnerEvent {
    /// A runner ended and nobody had asked it to: what it was doing if that is known, and how it ended. `is_doubtful` when that may not be
    /// the version's own doing: somebody outside killed it, or one of several calls did, which come again one by one.
    Crashed { subject: Option<Subject>, is_doubtful: bool, reason: String },
    /// No runner in this role comes up any more; it is tried again, ever more seldom.
    Parked { role: Role, reason: String },
    /// One has come up after all.
    Recovered { role: Role },
}

/// `SIGSEGV`, `exit code 3`.
#[cfg(unix)]
pub(super) fn end_name(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    let bus = if cfg!(target_os = "linux") { 7 } else { 10 };
    match (status.signal(), status.code()) {
        (Some(4), _) => "SIGILL".to_owned(),
        (Some(5), _) => "SIGTRAP".to_owned(),
        (Some(6), _) => "SIGABRT (it aborted)".to_owned(),
        (Some(8), _) => "SIGFPE".to_owned(),
        (Some(9), _) => "SIGKILL (out of memory, or killed from outside?)".to_owned(),
        (Some(11), _) => "SIGSEGV".to_owned(),
        (Some(number), _) if number == bus => "SIGBUS (is the file cut off, or its disk full?)".to_owned(),
        (Some(number), _) => format!("signal {number}"),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => "an unknown end".to_owned(),
    }
}

/// What the system calls it.
#[cfg(not(unix))]
pub(super) fn end_name(status: ExitStatus) -> String {
    status.to_string()
}

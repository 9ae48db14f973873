//! From a file to a live version, and every call into it. The only room with `unsafe`.

mod alarm;
mod blame;
mod chain;
mod check;
mod control;
mod crumbs;
mod desk;
mod error;
mod floor;
mod frames;
mod inspect;
mod launcher;
mod library;
mod lock;
mod log;
mod pace;
mod pool;
mod registry;
mod runner;
mod runners;
mod store;
#[cfg(test)]
pub(crate) mod testing;
mod trust;
mod turns;
mod watcher;

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

pub use self::chain::{Chain, Chained};
pub use self::check::Checker;
pub use self::control::{
    ANSWER_TIMEOUT, ControlAnswer, ControlRequest, PATH_ENDING, REQUEST_BYTES_MAX, SOCKET_ENDING, SOCKET_PATH_BYTES_MAX, control_dir,
    noted_socket,
};
pub use self::error::PluginError;
pub use self::floor::{Floor, Interruptions, Place};
pub use self::inspect::{Inspection, inspect};
pub use self::launcher::Launcher;
pub use self::lock::{Lock, sha256_of};
pub use self::pool::{InProcess, PoolOptions};
pub use self::registry::{
    PluginState, PluginStatus, Registry, RegistryError, RegistryOptions, RejectionStatus, Roles, VersionState, VersionStatus, judge,
    library_path,
};
pub use self::store::{Guard, Staged, StagedStore};
pub use self::trust::{Trust, private_folder};
pub use self::watcher::{Change, Watcher};

use async_trait::async_trait;
use bytes::Bytes;
use plugsocket_plugin::call::{HostOperation, Operation, Status};

/// Whether a process's first argument is one of the hidden purposes.
#[must_use]
pub fn is_hidden(argument: &OsStr) -> bool {
    [check::CHECK_ARGUMENT, runner::RUNNER_ARGUMENT].into_iter().any(|hidden| argument == hidden)
}

/// Runs a hidden purpose of this executable; `None` when `argument` names none. Call it before the process has threads or state.
#[must_use]
pub fn run_hidden(argument: &OsStr, arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    if argument == check::CHECK_ARGUMENT {
        return Some(check::run_child(arguments));
    }
    (argument == runner::RUNNER_ARGUMENT).then(|| runner::run_child(arguments))
}

/// How a call ended: [`Status`] and the bytes beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// How it ended.
    pub status: Status,
    /// The answer, or what went wrong, as [`Status`] says.
    pub bytes: Bytes,
}

impl Answer {
    /// A failure that another attempt may mend.
    #[must_use]
    pub fn retry(text: impl Into<Bytes>) -> Self {
        Self { status: Status::Retry, bytes: text.into() }
    }
}

/// Why a call did not come to an answer.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// Not ended within its time. Where [`Callee::ends_calls`], it is being ended; elsewhere it goes on in its thread.
    #[error("call timed out")]
    TimedOut,
    /// No thread was free for it within its time: it was not begun and never will be.
    #[error("no thread of the plugin was free in time")]
    Late,
    /// The call before it in its [`Chain`] did not go well, or was not quick: it was not begun and never will be. Make it again by itself.
    #[error("not begun after the call before it")]
    NotBegun,
    /// Too many calls are waiting for this plugin's threads.
    #[error("plugin has too many calls waiting")]
    Overloaded,
    /// The instance is gone.
    #[error("plugin instance is gone: {0}")]
    Gone(String),
    /// This call ended its runner: one of its attempts. With the signal or exit code.
    #[error("the call ended its runner: {0}")]
    Crashed(String),
    /// Its runner ended during the call, and another call is to blame: it did not count, make it again.
    #[error("its runner ended during the call")]
    Interrupted {
        /// It can't be told who is to blame, and it may be this call: make it again as a [suspect](Call::suspicions).
        is_suspect: bool,
    },
    /// It was not begun, as no runner is there that could take it: make it again later.
    #[error("no runner takes the call: {0}")]
    Unavailable(String),
}

/// One call to make.
pub struct Call {
    /// What is to be done.
    pub operation: Operation,
    /// Its input, as the operation says.
    pub input: Bytes,
    /// Asked for everything the plugin wants of the host meanwhile, in order.
    pub sink: Arc<dyn HostSink>,
    /// Time for all of it, waiting included; `None` = as long as it takes.
    pub timeout: Option<Duration>,
    /// How often it may have been the one that ended its runner. Then it runs alone there: at first, or from the second time on to its end.
    pub suspicions: u32,
    /// Its place among calls that run one after the other.
    pub chained: Option<Chained>,
}

impl Call {
    /// Without a time limit, beside others.
    pub fn new(operation: Operation, input: impl Into<Bytes>, sink: Arc<dyn HostSink>) -> Self {
        Self { operation, input: input.into(), sink, timeout: None, suspicions: 0, chained: None }
    }

    /// With a time limit.
    #[must_use]
    pub fn within(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

/// One instance of a plugin version, wherever its code runs.
#[async_trait]
pub trait Callee: Send + Sync {
    /// Runs one call on the plugin's own threads.
    ///
    /// Dropping the future gives up on the answer, and on the call if it has not begun; the plugin's code runs on.
    ///
    /// # Errors
    /// [`CallError`]
    async fn call(&self, call: Call) -> Result<Answer, CallError>;

    /// Whether a call that is past its time is ended, and a crash is no more than [`CallError::Crashed`]. Only there calls may be chained.
    fn ends_calls(&self) -> bool;
}

/// What a version's end needs of an instance, wherever it runs.
#[async_trait]
pub(super) trait Retirable: Callee {
    /// Takes no calls any more; those waiting and running are finished, then the instance is shut down.
    fn close(&self);

    /// Ends it at once: calls that run are interrupted. In this process that can't be done, and their threads are left behind.
    fn kill(&self);

    /// Resolves when it has ended, after [`Self::close`] or [`Self::kill`]. Cancel-safe.
    async fn ended(&self);

    /// Calls running at this moment.
    fn running(&self) -> usize;
}

/// What a plugin asks of the host during one call.
#[async_trait]
pub trait HostSink: Send + Sync {
    /// Answers one request. Requests of one call come one after another, or from threads the plugin started, all during the call.
    async fn request(&self, operation: HostOperation, input: Bytes) -> Answer;
}

/// One version that takes calls now.
pub struct LiveVersion {
    /// The plugin's name: file name without `lib` and ending; namespace of its store.
    pub plugin: Arc<str>,
    /// sha256 of its file and config table, in hex.
    pub version: Arc<str>,
    /// The instance.
    pub callee: Arc<dyn Callee>,
}

/// Who serves what at this moment. Hold a version only for one call: the next call asks again, and that is how a reload takes effect.
pub trait Plugins: Send + Sync {
    /// The live version that serves an action; `None` when no plugin does at present.
    fn action(&self, action: &str) -> Option<Arc<LiveVersion>>;

    /// The live version of the server's handler.
    fn handler(&self) -> Option<Arc<LiveVersion>>;
}

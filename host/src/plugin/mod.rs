//! From a file to a live version, and every call into it. The only room with `unsafe`.

mod check;
mod error;
mod inspect;
mod library;
mod pool;
mod registry;

mod store;
#[cfg(test)]
pub(crate) mod testing;
mod watcher;

use std::sync::Arc;

pub use self::check::{CHECK_ARGUMENT, Checker, run_child};
pub use self::error::PluginError;
pub use self::inspect::{Inspection, inspect};
pub use self::pool::{InProcess, PoolOptions};
pub use self::registry::{PluginState, PluginStatus, Registry, RegistryOptions, RejectionStatus, Roles, judge, library_path};
pub use self::store::{Staged, StagedStore};
pub use self::watcher::{Change, Watcher};

use async_trait::async_trait;
use bytes::Bytes;
use plugsocket_plugin::call::{HostOperation, Operation, Status};

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
    /// Not ended within its time; it may still be running.
    #[error("call timed out")]
    TimedOut,
    /// Too many calls are waiting for this plugin's threads.
    #[error("plugin has too many calls waiting")]
    Overloaded,
    /// The instance is gone.
    #[error("plugin instance is gone: {0}")]
    Gone(String),
}

/// One instance of a plugin version, wherever its code runs. In this process today; a runner process takes the same place.
#[async_trait]
pub trait Callee: Send + Sync {
    /// Runs one operation on the plugin's own threads. `sink` is asked for everything the plugin wants of the host meanwhile, in order.
    ///
    /// Dropping the future gives up on the answer; the plugin's code runs on.
    ///
    /// # Errors
    /// [`CallError`]
    async fn call(&self, operation: Operation, input: Bytes, sink: Arc<dyn HostSink>) -> Result<Answer, CallError>;
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

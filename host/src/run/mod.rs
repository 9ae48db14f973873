//! Putting the rooms together: server, worker, and both in one process.

mod descriptors;
pub mod dev;
mod dev_tls;
mod process;
pub mod server;
mod service;
mod sockets;
pub mod worker;

use std::process::ExitCode;
use std::time::Duration;

use crate::config::ConfigError;
use crate::ops::logs::{self, LevelError};
use crate::plugin;
use crate::queue::QueueError;
use crate::tool::reach::UsageError;

/// Exit code when the config or a flag is wrong, as clap has it.
const EXIT_USAGE: u8 = 2;
/// How long the runtime may take to end after everything has been drained; a plugin's thread that hangs must not hold the process.
const RUNTIME_END: Duration = Duration::from_secs(1);

/// Runs the process's hidden purposes (a plugin checked in a child, or run in one); `None` when it was started for something else.
#[must_use]
pub fn hidden() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    plugin::run_hidden(&arguments.next()?, arguments)
}

/// Runs `work` on a runtime of so many threads and turns its end into an exit code; errors go to standard error. Call it before any thread is
/// started.
///
/// With one thread, tasks wake each other without the system's help: that is most of what a message costs otherwise.
pub fn block_on(threads: usize, work: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    sockets::claim();
    let mut runtime = match threads {
        0 | 1 => tokio::runtime::Builder::new_current_thread(),
        threads => {
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            runtime.worker_threads(threads);
            runtime
        }
    };
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit_code(Err(error.into())),
    };
    let code = exit_code(runtime.block_on(work));
    runtime.shutdown_timeout(RUNTIME_END);
    code
}

/// 0, 1, or 2 for a config that is wrong.
pub fn exit_code(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    if logs::is_json() {
        tracing::error!("{error:#}");
    } else {
        eprintln!("plugsocket: {error:#}");
    }
    let is_invalid_queue = matches!(error.downcast_ref(), Some(QueueError::Invalid(_)));
    if is_invalid_queue || error.is::<ConfigError>() || error.is::<LevelError>() || error.is::<UsageError>() {
        ExitCode::from(EXIT_USAGE)
    } else {
        ExitCode::FAILURE
    }
}

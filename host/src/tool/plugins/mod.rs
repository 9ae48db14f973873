//! `plugsocket plugins`: the plugins of the processes that run, and what an operator does about them; one file per kind of subcommand.

mod change;
mod list;
mod lock;
mod peers;

use std::io;

use clap::{Args, Subcommand};

/// Flags of `plugins`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  plugsocket plugins list                     # every version in every process, and why one was refused
  plugsocket plugins reload                   # look at the files now: what waits, and what was refused for outside reasons
  plugsocket plugins rollback chat            # back to the version before
  plugsocket plugins retry 3f9a0c21b7de       # a refused build once more
  plugsocket plugins lock                     # allow what is in the plugins folder, and nothing else

All but `lock` speak to every process of the config's state_dir on this machine: run them as its user, or as root.

Exit codes: 0 done, 1 failed in at least one process or none runs, 2 the config or a flag is wrong.")]
pub struct PluginsArgs {
    #[command(subcommand)]
    command: PluginsCommand,
}

#[derive(Debug, Subcommand)]
enum PluginsCommand {
    /// Shows every version in every process.
    List(list::ListArgs),
    /// Has every process look at its files now.
    Reload(change::ReloadArgs),
    /// Puts the version before the present one back into service.
    Rollback(change::RollbackArgs),
    /// Tries a refused build once more.
    Retry(change::RetryArgs),
    /// Writes plugins.lock, the list of builds that may be loaded.
    Lock(lock::LockArgs),
}

/// Runs one of them.
///
/// # Errors
/// A bad config or flag; no process there; a process that refuses or does not answer; a library that would be refused.
pub async fn run(args: PluginsArgs) -> anyhow::Result<()> {
    let result = match args.command {
        PluginsCommand::List(args) => list::run(args).await,
        PluginsCommand::Reload(args) => change::reload(args).await,
        PluginsCommand::Rollback(args) => change::rollback(args).await,
        PluginsCommand::Retry(args) => change::retry(args).await,
        PluginsCommand::Lock(args) => lock::run(args).await,
    };
    match result {
        // Whoever read our output, such as `head`, has seen enough.
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) => Ok(()),
        result => result,
    }
}

//! What every subcommand needs that reaches Redis: settings that name one, and errors that tell usage from failure.

use crate::config::{Common, Settings};

/// The command was used wrongly: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// Reads the config. `instead` says what to do under the memory queue, which lives inside another process.
///
/// # Errors
/// A config that is wrong, or that names no Redis.
pub fn settings(common: &Common, instead: impl FnOnce(&Settings) -> String) -> anyhow::Result<Settings> {
    let settings = common.source(Vec::new()).load()?;
    if settings.queue == "memory" {
        let instead = instead(&settings);
        return Err(UsageError(format!("the memory queue lives inside `plugsocket dev`: {instead}")).into());
    }
    Ok(settings)
}

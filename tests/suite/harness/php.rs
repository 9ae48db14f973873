//! PHP with its Redis extension, as applications use them.

use std::process::Command;

use super::plugin;
use super::process::Process;
use super::redis::Redis;

/// Starts a script of the suite, named by its path in `tests/suite`. Its first argument is Redis's port, these follow.
///
/// # Panics
/// When PHP is not installed.
pub fn start(script: &str, redis: &Redis, args: &[&str]) -> Process {
    let mut command = Command::new("php");
    command.arg(plugin::workspace().join("tests/suite").join(script)).arg(redis.port().to_string()).args(args);
    Process::spawn("php", command)
}

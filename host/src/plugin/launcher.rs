//! Starting ourselves again for a hidden purpose: the throw-away child, and runners.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::PluginError;

/// What variables begin with that are the host's alone: our own settings, which may hold secrets, and what a service manager has arranged with
/// this process.
const OWN_VARIABLES: [&str; 4] = ["PLUGSOCKET_", "LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_"];

/// How to start this executable again. It must call [`crate::run::hidden`] before anything else.
#[derive(Debug, Clone)]
pub struct Launcher {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl Launcher {
    /// The running executable itself.
    ///
    /// # Errors
    /// [`PluginError::Files`] when the system does not say which executable this is.
    pub fn own_executable() -> Result<Self, PluginError> {
        // On Linux the link stays right when the file is replaced by an upgrade.
        let link = Path::new("/proc/self/exe");
        if cfg!(target_os = "linux") && link.exists() {
            return Ok(Self::program_at(link.to_owned()));
        }
        std::env::current_exe().map(Self::program_at).map_err(PluginError::files("find the executable", "itself"))
    }

    /// Another executable that behaves like ours.
    #[must_use]
    pub fn program_at(program: PathBuf) -> Self {
        Self { program, arguments: Vec::new() }
    }

    /// Arguments before the hidden one.
    #[must_use]
    pub fn with_arguments(mut self, arguments: impl IntoIterator<Item = OsString>) -> Self {
        self.arguments = arguments.into_iter().collect();
        self
    }

    /// The executable.
    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    /// A command with the hidden argument, and an environment without the host's own settings.
    pub(super) fn command(&self, hidden: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).arg(hidden);
        // Missing functions of a library are found when it is loaded, not at the first call.
        command.env("LD_BIND_NOW", "1");
        let is_own = |name: &str| OWN_VARIABLES.iter().any(|own| name.starts_with(own));
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_own(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        command
    }
}

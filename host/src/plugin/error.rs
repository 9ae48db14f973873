//! Why a file did not become a live version: text an operator can act on.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a file did not become a live version. The version that was live before stays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PluginError {
    /// No file of the plugin's name.
    #[error("there is no file for it: looked for {}", looked_for.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "))]
    Missing {
        /// The paths that would do.
        looked_for: Vec<PathBuf>,
    },
    /// A name that can't be a file name or a namespace.
    #[error("`{0}` can't be a plugin's name: use 1 to 64 of the characters A-Z a-z 0-9 _ -")]
    Name(String),
    /// The file or the folder of copies can't be used.
    #[error("can't {doing} {}: {source}", path.display())]
    Files {
        /// What was tried.
        doing: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Others could change it.
    #[error("{0}")]
    Untrusted(String),
    /// `plugins.lock` does not list it, or can't be read.
    #[error("{0}")]
    Lock(String),
    /// Somebody keeps writing to the file.
    #[error("the file kept changing for {0:?}: build elsewhere, then rename it into the plugins folder")]
    Restless(Duration),
    /// Not a library this host could load; nothing of it was executed.
    #[error("{0}")]
    NotLoadable(String),
    /// The system's loader, or the check of the interface, refused it.
    #[error("{0}")]
    Load(String),
    /// It does not say of itself what it should.
    #[error("manifest: {0}")]
    Manifest(String),
    /// The plugin's own constructor failed; that may have reasons outside of the file.
    #[error("its constructor failed: {0}")]
    Constructor(String),
    /// It ended or hung the throw-away process that tried it.
    #[error("{0}")]
    Check(String),
    /// Loading more would end the process.
    #[error("{0} libraries were loaded into this process and none can be unloaded: it drains and starts anew, then this one is tried")]
    TooManyVersions(u64),
}

impl PluginError {
    /// Whether the same file may succeed later.
    #[must_use]
    pub fn is_worth_retrying(&self) -> bool {
        matches!(self, Self::Constructor(_) | Self::Files { .. } | Self::Restless(_) | Self::Untrusted(_) | Self::Lock(_))
    }

    pub(super) fn files(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Files { doing, path, source }
    }
}

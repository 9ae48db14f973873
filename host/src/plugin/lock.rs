//! `plugins.lock`: the builds that may be loaded, by the sha256 of their files. A checksum tells builds apart; it contains nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::error::PluginError;
use super::store::{CHUNK_BYTES, hex};
use super::trust::{Trust, write_whole};

const LOCK_BYTES_MAX: u64 = 1024 * 1024;
const HEAD: &str = "# The builds that may be loaded: plugin -> sha256 of its file, as `sha256sum` shows it.\n\
                    # Written by `plugsocket plugins lock`. Without this file every build in the plugins folder is loaded.\n\n";

/// The content of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    #[serde(default)]
    plugins: BTreeMap<String, BTreeSet<String>>,
}

impl Lock {
    /// Reads it; `None` when there is no such file.
    ///
    /// # Errors
    /// [`PluginError::Lock`] when it is there and can't be understood, [`PluginError::Untrusted`] when others could change it.
    pub fn read(path: &Path, trust: Trust) -> Result<Option<Self>, PluginError> {
        // A link into nowhere is there all the same.
        if let Err(error) = path.symlink_metadata()
            && error.kind() == io::ErrorKind::NotFound
        {
            return Ok(None);
        }
        let unreadable = |reason: String| PluginError::Lock(format!("{} can't be read, so nothing is loaded: {reason}", path.display()));
        let file = match trust.open(path) {
            Ok(file) => file,
            Err(error @ PluginError::Untrusted(_)) => return Err(error),
            Err(error) => return Err(unreadable(error.to_string())),
        };
        let mut text = String::new();
        file.take(LOCK_BYTES_MAX + 1).read_to_string(&mut text).map_err(|error| unreadable(error.to_string()))?;
        if text.len() as u64 > LOCK_BYTES_MAX {
            return Err(unreadable(format!("it has more than {LOCK_BYTES_MAX} bytes")));
        }
        let lock: Self = toml::from_str(&text).map_err(|error| unreadable(error.to_string()))?;
        match lock.plugins.values().flatten().find(|sha256| !is_sha256(sha256)) {
            Some(wrong) => Err(unreadable(format!("`{wrong}` is no sha256: 64 of the characters 0-9 a-f"))),
            None => Ok(Some(lock)),
        }
    }

    /// Refuses what the file at `path` does not list, and everything when it can't be read; without a file everything passes.
    ///
    /// # Errors
    /// [`PluginError::Lock`], [`PluginError::Untrusted`]
    pub fn check(path: &Path, trust: Trust, plugin: &str, sha256: &str) -> Result<(), PluginError> {
        match Self::read(path, trust)? {
            Some(lock) if !lock.allows(plugin, sha256) => Err(PluginError::Lock(format!(
                "{} does not list this build of `{plugin}` (sha256 {sha256}); allow what is in the plugins folder with: plugsocket plugins lock --add",
                path.display()
            ))),
            _ => Ok(()),
        }
    }

    /// Whether a build is listed.
    #[must_use]
    pub fn allows(&self, plugin: &str, sha256: &str) -> bool {
        self.plugins.get(plugin).is_some_and(|listed| listed.contains(sha256))
    }

    /// Lists a build.
    pub fn allow(&mut self, plugin: &str, sha256: &str) {
        self.plugins.entry(plugin.to_owned()).or_default().insert(sha256.to_owned());
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// [`PluginError::Lock`], [`PluginError::Files`]
    pub fn write(&self, path: &Path) -> Result<(), PluginError> {
        let text = toml::to_string(self).map_err(|error| PluginError::Lock(format!("the list has no TOML form: {error}")))?;
        write_whole(path, &format!("{HEAD}{text}")).map_err(PluginError::files("write", path))
    }
}

/// sha256 of a file as it is now, in hex.
///
/// # Errors
/// [`PluginError::Files`]
pub fn sha256_of(path: &Path) -> Result<String, PluginError> {
    let mut file = std::fs::File::open(path).map_err(PluginError::files("open", path))?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = file.read(&mut chunk).map_err(PluginError::files("read", path))?;
        let Some(part) = chunk.get(..count).filter(|part| !part.is_empty()) else { return Ok(hex(hash)) };
        hash.update(part);
    }
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests;

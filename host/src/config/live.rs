//! Edits of the config file while processes run: applied as a whole or refused as a whole.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::sleep;

use super::load::{ConfigError, Override, load, load_text};
use super::settings::Settings;

/// A file that reads the same after this long is at rest.
const REST: Duration = Duration::from_millis(if cfg!(test) { 500 } else { 50 });
/// Looks at a file that does not come to rest before it is taken as it is.
const REST_LOOKS_MAX: usize = 20;

/// The settings in force; `load` them anew for every use, so that live edits take effect.
pub type LiveSettings = Arc<ArcSwap<Settings>>;

/// Where the settings come from, to read them again.
#[derive(Debug, Clone)]
pub struct Source {
    path: PathBuf,
    overrides: Vec<Override>,
}

impl Source {
    /// The file and what overrides it, the last one winning.
    #[must_use]
    pub fn new(path: PathBuf, overrides: Vec<Override>) -> Self {
        Self { path, overrides }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the settings.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn load(&self) -> Result<Settings, ConfigError> {
        load(&self.path, &self.overrides)
    }

    /// Puts what of `text`, the file's new content, applies live into `settings`. Answers the keys that changed and need a restart.
    ///
    /// # Errors
    /// [`ConfigError`]: nothing has been applied.
    fn apply(&self, text: &str, settings: &LiveSettings) -> Result<Vec<&'static str>, ConfigError> {
        let new = load_text(&self.path, text, &self.overrides)?;
        let old = settings.load_full();
        let needs_restart = restart_keys(&old, &new);
        settings.store(Arc::new(Settings {
            actions: new.actions,
            plugins: new.plugins,
            reload: new.reload,
            probation: new.probation,
            limits: new.limits,
            log_level: new.log_level,
            server: old.server.with_live(&new.server),
            ..(*old).clone()
        }));
        Ok(needs_restart)
    }
}

/// Follows the edits of the file.
#[derive(Debug)]
pub struct Follower {
    source: Source,
    seen: Result<String, ErrorKind>,
}

impl Follower {
    /// Reads the settings to start with. What changes from here on is found, whenever the first look is.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn start(source: Source) -> Result<(Settings, Self), ConfigError> {
        let text = std::fs::read_to_string(&source.path);
        let text = text.map_err(|error| ConfigError::Read { path: source.path.display().to_string(), source: error })?;
        let settings = load_text(&source.path, &text, &source.overrides)?;
        Ok((settings, Self { source, seen: Ok(text) }))
    }

    /// Looks at the file; when it has changed since the last look, waits until it is at rest (editors write in place, in pieces), and
    /// puts what applies live into `settings`. Answers the keys that changed and need a restart; `None` when there is nothing new.
    ///
    /// Cancel-safe: dropping the future applies nothing.
    ///
    /// # Errors
    /// [`ConfigError`], once for each change: nothing has been applied.
    pub async fn look(&mut self, settings: &LiveSettings) -> Result<Option<Vec<&'static str>>, ConfigError> {
        let mut text = self.read().await;
        if self.has_seen(&text) {
            return Ok(None);
        }
        for _ in 0..REST_LOOKS_MAX {
            let before = std::mem::replace(&mut text, {
                sleep(REST).await;
                self.read().await
            });
            let is_at_rest = match (&before, &text) {
                (Ok(before), Ok(now)) => before == now,
                (Err(before), Err(now)) => before.kind() == now.kind(),
                _ => false,
            };
            if is_at_rest {
                break;
            }
        }
        if self.has_seen(&text) {
            return Ok(None);
        }
        let path = || self.source.path.display().to_string();
        match text {
            Err(source) => {
                let path = path();
                self.seen = Err(source.kind());
                Err(ConfigError::Read { path, source })
            }
            Ok(text) => {
                let applied =
                    if text.trim().is_empty() { Err(ConfigError::Empty { path: path() }) } else { self.source.apply(&text, settings) };
                self.seen = Ok(text);
                applied.map(Some)
            }
        }
    }

    async fn read(&self) -> std::io::Result<String> {
        tokio::fs::read_to_string(&self.source.path).await
    }

    fn has_seen(&self, text: &std::io::Result<String>) -> bool {
        match (&self.seen, text) {
            (Ok(seen), Ok(text)) => seen == text,
            (Err(seen), Err(error)) => *seen == error.kind(),
            _ => false,
        }
    }
}

fn restart_keys(old: &Settings, new: &Settings) -> Vec<&'static str> {
    let changed = [
        ("app", old.app != new.app),
        ("queue", old.queue != new.queue),
        ("plugins_dir", old.plugins_dir != new.plugins_dir),
        ("state_dir", old.state_dir != new.state_dir),
        ("plugins_lock", old.plugins_lock != new.plugins_lock),
        ("retired_max", old.retired_max != new.retired_max),
        ("threads", old.threads != new.threads),
        ("server", old.server.with_live(&new.server) != new.server),
        ("worker", old.worker != new.worker),
        ("ops", old.ops != new.ops),
        ("queue_options", old.queue_options != new.queue_options),
        ("php", old.php != new.php),
    ];
    changed.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(dir: &Path, text: &str) -> (PathBuf, Follower, LiveSettings) {
        let path = dir.join("p.toml");
        std::fs::write(&path, text).unwrap();
        let source = Source::new(path.clone(), Vec::new());
        let (settings, follower) = Follower::start(source).unwrap();
        (path, follower, Arc::new(ArcSwap::from_pointee(settings)))
    }

    #[tokio::test]
    async fn live_keys_apply_and_the_rest_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (path, mut follower, settings) = follow(dir.path(), "");
        assert_eq!(follower.look(&settings).await.unwrap(), None);

        std::fs::write(&path, "[worker]\nslots = 3\n[actions]\na = \"chat\"").unwrap();
        assert_eq!(follower.look(&settings).await.unwrap(), Some(vec!["worker"]));
        assert!(settings.load().actions.contains_key("a"));
        assert_eq!(settings.load().worker.slots, Settings::default().worker.slots);

        std::fs::write(&path, "[actions]\na = \"chat\"\nb = 7").unwrap();
        follower.look(&settings).await.unwrap_err();
        assert_eq!(settings.load().actions.len(), 1, "refused as a whole");
        assert_eq!(follower.look(&settings).await.unwrap(), None, "told once");
    }

    #[tokio::test]
    async fn a_file_that_is_being_written_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let (path, mut follower, settings) = follow(dir.path(), "[actions]\na = \"chat\"\nb = \"chat\"");
        let seen = Arc::clone(&settings);
        std::fs::write(&path, "").unwrap();
        let write = async {
            for text in ["[actions]\n", "[actions]\na = \"chat\"\n", "[actions]\na = \"chat\"\nb = \"chat\"\nc = \"chat\""] {
                sleep(REST / 20).await;
                std::fs::write(&path, text).unwrap();
                assert_eq!(seen.load().actions.len(), 2, "nothing half written is applied");
            }
        };
        let (looked, ()) = tokio::join!(follower.look(&settings), write);
        looked.unwrap();
        assert_eq!(settings.load().actions.len(), 3);
    }

    #[tokio::test]
    async fn a_file_that_is_emptied_or_removed_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (path, mut follower, settings) = follow(dir.path(), "[actions]\na = \"chat\"");
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(follower.look(&settings).await, Err(ConfigError::Empty { .. })));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(follower.look(&settings).await, Err(ConfigError::Read { .. })));
        assert_eq!(follower.look(&settings).await.unwrap(), None);
        assert_eq!(settings.load().actions.len(), 1);
    }
}

//! Edits of the config file while processes run: applied as a whole or refused as a whole.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::load::{ConfigError, Override, load};
use super::settings::Settings;

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

    /// Reads the settings again and puts what applies live into `settings`. Answers the keys that changed and need a restart.
    ///
    /// # Errors
    /// [`ConfigError`]: nothing has been applied.
    pub fn reload(&self, settings: &LiveSettings) -> Result<Vec<&'static str>, ConfigError> {
        let new = self.load()?;
        let old = settings.load_full();
        let needs_restart = restart_keys(&old, &new);
        settings.store(Arc::new(Settings {
            actions: new.actions,
            plugins: new.plugins,
            limits: new.limits,
            log_level: new.log_level,
            ..(*old).clone()
        }));
        Ok(needs_restart)
    }
}

fn restart_keys(old: &Settings, new: &Settings) -> Vec<&'static str> {
    let changed = [
        ("app", old.app != new.app),
        ("queue", old.queue != new.queue),
        ("plugins_dir", old.plugins_dir != new.plugins_dir),
        ("state_dir", old.state_dir != new.state_dir),
        ("server", old.server != new.server),
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

    #[test]
    fn live_keys_apply_and_the_rest_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.toml");
        std::fs::write(&path, "").unwrap();
        let source = Source::new(path.clone(), Vec::new());
        let settings: LiveSettings = Arc::new(ArcSwap::from_pointee(source.load().unwrap()));

        std::fs::write(&path, "[worker]\nslots = 3\n[actions]\na = \"chat\"").unwrap();
        assert_eq!(source.reload(&settings).unwrap(), ["worker"]);
        assert!(settings.load().actions.contains_key("a"));
        assert_eq!(settings.load().worker.slots, Settings::default().worker.slots);

        std::fs::write(&path, "[actions]\na = \"chat\"\nb = 7").unwrap();
        source.reload(&settings).unwrap_err();
        assert_eq!(settings.load().actions.len(), 1, "refused as a whole");
    }
}

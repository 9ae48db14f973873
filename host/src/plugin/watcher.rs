//! Tells when something changes in the plugins folder or at the config file. Only reports; it loads nothing.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use super::error::PluginError;

/// Quiet time before a change is told.
const QUIET: Duration = Duration::from_millis(40);
/// A change is told after this long even when there is no quiet.
const QUIET_TIMEOUT: Duration = Duration::from_millis(100);
/// Changes that wait for their reader; the watcher itself waits beyond that.
const CHANGES_WAITING: usize = 4;

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A library came, went, or was written in the plugins folder.
    PluginsChanged,
    /// The config file was written or replaced.
    ConfigChanged,
}

/// Watches until dropped.
pub struct Watcher {
    signals: Arc<Signals>,
    _watcher: RecommendedWatcher,
}

#[derive(Default)]
struct Signals {
    state: Mutex<Pending>,
    wake: Condvar,
}

#[derive(Default)]
struct Pending {
    plugins: bool,
    config: bool,
    last: Option<Instant>,
    is_over: bool,
}

impl Watcher {
    /// Watches a plugins folder, and the folder of a config file when there is one. Folders, not files: a rename replaces a file.
    /// Several events within 40 ms (at most 100 ms) are told once.
    ///
    /// # Errors
    /// [`PluginError::Files`] when a folder is not there or the system refuses to watch it.
    pub fn start(plugins_dir: &Path, config_file: Option<&Path>) -> Result<(Self, mpsc::Receiver<Change>), PluginError> {
        let signals = Arc::new(Signals::default());
        let sorter = Sorter::new(plugins_dir, config_file)?;
        let folders = sorter.folders();
        let told = Arc::clone(&signals);
        let on_event = move |event: notify::Result<Event>| match event {
            Ok(event) => told.note(sorter.sort(&event)),
            Err(error) => {
                tracing::warn!(%error, "watching files failed; looking at all of them");
                told.note((true, true));
            }
        };
        let refused = |error: notify::Error| PluginError::Files {
            doing: "watch",
            path: plugins_dir.to_owned(),
            source: std::io::Error::other(error),
        };
        let mut watcher = notify::recommended_watcher(on_event).map_err(refused)?;
        for folder in folders {
            watcher.watch(&folder, RecursiveMode::NonRecursive).map_err(refused)?;
        }
        let (sender, receiver) = mpsc::channel(CHANGES_WAITING);
        let teller = Arc::clone(&signals);
        let run = move || teller.tell(&sender);
        thread::Builder::new().name("watcher".to_owned()).spawn(run).map_err(PluginError::files("start a thread to watch", plugins_dir))?;
        Ok((Self { signals, _watcher: watcher }, receiver))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.signals.lock().is_over = true;
        self.signals.wake.notify_all();
    }
}

impl Signals {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, (plugins, config): (bool, bool)) {
        if plugins || config {
            let mut pending = self.lock();
            pending.plugins |= plugins;
            pending.config |= config;
            pending.last = Some(Instant::now());
            drop(pending);
            self.wake.notify_all();
        }
    }

    /// The telling thread's life: waits for a change, then for quiet.
    fn tell(&self, sender: &mpsc::Sender<Change>) {
        while let Some((plugins, config)) = self.next() {
            // The config first: it may say what the new file is for.
            for change in [config.then_some(Change::ConfigChanged), plugins.then_some(Change::PluginsChanged)].into_iter().flatten() {
                if sender.blocking_send(change).is_err() {
                    return;
                }
            }
        }
    }

    fn next(&self) -> Option<(bool, bool)> {
        let mut pending = self.lock();
        let mut first: Option<Instant> = None;
        loop {
            if pending.is_over {
                return None;
            }
            let Some(last) = pending.last else {
                pending = self.wake.wait(pending).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let until = (last + QUIET).min(*first.get_or_insert(last) + QUIET_TIMEOUT);
            let wait = until.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                let found = (pending.plugins, pending.config);
                *pending = Pending::default();
                return Some(found);
            }
            (pending, _) = self.wake.wait_timeout(pending, wait).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Which events matter. Reading a file is an event too: our own reads must not wake us.
struct Sorter {
    plugins_dir: PathBuf,
    config_dir: Option<PathBuf>,
    config_name: OsString,
}

impl Sorter {
    fn new(plugins_dir: &Path, config_file: Option<&Path>) -> Result<Self, PluginError> {
        let real = |folder: &Path| folder.canonicalize().map_err(PluginError::files("watch the folder", folder));
        let parent = config_file.map(|file| match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        });
        Ok(Self {
            plugins_dir: real(plugins_dir)?,
            config_dir: parent.map(real).transpose()?,
            config_name: config_file.and_then(Path::file_name).unwrap_or_default().to_owned(),
        })
    }

    fn folders(&self) -> Vec<PathBuf> {
        let other = self.config_dir.iter().filter(|folder| **folder != self.plugins_dir);
        std::iter::once(&self.plugins_dir).chain(other).cloned().collect()
    }

    /// Whether an event is about (plugins, config).
    fn sort(&self, event: &Event) -> (bool, bool) {
        if event.need_rescan() {
            return (true, true);
        }
        if matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write)) {
            return (false, false);
        }
        let is_library = |path: &Path| matches!(path.extension().and_then(OsStr::to_str), Some("so" | "dylib"));
        // A mounted config map is a link into a folder that is swapped as a whole.
        let is_config = |path: &Path| path.file_name().is_some_and(|name| name == self.config_name || name == "..data");
        let within = |path: &Path, folder: &Path| path.parent() == Some(folder);
        let plugins = event.paths.iter().any(|path| within(path, &self.plugins_dir) && is_library(path));
        let config = self.config_dir.as_deref().is_some_and(|dir| event.paths.iter().any(|path| within(path, dir) && is_config(path)));
        (plugins, config)
    }
}

#[cfg(test)]
mod tests;

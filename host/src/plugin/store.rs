//! Private copies of plugin files. The watched file itself is never loaded: whoever overwrites it would kill the process.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use sha2::{Digest as _, Sha256};

use super::error::PluginError;
use super::lock::Lock;
use super::trust::{Trust, private_folder};

/// How long a file must be unchanged before it is copied.
const REST: Duration = Duration::from_millis(50);
/// How long a file may keep changing before it is given up until its next event.
const REST_TIMEOUT: Duration = Duration::from_secs(10);
pub(super) const CHUNK_BYTES: usize = 64 * 1024;
/// Where a chunk takes long (a file system that stalls, hashing in a debug build), the pauses must not stretch the copying.
const CHUNK_PAUSE_MAX: Duration = Duration::from_micros(300);
/// Younger copies are not removed, whoever made them.
const LEFTOVER_AGE_MIN: Duration = Duration::from_secs(60);
/// Copies of processes whose end can't be seen (no `/proc`) are kept this long.
const UNKNOWN_OWNER_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Numbers of copies and drafts. They begin anywhere: a process that starts anew has the id of the one before it, and in containers that
/// share the folder every process has the same.
static COPIES: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(u64::from(random())));
/// Copies under our process id that are older are an earlier process's: ids come again, in containers at every start.
static FIRST_OPENED: LazyLock<SystemTime> = LazyLock::new(SystemTime::now);

/// The folder of private copies, `<state_dir>/plugins`.
#[derive(Debug, Clone)]
pub struct StagedStore {
    folder: PathBuf,
    guard: Guard,
}

/// Which files are copied at all.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    /// What is done about files that others could change.
    pub trust: Trust,
    /// When this file exists, only what it lists is copied.
    pub plugins_lock: Option<PathBuf>,
}

/// One private copy. Each has a path of its own: the loader answers a path it has seen with the old library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staged {
    /// The copy.
    pub path: PathBuf,
    /// sha256 over the file's bytes and the config table, in hex.
    pub version: String,
    /// sha256 over the file's bytes alone, in hex: what `sha256sum` prints.
    pub sha256: String,
    /// What the file looked like, to see later whether it changed.
    pub(super) fingerprint: Fingerprint,
}

/// Changes whenever a file does, as far as that can be seen without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Fingerprint {
    /// Of the file at `path`; `None` when there is none.
    pub(super) fn of(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|metadata| Self::from(&metadata))
    }
}

impl From<&fs::Metadata> for Fingerprint {
    fn from(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl StagedStore {
    /// Opens the folder, makes it if need be (mode 0700), and removes copies of processes that have ended.
    ///
    /// # Errors
    /// [`PluginError::Files`]; [`PluginError::Untrusted`] when the folder is somebody else's.
    pub fn open(state_dir: &Path) -> Result<Self, PluginError> {
        LazyLock::force(&FIRST_OPENED);
        let folder = state_dir.join("plugins");
        private_folder(&folder)?;
        let store = Self { folder, guard: Guard::default() };
        store.remove_leftovers()?;
        Ok(store)
    }

    /// Under this guard, instead of one that refuses what others could change and has no list.
    #[must_use]
    pub fn guarded(mut self, guard: Guard) -> Self {
        self.guard = guard;
        self
    }

    /// Copies a file that is at rest, from one descriptor that was checked, hashing what it copies. Blocks; waits up to 10 s for the file
    /// to rest.
    ///
    /// # Errors
    /// [`PluginError::Untrusted`] when others could change the file, [`PluginError::Lock`] when it is not listed,
    /// [`PluginError::Restless`] when the file keeps changing, [`PluginError::NotLoadable`] when it is no file,
    /// [`PluginError::Files`] when the system refuses.
    pub fn stage(&self, name: &str, source: &Path, config: &[u8]) -> Result<Staged, PluginError> {
        let started = Instant::now();
        loop {
            if let Some(staged) = self.try_stage(name, source, config)? {
                return self.check_listed(name, staged);
            }
            if started.elapsed() > REST_TIMEOUT {
                return Err(PluginError::Restless(REST_TIMEOUT));
            }
        }
    }

    /// Where the copies are; other state of plugins lies beside them.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Removes a copy that will not be loaded, or whose version has ended.
    pub fn remove(&self, staged: &Staged) {
        if let Err(error) = fs::remove_file(&staged.path) {
            tracing::debug!(path = %staged.path.display(), %error, "copy not removed");
        }
    }

    fn check_listed(&self, name: &str, staged: Staged) -> Result<Staged, PluginError> {
        let checked = self.guard.plugins_lock.as_deref().map_or(Ok(()), |lock| Lock::check(lock, self.guard.trust, name, &staged.sha256));
        if checked.is_err() {
            self.remove(&staged);
        }
        checked.map(|()| staged)
    }

    /// `None` when the file changed meanwhile.
    fn try_stage(&self, name: &str, source: &Path, config: &[u8]) -> Result<Option<Staged>, PluginError> {
        let mut file = self.guard.trust.open(source)?;
        let look = |file: &File| file.metadata().map_err(PluginError::files("read", source));
        let before = look(&file)?;
        let fingerprint = Fingerprint::from(&before);
        let age = before.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok());
        if age.is_none_or(|age| age < REST) {
            std::thread::sleep(REST);
            if Fingerprint::from(&look(&file)?) != fingerprint {
                return Ok(None);
            }
        }
        let number = next_number();
        let owner = std::process::id();
        let draft = Draft::create(self.folder.join(format!("{name}.{owner}.{number}.draft")))?;
        let (version, sha256) = draft.fill(&mut file, source, config)?;
        if Fingerprint::from(&look(&file)?) != fingerprint || Fingerprint::of(source) != Some(fingerprint) {
            std::thread::sleep(REST);
            return Ok(None);
        }
        let path = self.folder.join(format!("{name}-{version}.{owner}.{number}.so"));
        draft.keep(&path)?;
        Ok(Some(Staged { path, version, sha256, fingerprint }))
    }

    fn remove_leftovers(&self) -> Result<(), PluginError> {
        let entries = fs::read_dir(&self.folder).map_err(PluginError::files("list", &self.folder))?;
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(owner) = name.to_str().and_then(owner_of) else { continue };
            let made = entry.metadata().and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            if is_leftover(owner, made) {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }
}

/// Of a file that no other process of this id uses.
pub(super) fn next_number() -> u64 {
    COPIES.fetch_add(1, Ordering::Relaxed)
}

fn random() -> u32 {
    let mut bytes = [0; 4];
    let _ = getrandom::fill(&mut bytes); // Else it begins at 0.
    u32::from_be_bytes(bytes)
}

/// The process id in a copy's name: `<name>-<sha256>.<pid>.<n>.so` or `<name>.<pid>.<n>.draft`.
fn owner_of(name: &str) -> Option<u32> {
    let mut parts = name.rsplit('.');
    let ending = parts.next()?;
    let _number: u64 = parts.next()?.parse().ok()?;
    let owner = parts.next()?.parse().ok()?;
    matches!(ending, "so" | "draft").then_some(owner)
}

fn is_leftover(owner: u32, made: SystemTime) -> bool {
    // Containers that share the folder do not see each other's processes: a copy that is being loaded over there is a young one.
    if SystemTime::now().duration_since(made).is_ok_and(|age| age < LEFTOVER_AGE_MIN) {
        return false;
    }
    if owner == std::process::id() {
        return made < *FIRST_OPENED;
    }
    if cfg!(target_os = "linux") {
        return !Path::new("/proc").join(owner.to_string()).exists();
    }
    SystemTime::now().duration_since(made).is_ok_and(|age| age > UNKNOWN_OWNER_AGE_MAX)
}

pub(super) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A copy in the making; removed unless it is kept.
struct Draft {
    path: PathBuf,
    file: File,
    is_kept: bool,
}

impl Draft {
    fn create(path: PathBuf) -> Result<Self, PluginError> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(PluginError::files("write", &path))?;
        Ok(Self { path, file, is_kept: false })
    }

    /// Copies and answers the version, and the sha256 of the file alone.
    fn fill(&self, source: &mut File, source_path: &Path, config: &[u8]) -> Result<(String, String), PluginError> {
        let mut hash = Sha256::new();
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut copy = &self.file;
        loop {
            let begun = Instant::now();
            let count = source.read(&mut chunk).map_err(PluginError::files("read", source_path))?;
            let Some(part) = chunk.get(..count).filter(|part| !part.is_empty()) else { break };
            hash.update(part);
            copy.write_all(part).map_err(PluginError::files("write", &self.path))?;
            // A thread that works without pause keeps those who serve waiting for milliseconds, whatever its priority.
            std::thread::sleep((begun.elapsed() * 2).min(CHUNK_PAUSE_MAX));
        }
        let sha256 = hex(hash.clone());
        hash.update(config);
        Ok((hex(hash), sha256))
    }

    fn keep(mut self, path: &Path) -> Result<(), PluginError> {
        self.file.set_permissions(fs::Permissions::from_mode(0o400)).map_err(PluginError::files("protect", &self.path))?;
        fs::rename(&self.path, path).map_err(PluginError::files("name", path))?;
        self.is_kept = true;
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests;

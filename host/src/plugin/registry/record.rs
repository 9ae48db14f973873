//! What a restart begins with: the last good version of each plugin, what is quarantined, and what was on probation when a process died.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::facts::now_ms;
use crate::plugin::error::PluginError;
use crate::plugin::store::{StagedStore, next_number};

/// Versions remembered as quarantined, per plugin; the oldest are forgotten.
pub(super) const QUARANTINE_MAX: usize = 32;
/// A record is small; what is larger is none.
const RECORD_BYTES_MAX: u64 = 1024 * 1024;

/// Another process holds the records for milliseconds; one that was stopped meanwhile is not waited for longer.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
const LOCK_POLL: Duration = Duration::from_millis(5);

/// Of one plugin in one kind of process: a handler's failure says nothing of the actions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Record {
    /// The version that ended its probation well last.
    pub(super) good: Option<Good>,
    /// The good one before that.
    pub(super) before: Option<Good>,
    pub(super) quarantine: Vec<Quarantined>,
}

/// A good version and how to bring it up again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Good {
    pub(super) version: String,
    pub(super) sha256: String,
    /// The version's own number, for people.
    pub(super) manifest_version: String,
    /// The config table it was good with.
    pub(super) config: Map<String, Value>,
    /// File name of the kept copy, in the same folder.
    pub(super) copy: String,
    pub(super) at_ms: u64,
}

/// A version that is not tried again until somebody asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Quarantined {
    pub(super) version: String,
    pub(super) sha256: String,
    pub(super) reason: String,
    pub(super) at_ms: u64,
}

impl Record {
    pub(super) fn is_quarantined(&self, version: &str) -> bool {
        self.quarantine.iter().any(|entry| entry.version == version)
    }

    /// A quarantine wins: another process may have put it there.
    fn set_good(&mut self, good: Good) {
        if self.is_quarantined(&good.version) {
            return;
        }
        match self.good.replace(good) {
            Some(before) if self.good.as_ref().is_some_and(|good| good.version != before.version) => self.before = Some(before),
            _ => {}
        }
    }

    fn quarantine(&mut self, version: &str, sha256: &str, reason: &str) {
        self.release(version);
        let (version, sha256, reason) = (version.to_owned(), sha256.to_owned(), reason.to_owned());
        if self.before.as_ref().is_some_and(|before| before.version == version) {
            self.before = None;
        }
        if self.good.as_ref().is_some_and(|good| good.version == version) {
            self.good = self.before.take();
        }
        self.quarantine.push(Quarantined { version, sha256, reason, at_ms: now_ms() });
        let surplus = self.quarantine.len().saturating_sub(QUARANTINE_MAX);
        self.quarantine.drain(..surplus);
    }

    fn release(&mut self, version: &str) {
        self.quarantine.retain(|entry| entry.version != version);
    }
}

/// A change of a record.
pub(super) enum Entry {
    /// With the copy that is to be kept.
    Good(Good, PathBuf),
    Quarantined {
        version: String,
        sha256: String,
        reason: String,
    },
    Released {
        version: String,
    },
    /// A version in this process began a probation in which it can fail.
    ProbationBegun {
        version: String,
        sha256: String,
    },
    ProbationOver,
}

/// Written while a version that could end this process is on probation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    pub(super) version: String,
    pub(super) sha256: String,
}

/// The records of this kind of process, in the folder of copies.
#[derive(Debug, Clone)]
pub(super) struct Records {
    folder: PathBuf,
    kind: &'static str,
}

impl Records {
    pub(super) fn new(store: &StagedStore, kind: &'static str) -> Self {
        Self { folder: store.folder().to_owned(), kind }
    }

    /// Where the kept copy of a good version lies.
    pub(super) fn copy(&self, good: &Good) -> PathBuf {
        let name = Path::new(&good.copy).file_name().unwrap_or_default();
        self.folder.join(name)
    }

    /// A record that can't be read is as none, and logged. What was on probation in a process that died is put into quarantine. Blocks.
    pub(super) fn open(&self, plugin: &str) -> Record {
        let mut record = self.load(plugin).unwrap_or_default();
        for mark in self.take_marks(plugin) {
            let reason = "the process ended during its probation".to_owned();
            let entry = Entry::Quarantined { version: mark.version, sha256: mark.sha256, reason };
            record = self.write(plugin, entry, record);
        }
        record
    }

    /// Empty when there is none; `None`, and logged, when it can't be read.
    fn load(&self, plugin: &str) -> Option<Record> {
        let path = self.path(plugin);
        let read = File::open(&path).and_then(|file| {
            let mut bytes = Vec::new();
            file.take(RECORD_BYTES_MAX + 1).read_to_end(&mut bytes)?;
            if bytes.len() as u64 > RECORD_BYTES_MAX {
                return Err(io::Error::other(format!("it has more than {RECORD_BYTES_MAX} bytes")));
            }
            Ok(serde_json::from_slice(&bytes)?)
        });
        match read {
            Ok(record) => Some(record),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Record::default()),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "record of good versions can't be read; going on without it");
                None
            }
        }
    }

    /// Answers the record as it is then; one that can't be read is replaced by what is `known` of it. What can't be written is logged, and
    /// holds in this process. Blocks.
    pub(super) fn write(&self, plugin: &str, entry: Entry, known: Record) -> Record {
        let _locked = self.lock();
        let mut record = self.load(plugin).unwrap_or(known);
        let written = match entry {
            Entry::ProbationBegun { version, sha256 } => self.put(&self.mark_path(plugin), &Mark { version, sha256 }),
            Entry::ProbationOver => {
                let _ = fs::remove_file(self.mark_path(plugin)); // There is none for runners.
                Ok(())
            }
            Entry::Good(good, copy) => self.keep(&copy, &self.copy(&good)).and_then(|()| {
                record.set_good(good);
                self.save(plugin, &record)
            }),
            Entry::Quarantined { version, sha256, reason } => {
                record.quarantine(&version, &sha256, &reason);
                self.save(plugin, &record)
            }
            Entry::Released { version } => {
                record.release(&version);
                self.save(plugin, &record)
            }
        };
        if let Err(error) = written {
            tracing::warn!(plugin, %error, "a restart will not know of this");
        }
        record
    }

    /// Held while a record is read, changed and written: processes of one kind share it.
    fn lock(&self) -> Option<File> {
        let folder = File::open(&self.folder).ok()?;
        let end = Instant::now() + LOCK_TIMEOUT;
        while flock(&folder, FlockOperation::NonBlockingLockExclusive).is_err() {
            if Instant::now() >= end {
                tracing::warn!(folder = %self.folder.display(), "another process holds the records for too long; not waiting for it");
                return None;
            }
            thread::sleep(LOCK_POLL);
        }
        Some(folder)
    }

    /// The file name for a kept copy.
    pub(super) fn copy_name(&self, plugin: &str, version: &str) -> String {
        format!("{plugin}-{version}.{}.good", self.kind)
    }

    fn path(&self, plugin: &str) -> PathBuf {
        self.folder.join(format!("{plugin}.{}.json", self.kind))
    }

    fn mark_path(&self, plugin: &str) -> PathBuf {
        self.folder.join(format!("{plugin}.{}.{}.probation", self.kind, std::process::id()))
    }

    fn save(&self, plugin: &str, record: &Record) -> Result<(), PluginError> {
        self.put(&self.path(plugin), record)?;
        let kept: Vec<&str> = record.good.iter().chain(&record.before).map(|good| good.copy.as_str()).collect();
        let (prefix, ending) = (format!("{plugin}-"), format!(".{}.good", self.kind));
        for name in self.names() {
            // A version is 64 digits: no other plugin's name fits between.
            let is_ours = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(&ending)).is_some_and(|version| version.len() == 64);
            if is_ours && !kept.contains(&name.as_str()) {
                let _ = fs::remove_file(self.folder.join(name));
            }
        }
        Ok(())
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    fn keep(&self, from: &Path, to: &Path) -> Result<(), PluginError> {
        if to.exists() {
            return Ok(());
        }
        fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(|_| ())).map_err(PluginError::files("keep the good version as", to))
    }

    fn put(&self, path: &Path, content: &impl Serialize) -> Result<(), PluginError> {
        let number = next_number();
        let draft = self.folder.join(format!("record.{}.{number}.draft", std::process::id()));
        let bytes = serde_json::to_vec_pretty(content).map_err(|error| PluginError::Manifest(error.to_string()))?;
        let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).and_then(|mut file| {
            file.write_all(&bytes)?;
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
            file.sync_all()?;
            fs::rename(&draft, path)
        });
        written.map_err(|error| {
            let _ = fs::remove_file(&draft);
            PluginError::files("write", path)(error)
        })
    }

    /// The marks of processes that are no more; removed.
    fn take_marks(&self, plugin: &str) -> Vec<Mark> {
        let prefix = format!("{plugin}.{}.", self.kind);
        let owner = |name: &str| name.strip_prefix(&prefix)?.strip_suffix(".probation")?.parse::<u32>().ok();
        let mut marks = Vec::new();
        for (name, owner) in self.names().into_iter().filter_map(|name| owner(&name).map(|owner| (name, owner))) {
            // Opened before this process makes a mark of its own: one under its id is an earlier process's.
            let is_alive = owner != std::process::id() && cfg!(target_os = "linux") && Path::new("/proc").join(owner.to_string()).exists();
            if is_alive {
                continue;
            }
            let path = self.folder.join(name);
            let mark = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            let _ = fs::remove_file(&path);
            marks.extend(mark);
        }
        marks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_that_share_a_record_lose_nothing_of_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let store = StagedStore::open(folder.path()).unwrap();
        let records = Records::new(&store, "worker");
        let quarantine = |process: u32, number: usize| Entry::Quarantined {
            version: format!("{process}-{number}"),
            sha256: String::new(),
            reason: String::new(),
        };
        thread::scope(|scope| {
            for process in 0..4 {
                let records = records.clone();
                scope.spawn(move || {
                    for number in 0..QUARANTINE_MAX / 4 {
                        records.write("x", quarantine(process, number), Record::default());
                    }
                });
            }
        });
        assert_eq!(records.load("x").unwrap().quarantine.len(), QUARANTINE_MAX);
    }

    #[test]
    fn a_record_that_can_not_be_read_takes_nothing_from_a_process_that_knows_it() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::new(&StagedStore::open(folder.path()).unwrap(), "worker");
        let quarantine = |version: &str| Entry::Quarantined { version: version.to_owned(), sha256: String::new(), reason: String::new() };
        let known = records.write("x", quarantine("one"), Record::default());
        fs::write(records.path("x"), "{\"quaran").unwrap();
        let record = records.write("x", quarantine("two"), known);
        assert!(record.is_quarantined("one") && record.is_quarantined("two"));
        assert_eq!(records.load("x"), Some(record));
        fs::remove_file(records.path("x")).unwrap();
        assert_eq!(records.load("x"), Some(Record::default()), "whoever removes it wants it forgotten");
    }
}

//! Config files for the processes under test: complete, in a folder of their own, every address chosen by the kernel.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use tempfile::TempDir;
use toml::{Table, Value};

/// The actions of the chat plugin.
const CHAT_ACTIONS: [&str; 10] =
    ["join", "leave", "chat_text", "history", "members", "typing", "private_text", "nickname", "echo", "report"];

/// One config file with its folders; they are removed when this is dropped.
pub struct Config {
    table: Table,
    dir: TempDir,
    path: String,
}

impl Config {
    /// A config for the chat plugin on this queue (`redis://…` or `memory`); no plugin is installed yet.
    ///
    /// # Panics
    /// When the folder can't be made.
    pub fn chat(queue: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["plugins", "var"] {
            let folder = dir.path().join(folder);
            fs::create_dir(&folder).unwrap();
            fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap(); // Whatever the umask of who runs this.
        }
        let path = dir.path().join("plugsocket.toml").to_str().unwrap().to_owned();
        let mut config = Self { table: Table::new(), dir, path }
            .with("queue", queue)
            .with("plugins_dir", "plugins")
            .with("state_dir", "var")
            .with("log_level", "debug")
            .with("server.listen", "127.0.0.1:0")
            .with("server.handler", "chat")
            .with("ops.listen", "127.0.0.1:0")
            .with("ops.worker_listen", "127.0.0.1:0");
        for action in CHAT_ACTIONS {
            config.set(&format!("actions.{action}"), "chat");
        }
        config
    }

    /// Sets one key, such as `limits.ping_interval`, and writes the file.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.set(key, value);
        self
    }

    /// As [`Self::with`], in place: for settings that apply live.
    ///
    /// # Panics
    /// When the file can't be written, or a part of `key` is not a table.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        let mut parts: Vec<&str> = key.split('.').collect();
        let last = parts.pop().unwrap();
        let mut table = &mut self.table;
        for part in parts {
            table = table.entry(part).or_insert_with(|| Table::new().into()).as_table_mut().unwrap();
        }
        table.insert(last.to_owned(), value.into());
        self.write();
    }

    /// Removes one key and writes the file.
    ///
    /// # Panics
    /// As [`Self::set`].
    pub fn unset(&mut self, key: &str) {
        let mut parts: Vec<&str> = key.split('.').collect();
        let last = parts.pop().unwrap();
        let table = parts.into_iter().fold(&mut self.table, |table, part| table[part].as_table_mut().unwrap());
        table.remove(last);
        self.write();
    }

    fn write(&self) {
        // Written beside and renamed: a process that watches the file never reads half of it.
        let draft = self.dir.path().join(".plugsocket.toml.new");
        fs::write(&draft, toml::to_string(&self.table).unwrap()).unwrap();
        fs::rename(draft, &self.path).unwrap();
    }

    /// Path of the file.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Folder that plugins are dropped into.
    pub fn plugins_dir(&self) -> PathBuf {
        self.dir.path().join("plugins")
    }

    /// Folder of staged copies and other state.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("var")
    }
}

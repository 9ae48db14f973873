//! Where the guide is followed: the folders of an application and of a clone, a Redis, and what the guide starts.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use plugsocket::config::check_text;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::process::Process;
use crate::harness::redis::Redis;
use crate::harness::{PATIENCE, START_PATIENCE, eventually, plugin};

const NAME: &str = "chat_handler";
const PORT: &str = "6379";
/// Commands of the guide that are not run as they stand, and why.
const OTHERWISE: [(&str, &str); 5] = [
    ("cargo build --release -p chat_handler", "built by the harness, in the suite's own target folder"),
    ("cargo build --release -p channels", "built with the suite"),
    ("cargo build --release", "the suite's own binaries are taken"),
    ("export PATH=", "they are on the path"),
    ("composer require", "asks a registry; the folder of clients/php is loaded in its place"),
];
/// Addresses chosen by the kernel, for what the guide starts; and patience with clients, which don't read while a plugin is built.
const OURS: [&str; 4] = ["server.listen=127.0.0.1:0", "ops.listen=127.0.0.1:0", "ops.worker_listen=127.0.0.1:0", "limits.idle_timeout=10m"];

/// Everything that is there.
pub struct Place {
    servers: Vec<Process>,
    workers: Vec<Process>,
    php_worker: Option<Process>,
    redis: Redis,
    dir: TempDir,
}

/// A block of PHP as a file.
pub fn as_php(text: &str) -> String {
    if text.starts_with("<?php") { text.to_owned() } else { format!("<?php\n{text}") }
}

impl Place {
    /// The application `chat` and the clone `plugsocket`, side by side.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let redis = Redis::start();
        let place = Self { servers: Vec::new(), workers: Vec::new(), php_worker: None, redis, dir };
        for folder in ["chat/config", "plugsocket/config", "plugsocket/plugins", "bin"] {
            fs::create_dir_all(place.dir.path().join(folder)).unwrap();
        }
        fs::set_permissions(place.clone_folder().join("plugins"), Permissions::from_mode(0o755)).unwrap();
        symlink(plugin::workspace().join("plugin-api"), place.clone_folder().join("plugin-api")).unwrap();
        for binary in [env!("CARGO_BIN_EXE_plugsocket"), env!("CARGO_BIN_EXE_plugsocket-server"), env!("CARGO_BIN_EXE_plugsocket-worker")] {
            symlink(binary, place.dir.path().join("bin").join(Path::new(binary).file_name().unwrap())).unwrap();
        }
        fs::write(place.app().join(".env"), format!("REDIS_HOST=127.0.0.1\nREDIS_PORT={}\n", place.redis.port())).unwrap();
        place
    }

    fn app(&self) -> PathBuf {
        self.dir.path().join("chat")
    }

    fn clone_folder(&self) -> PathBuf {
        self.dir.path().join("plugsocket")
    }

    fn config(&self) -> PathBuf {
        self.clone_folder().join("config/chat.toml")
    }

    fn source(&self) -> PathBuf {
        self.clone_folder().join("plugins").join(NAME).join("src/lib.rs")
    }

    /// Runs the lines of a block in the folder it is for; a command that goes on running is one of ours.
    pub fn run(&mut self, folder: &str, text: &str) {
        let folder = if folder == "app" { self.app() } else { self.clone_folder() };
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let otherwise = OTHERWISE.iter().find(|(beginning, _)| line.starts_with(beginning));
            if otherwise.is_some_and(|(beginning, _)| beginning.ends_with(NAME)) {
                self.install_plugin();
            } else if otherwise.is_some_and(|(beginning, _)| beginning.ends_with("channels")) {
                plugin::install(&plugin::channels(), &self.clone_folder().join("plugins"), "channels");
            } else if otherwise.is_none() && line.starts_with("plugsocket-") {
                self.start(line);
            } else if otherwise.is_none() {
                self.shell(&folder, line);
            }
        }
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>, folder: &Path) -> Command {
        let path = format!("{}:{}", self.dir.path().join("bin").display(), std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new(program);
        command.current_dir(folder).env("PATH", path);
        let is_foreign = |name: &str| ["PLUGSOCKET_", "REDIS_", "WEBSOCKET_"].iter().any(|prefix| name.starts_with(prefix));
        for (name, _) in std::env::vars().filter(|(name, _)| is_foreign(name)) {
            command.env_remove(name);
        }
        command
    }

    fn shell(&self, folder: &Path, line: &str) {
        let line = line.replace("redis-cli ", &format!("redis-cli -p {} ", self.redis.port()));
        let mut command = self.command("sh", folder);
        command.args(["-c", &line]);
        let mut process = Process::spawn("sh", command);
        let status = process.wait_exit(START_PATIENCE);
        assert!(status.success(), "{line}: {:#?}", process.lines());
    }

    fn start(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let program = words.next().unwrap();
        let mut command = self.command(self.dir.path().join("bin").join(program), &self.clone_folder());
        command.args(words).args(OURS.iter().flat_map(|setting| ["--set", setting]));
        let process = Process::spawn(program, command);
        if program == "plugsocket-worker" {
            process.wait_worker_ready();
            self.workers.push(process);
        } else {
            process.ws_url();
            self.servers.push(process);
        }
    }

    /// Where clients connect to the server that was started as this one, counted from 0.
    pub fn server_url(&self, index: usize) -> String {
        self.servers[index].ws_url()
    }

    fn install_plugin(&self) {
        let library = plugin::build(&self.clone_folder().join("plugins").join(NAME), NAME);
        plugin::install(&library, &self.clone_folder().join("plugins"), NAME);
    }

    /// Writes the plugin's only file; `plugsocket new` has made the rest.
    pub fn write_plugin(&self, text: &str) {
        assert!(self.source().is_file(), "plugsocket new has made it");
        fs::write(self.source(), text).unwrap();
    }

    /// Puts `text` into the place of the plugin's `export_plugin!`.
    pub fn add_to_plugin(&self, text: &str) {
        let source = fs::read_to_string(self.source()).unwrap();
        let (before, _) = source.split_once("export_plugin!").expect("an export to replace");
        fs::write(self.source(), format!("{before}{text}")).unwrap();
    }

    /// The imported config says what `text` says.
    pub fn is_imported(&self, text: &str) {
        let real = fs::read_to_string(self.config()).unwrap();
        let shown = text.replace(&format!(":{PORT}\""), &format!(":{}\"", self.redis.port()));
        let [real, shown] = [real, shown].map(|text| check_text(&self.config(), &text).unwrap());
        assert_eq!(real, shown, "what the import made, and what the guide shows of it");
    }

    /// Changes the config; those who run have taken it up afterwards.
    pub fn edit(&self, change: impl FnOnce(&str) -> String) {
        let before = fs::read_to_string(self.config()).unwrap();
        let after = change(&before);
        assert_ne!(before, after, "an edit that changes nothing");
        let running: Vec<_> = self.servers.iter().chain(&self.workers).map(|process| (process, process.lines().len())).collect();
        let draft = self.config().with_extension("new");
        fs::write(&draft, after).unwrap();
        fs::rename(draft, self.config()).unwrap();
        for (process, mark) in running {
            process.wait_line_after(mark, "config applied", PATIENCE);
        }
    }

    /// Replaces the lines of these actions; those that are not there are added.
    pub fn move_actions(&self, text: &str) {
        for line in text.lines().filter(|line| !line.starts_with('[')) {
            let key = line.split_once('=').map(|(key, _)| key).expect("an action");
            self.edit(|config| {
                let is_there = config.lines().any(|old| old.starts_with(key));
                let lines = config.lines().flat_map(|old| match old {
                    "[actions]" if !is_there => vec![old, line],
                    old if old.starts_with(key) => vec![line],
                    old => vec![old],
                });
                lines.collect::<Vec<_>>().join("\n") + "\n"
            });
        }
    }

    /// Puts a file of PHP into the application; it must be PHP.
    pub fn put_php(&self, file: &str, text: &str) {
        let path = self.app().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, as_php(text)).unwrap();
        self.php(&["-l", file]);
    }

    /// What PHP prints, run in the application's folder.
    pub fn php(&self, args: &[&str]) -> String {
        let output = self.command("php", &self.app()).args(args).output().unwrap();
        let [text, errors] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert!(output.status.success() && errors.is_empty(), "php {args:?}: {text} {errors}");
        text
    }

    /// Runs a block against this place's Redis; with a connection by what clients/php brings along, and this as its `$connectionId`.
    pub fn run_php(&self, text: &str, connection: Option<&str>) -> String {
        fs::write(self.app().join("block.php"), as_php(text).replace(PORT, &self.redis.port().to_string())).unwrap();
        let Some(connection) = connection else { return self.php(&["block.php"]) };
        let sender = plugin::workspace().join("tests/suite/from_laravel/sender.php");
        let (port, ops) = (self.redis.port().to_string(), self.servers[0].ops_url());
        self.php(&[sender.to_str().unwrap(), Self::clients().to_str().unwrap(), &port, &ops, connection, "./block.php"])
    }

    /// What composer would have put into `vendor`.
    pub fn load_client(&self) {
        let clients = Self::clients();
        let autoload = format!(
            "<?php spl_autoload_register(fn ($class) => require '{0}/src/' . strtr(substr($class, 11), '\\\\', '/') . '.php');\nrequire '{0}/src/helpers.php';\n",
            clients.display()
        );
        fs::create_dir_all(self.app().join("vendor")).unwrap();
        fs::write(self.app().join("vendor/autoload.php"), autoload).unwrap();
    }

    fn clients() -> PathBuf {
        let clients = plugin::workspace().join("clients/php");
        assert!(clients.join("src/Websocket.php").is_file(), "clients/php is not there");
        clients
    }

    /// PHP's worker, with the classes of these files.
    pub fn start_php_worker(&mut self, file: &str) {
        let script = plugin::workspace().join("tests/suite/from_laravel/worker.php");
        let mut command = self.command("php", &self.app());
        command.arg(script).arg(self.redis.port().to_string()).args(["chat", file]);
        let process = Process::spawn("php", command);
        process.wait_line("working", START_PATIENCE);
        self.php_worker = Some(process);
    }

    /// The next item of a list, which stays there.
    pub async fn first_in(&self, list: &str) -> Value {
        eventually("an item", PATIENCE, async || self.redis.cli(&["LLEN", list]) == "1").await;
        serde_json::from_str(&self.redis.cli(&["LINDEX", list, "0"])).unwrap()
    }
}

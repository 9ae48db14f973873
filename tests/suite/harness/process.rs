//! Child processes whose output is read all the time, whose ends are timed, and of which none is left behind.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::config::Config;
use super::{PATIENCE, START_PATIENCE};

const POLL: Duration = Duration::from_millis(5);
/// How long the output of a process that has ended may take to arrive.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// One child process. Dropping it kills it, and prints its output when the test is failing.
pub struct Process {
    name: String,
    child: Child,
    exited: Option<ExitStatus>,
    output: Arc<Output>,
}

#[derive(Default)]
struct Output {
    state: Mutex<OutputState>,
    changed: Condvar,
}

#[derive(Default)]
struct OutputState {
    lines: Vec<String>,
    streams_ended: usize,
}

impl Process {
    /// Starts `plugsocket-server` with a config file.
    pub fn server(config: &Config) -> Self {
        Self::binary("server", env!("CARGO_BIN_EXE_plugsocket-server"), &["--config", config.path()])
    }

    /// Starts `plugsocket-worker` with a config file.
    pub fn worker(config: &Config) -> Self {
        Self::binary("worker", env!("CARGO_BIN_EXE_plugsocket-worker"), &["--config", config.path()])
    }

    /// Starts `plugsocket-worker` with a config file and more environment.
    pub fn worker_with(config: &Config, environment: &[(&str, &str)]) -> Self {
        let mut command = Self::command(env!("CARGO_BIN_EXE_plugsocket-worker"), &["--config", config.path()]);
        command.envs(environment.iter().copied());
        Self::spawn("worker", command)
    }

    /// Starts `plugsocket dev` with a config file.
    pub fn dev(config: &Config) -> Self {
        Self::tool(&["dev", "--config", config.path()])
    }

    /// Starts `plugsocket-server` or `plugsocket-worker` (`server`, `worker`) with any arguments.
    pub fn program(name: &str, args: &[&str]) -> Self {
        let server = name == "server";
        let path = if server { env!("CARGO_BIN_EXE_plugsocket-server") } else { env!("CARGO_BIN_EXE_plugsocket-worker") };
        Self::binary(name, path, args)
    }

    /// Starts `plugsocket` with any arguments.
    pub fn tool(args: &[&str]) -> Self {
        Self::binary("plugsocket", env!("CARGO_BIN_EXE_plugsocket"), args)
    }

    fn binary(name: &str, path: &str, args: &[&str]) -> Self {
        Self::spawn(name, Self::command(path, args))
    }

    fn command(path: &str, args: &[&str]) -> Command {
        let mut command = Command::new(path);
        command.args(args).env("RUST_BACKTRACE", "1");
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PLUGSOCKET_")) {
            command.env_remove(name); // Overrides of the person who runs the tests are not part of them.
        }
        command
    }

    /// Starts any command; its two output streams are read line by line into one buffer.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn spawn(name: &str, command: Command) -> Self {
        Self::spawn_with(name, command, Stdio::null())
    }

    /// As [`Self::spawn`], with something on its standard input.
    ///
    /// # Panics
    /// As [`Self::spawn`].
    pub fn spawn_with(name: &str, mut command: Command, stdin: Stdio) -> Self {
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("can't start {name} ({command:?}): {error}"));
        let output = Arc::new(Output::default());
        output.read_from(child.stdout.take().unwrap());
        output.read_from(child.stderr.take().unwrap());
        Self { name: name.to_owned(), child, exited: None, output }
    }

    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The memory it has resident, in MiB.
    ///
    /// # Panics
    /// When it can't be read: the process has ended, or this is not Linux.
    pub fn resident_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap() / 1024
    }

    /// The lines so far; also a mark for [`Self::wait_line_after`] by its length.
    pub fn lines(&self) -> Vec<String> {
        self.output.state.lock().unwrap().lines.clone()
    }

    /// The first line that contains `pattern`, from the start of the output on.
    ///
    /// # Panics
    /// When none comes within `timeout`, or the process ends before.
    pub fn wait_line(&self, pattern: &str, timeout: Duration) -> String {
        self.wait_line_after(0, pattern, timeout)
    }

    /// As [`Self::wait_line`], leaving out the first `mark` lines.
    ///
    /// # Panics
    /// As [`Self::wait_line`].
    pub fn wait_line_after(&self, mark: usize, pattern: &str, timeout: Duration) -> String {
        self.try_wait_line(mark, pattern, timeout).unwrap_or_else(|why| panic!("{}: no line with {pattern:?}: {why}", self.name))
    }

    /// As [`Self::wait_line_after`], with what went wrong as a value.
    ///
    /// # Errors
    /// When no such line comes within `timeout`, or both output streams end before.
    pub fn try_wait_line(&self, mark: usize, pattern: &str, timeout: Duration) -> Result<String, String> {
        let end = Instant::now() + timeout;
        let mut state = self.output.state.lock().unwrap();
        loop {
            if let Some(line) = state.lines.iter().skip(mark).find(|line| line.contains(pattern)) {
                return Ok(line.clone());
            }
            let left = end.saturating_duration_since(Instant::now());
            if state.streams_ended == 2 {
                return Err("the process has ended".to_owned());
            }
            if left.is_zero() {
                return Err(format!("not within {timeout:?}"));
            }
            state = self.output.changed.wait_timeout(state, left).unwrap().0;
        }
    }

    /// The socket's address, from the ready line of a server or of `dev`: `ws://127.0.0.1:<port>/`.
    pub fn ws_url(&self) -> String {
        self.announced("listening on ", "ws://")
    }

    /// As [`Self::ws_url`], of a server with a certificate.
    pub fn wss_url(&self) -> String {
        self.announced("listening on ", "wss://")
    }

    /// The ops listener's address, from its ready line: `http://127.0.0.1:<port>/`.
    pub fn ops_url(&self) -> String {
        self.announced("ops on ", "http://")
    }

    /// The page's address, from the ready line of `dev`.
    pub fn page_url(&self) -> String {
        self.announced("open ", "http://")
    }

    /// Waits until a worker takes messages.
    pub fn wait_worker_ready(&self) {
        self.wait_line("worker ready", START_PATIENCE);
    }

    fn announced(&self, words: &str, scheme: &str) -> String {
        // The words may stand in a log line too; the address behind them makes the ready line.
        let line = self.wait_line(&format!("{words}{scheme}"), START_PATIENCE);
        line.split(words).last().and_then(|rest| rest.split_whitespace().next()).unwrap().to_owned()
    }

    /// Ends the process at once (SIGKILL).
    pub fn kill(&mut self) -> ExitStatus {
        self.child.kill().unwrap_or_else(|error| panic!("can't kill {}: {error}", self.name));
        self.wait_exit(PATIENCE)
    }

    /// Asks the process to end (SIGTERM) and waits for it.
    ///
    /// # Panics
    /// When it still runs after `timeout`.
    pub fn terminate(&mut self, timeout: Duration) -> ExitStatus {
        self.signal("TERM");
        self.wait_exit(timeout)
    }

    /// Sends a signal by its name, such as `TERM`, `STOP` or `CONT`; does nothing once the process has been waited for.
    ///
    /// # Panics
    /// When it can't be sent.
    pub fn signal(&self, signal: &str) {
        if self.exited.is_some() {
            return; // The id may belong to somebody else by now.
        }
        let pid = self.pid().to_string();
        let status = Command::new("sh").args(["-c", "kill -s \"$1\" \"$2\"", "sh", signal, &pid]).status().unwrap();
        assert!(status.success(), "can't send SIG{signal} to {}", self.name);
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        if self.exited.is_none() {
            self.exited = self.child.try_wait().unwrap();
        }
        self.exited.is_none()
    }

    /// Waits for the process's end, and for the rest of its output.
    ///
    /// # Panics
    /// When it still runs after `timeout`.
    pub fn wait_exit(&mut self, timeout: Duration) -> ExitStatus {
        let end = Instant::now() + timeout;
        while self.is_running() {
            assert!(Instant::now() < end, "{} still runs after {timeout:?}", self.name);
            thread::sleep(POLL);
        }
        let end = Instant::now() + LAST_WORDS;
        let mut state = self.output.state.lock().unwrap();
        while state.streams_ended < 2 && Instant::now() < end {
            state = self.output.changed.wait_timeout(state, POLL).unwrap().0;
        }
        self.exited.unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.exited.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if thread::panicking() {
            let state = self.output.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            eprintln!("---- output of {} (process {}) ----\n{}\n----", self.name, self.child.id(), state.lines.join("\n"));
        }
    }
}

impl Output {
    fn read_from(self: &Arc<Self>, stream: impl Read + Send + 'static) {
        let output = Arc::clone(self);
        thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                output.state.lock().unwrap().lines.push(text);
                output.changed.notify_all();
            }
            output.state.lock().unwrap().streams_ended += 1;
            output.changed.notify_all();
        });
    }
}

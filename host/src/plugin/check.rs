//! The throw-away child: tries a library where a crash or a hang costs nothing.

use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use plugsocket_plugin::call::{CreateRequest, HostOperation, Manifest, Role, Status};
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::time;

use super::Answer;
use super::blame::end_name;
use super::error::PluginError;
use super::launcher::Launcher;
use super::library::{Host, Library};

/// First argument of a binary that is started as the throw-away child; it then calls [`run_child`] before anything else.
pub(super) const CHECK_ARGUMENT: &str = "__check-plugin";

const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// The child ends itself when its host did not live to end it.
const CHILD_LIFE_MAX: Duration = Duration::from_secs(7);
/// The manifest's line on the child's standard output, where the plugin may print as well.
const MANIFEST_MARK: &str = "plugsocket-manifest: ";
const OUTPUT_BYTES_MAX: usize = 1024 * 1024;
/// The rest of the child's output is waited for this long; processes that the plugin has started may hold its pipes for ever.
const OUTPUT_GRACE: Duration = Duration::from_millis(200);
/// Longest text of a plugin that is passed on, in bytes; its end counts.
pub(super) const TEXT_BYTES_MAX: usize = 4096;
const CONFIG_BYTES_MAX: u64 = 16 * 1024 * 1024;
const EXIT_REFUSED: u8 = 1;
const EXIT_CONSTRUCTOR: u8 = 2;

/// How to start the throw-away child.
#[derive(Debug, Clone)]
pub struct Checker {
    launcher: Launcher,
    timeout: Duration,
}

impl Checker {
    /// Started by `launcher`, with a limit of 5 s.
    #[must_use]
    pub fn new(launcher: Launcher) -> Self {
        Self { launcher, timeout: CHECK_TIMEOUT }
    }

    /// Another limit than 5 s.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Loads the library in the child, builds an instance for each of `roles`, ends them, and answers the manifest.
    /// Dropping the future kills the child.
    ///
    /// # Errors
    /// [`PluginError::Constructor`] with the plugin's text, or when it hangs; [`PluginError::Check`] for everything else, a crash by its
    /// signal's name; [`PluginError::Files`] when no process can be started.
    pub async fn check(&self, path: &Path, roles: &[Role], config: &Map<String, Value>) -> Result<Manifest, PluginError> {
        let config = serde_json::to_vec(config).map_err(|error| PluginError::Check(error.to_string()))?;
        let mut command = Command::from(self.launcher.command(CHECK_ARGUMENT));
        command.arg(path).arg(role_names(roles));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(PluginError::files("start the process that checks it,", self.launcher.program()))?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A child that dies before it reads is told of by its exit status.
                let _ = stdin.write_all(&config).await;
            }
        };
        let (mut said, mut complained) = (Vec::new(), Vec::new());
        let status = {
            let output = async { tokio::join!(feed, tail(stdout, &mut said), tail(stderr, &mut complained)) };
            tokio::pin!(output);
            let run = async {
                tokio::select! {
                    status = child.wait() => {
                        let _ = time::timeout(OUTPUT_GRACE, &mut output).await;
                        status
                    }
                    _ = &mut output => child.wait().await,
                }
            };
            let ended = time::timeout(self.timeout, run).await;
            // Retried as a failed constructor is: what it waits for may come.
            ended.map_err(|_| PluginError::Constructor(format!("it, or its shutdown, did not end within {:?}", self.timeout)))?
        };
        let status = status.map_err(PluginError::files("wait for the process that checks it,", self.launcher.program()))?;
        verdict(status, &String::from_utf8_lossy(&said), String::from_utf8_lossy(&complained).trim())
    }
}

fn verdict(status: ExitStatus, stdout: &str, stderr: &str) -> Result<Manifest, PluginError> {
    if status.success() {
        let manifest = stdout.lines().rev().find_map(|line| line.strip_prefix(MANIFEST_MARK));
        let manifest = manifest.ok_or_else(|| PluginError::Check("it ended the process that checks it".to_owned()))?;
        return serde_json::from_str(manifest).map_err(|error| PluginError::Manifest(error.to_string()));
    }
    let last = end_of(stderr.rsplit(MANIFEST_MARK).next().unwrap_or(stderr).trim());
    match status.code() {
        Some(code) if code == i32::from(EXIT_CONSTRUCTOR) => Err(PluginError::Constructor(last)),
        Some(code) if code == i32::from(EXIT_REFUSED) => Err(PluginError::Check(last)),
        Some(code) => Err(PluginError::Check(format!("it ended the process that checks it with exit code {code}; it said: {last}"))),
        None => Err(PluginError::Check(format!("it crashed the process that checks it with {}; it said: {last}", end_name(status)))),
    }
}

/// The last part of a plugin's text.
pub(super) fn end_of(text: &str) -> String {
    let start = (text.len().saturating_sub(TEXT_BYTES_MAX)..=text.len()).find(|start| text.is_char_boundary(*start)).unwrap_or_default();
    text.get(start..).unwrap_or_default().to_owned()
}

/// Reads to the end and keeps the last part.
async fn tail(reader: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut reader) = reader else { return };
    while matches!(reader.read_buf(kept).await, Ok(count) if count > 0) {
        if kept.len() > 2 * OUTPUT_BYTES_MAX {
            kept.drain(..kept.len() - OUTPUT_BYTES_MAX);
        }
    }
}

fn role_names(roles: &[Role]) -> String {
    roles.iter().map(|role| if *role == Role::Handler { "handler" } else { "actions" }).collect::<Vec<_>>().join(",")
}

/// What the throw-away child does, given the arguments behind [`CHECK_ARGUMENT`]: the file, and the roles to build, joined by commas.
/// Reads the config table as JSON from standard input. Call it before the process has threads or state.
#[must_use]
pub(super) fn run_child(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let watchdog = std::thread::Builder::new().name("watchdog".to_owned()).spawn(|| {
        std::thread::sleep(CHILD_LIFE_MAX);
        std::process::abort();
    });
    let (Some(path), Some(roles), Ok(_)) = (arguments.next(), arguments.next(), watchdog) else {
        eprintln!("{MANIFEST_MARK}this hidden argument is for the host itself");
        return ExitCode::from(EXIT_REFUSED);
    };
    match try_library(Path::new(&path), &roles.to_string_lossy()) {
        Ok(manifest) => {
            let mut stdout = std::io::stdout().lock();
            // A line of its own, whatever the plugin has printed.
            let written = writeln!(stdout, "\n{MANIFEST_MARK}{manifest}").and_then(|()| stdout.flush());
            if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_REFUSED) }
        }
        Err(PluginError::Constructor(text)) => {
            eprintln!("\n{MANIFEST_MARK}{text}");
            ExitCode::from(EXIT_CONSTRUCTOR)
        }
        Err(error) => {
            eprintln!("\n{MANIFEST_MARK}{error}");
            ExitCode::from(EXIT_REFUSED)
        }
    }
}

fn try_library(path: &Path, roles: &str) -> Result<String, PluginError> {
    let mut config = Vec::new();
    let unreadable = |text: String| PluginError::Check(format!("the config table can't be read: {text}"));
    std::io::stdin().lock().take(CONFIG_BYTES_MAX).read_to_end(&mut config).map_err(|error| unreadable(error.to_string()))?;
    let config: Map<String, Value> = serde_json::from_slice(&config).map_err(|error| unreadable(error.to_string()))?;
    let library = Library::load(path)?;
    let manifest = library.describe()?;
    for role in roles.split(',').filter(|role| !role.is_empty()) {
        let role = if role == "handler" { Role::Handler } else { Role::Actions };
        if role == Role::Handler && !manifest.handler {
            continue; // The registry refuses it with a better text.
        }
        let instance = library.create(&CreateRequest { role, config: config.clone() }, Arc::new(NoHost))?;
        instance.shutdown();
    }
    serde_json::to_string(&manifest).map_err(|error| PluginError::Manifest(error.to_string()))
}

/// The host of an instance that takes no calls: swallows logs, and has nothing else to give.
struct NoHost;

impl Host for NoHost {
    fn invoke(&self, _token: u64, operation: u32, _input: Bytes) -> Answer {
        if operation == HostOperation::Log as u32 {
            return Answer { status: Status::Done, bytes: Bytes::new() };
        }
        Answer::retry("not available while the plugin is being checked")
    }
}

#[cfg(test)]
mod tests;

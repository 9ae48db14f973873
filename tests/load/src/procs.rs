//! Child processes: started, waited for, and never left behind.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub const START_PATIENCE: Duration = Duration::from_secs(20);
/// So that what was killed writes no more.
const LAST_WRITES: Duration = Duration::from_millis(50);
/// Lines kept for the error when a process ends too early.
const LAST_LINES: usize = 20;

/// All that run, for the end of this program by a signal.
static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// Folders that are removed then.
static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Kills whatever this program has started and removes its folders.
pub fn end_all() {
    for pid in RUNNING.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let _ = signal(*pid, Signal::KILL);
    }
    thread::sleep(LAST_WRITES);
    for folder in FOLDERS.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let _ = std::fs::remove_dir_all(folder);
    }
}

/// A folder that is gone when the program ends.
pub fn folder() -> anyhow::Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("plugsocket-load.").tempdir()?;
    FOLDERS.lock().unwrap_or_else(PoisonError::into_inner).push(folder.path().to_owned());
    Ok(folder)
}

/// Sends a signal to a process that this program, or a process of its own, has started.
pub fn signal(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?).context("no process")?;
    kill_process(pid, signal).context("a signal")
}

/// One child; dropping it kills it.
pub struct Process {
    name: String,
    child: Child,
    lines: Receiver<String>,
    last: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// Starts it with its output read all the time.
    pub fn start(name: &str, mut command: Command) -> anyhow::Result<Self> {
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("PLUGSOCKET_") {
                command.env_remove(variable); // What the caller sets for its own processes is not measured.
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("can't start {name} ({})", command.get_program().display()))?;
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).push(child.id());
        let (sender, lines) = channel();
        let last = Arc::default();
        if let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) {
            follow(out, sender.clone(), &last);
            follow(err, sender, &last);
        }
        Ok(Self { name: name.to_owned(), child, lines, last })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line with these words and gives back what follows them.
    pub fn wait_for(&self, words: &str) -> anyhow::Result<String> {
        let end = Instant::now() + START_PATIENCE;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    if let Some((_, rest)) = line.split_once(words) {
                        return Ok(rest.trim().to_owned());
                    }
                }
                Err(RecvTimeoutError::Timeout) => bail!("{} did not say `{words}` in {START_PATIENCE:?}", self.name),
                Err(RecvTimeoutError::Disconnected) => {
                    let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).join("\n");
                    bail!("{} ended before it said `{words}`:\n{last}", self.name);
                }
            }
        }
    }
}

fn follow(stream: impl Read + Send + 'static, lines: Sender<String>, last: &Arc<Mutex<Vec<String>>>) {
    let last = Arc::clone(last);
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let mut kept = last.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() == LAST_LINES {
                kept.remove(0);
            }
            kept.push(line.clone());
            drop(kept);
            let _ = lines.send(line); // Nobody waits any more, and the process still has to be read.
        }
    });
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|pid| *pid != self.child.id());
    }
}

//! Asks a real `php` what a config file holds: only PHP can tell, and the application's own bootstrap better than the file alone.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

use super::package::shown;
use crate::tool::print::clean;
use crate::tool::reach::UsageError;

/// The script; PHP gets it without its opening tag.
const SCRIPT: &str = include_str!("evaluate.php");
/// Most that is read of what PHP writes, to each of its two outputs.
const OUTPUT_MAX: u64 = 1 << 20;
/// Most lines of its errors that are shown.
const LINES_MAX: usize = 50;
const MARK_BYTES: usize = 16;

/// What PHP found.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Found {
    /// The package's config.
    pub websocket: Value,
    /// The application's `database.redis`; of a file alone what the environment says.
    pub redis: Value,
    /// Which of its connections the queue uses.
    pub connection: Value,
    /// What is worth a word.
    pub notes: Vec<String>,
    /// The application's own bootstrap has told it.
    #[serde(skip)]
    pub is_bootstrapped: bool,
}

/// What the script writes.
#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Error { error: String, file: Option<PathBuf>, line: Option<u64> },
    Found(Found),
}

#[derive(Clone, Copy)]
enum Mode {
    Application,
    File,
}

/// The PHP to ask.
#[derive(Debug, Clone, Copy)]
pub(super) struct Php<'call> {
    /// Its executable.
    pub path: &'call Path,
    /// Longest time for one evaluation: a bootstrap may wait for a database that is away.
    pub timeout: Duration,
}

/// Evaluates `file`, by its application's bootstrap where there is one that works.
///
/// # Errors
/// No PHP, a file that is not there or can't be evaluated, one that takes too long or writes too much.
pub(super) async fn evaluate(php: Php<'_>, file: &Path) -> anyhow::Result<Found> {
    let file = file.canonicalize().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => UsageError(format!(
            "{} is not there: name the PHP package's config, usually config/websocket.php of the Laravel application",
            file.display()
        )),
        _ => UsageError(format!("{} can't be read: {error}", file.display())),
    })?;
    if !file.is_file() {
        return Err(UsageError(format!("{} is no file", file.display())).into());
    }
    let root = application_of(&file);
    let mut notes = Vec::new();
    if is_application(&root, &file) {
        match ask(php, &file, &root, Mode::Application).await {
            Ok(found) if !found.websocket.is_null() => return Ok(Found { is_bootstrapped: true, ..found }),
            Ok(_) => notes.push("the application does not know this config file: it was evaluated by itself".to_owned()),
            Err(error) if error.is::<UsageError>() => return Err(error),
            Err(error) => notes.push(format!(
                "the application in {} does not start, so that the file was evaluated by itself, with its .env: {}",
                root.display(),
                clean(&format!("{error:#}"))
            )),
        }
    }
    let mut found = ask(php, &file, &root, Mode::File).await?;
    found.notes.splice(0..0, notes);
    Ok(found)
}

/// The application that a config file belongs to: the folder above its `config`, else its own.
fn application_of(file: &Path) -> PathBuf {
    let folder = file.parent().unwrap_or(Path::new("/"));
    let above = folder.parent().unwrap_or(folder);
    if folder.file_name().is_some_and(|name| name == "config") { above.to_owned() } else { folder.to_owned() }
}

fn is_application(root: &Path, file: &Path) -> bool {
    file.starts_with(root.join("config")) && root.join("vendor/autoload.php").is_file() && root.join("bootstrap/app.php").is_file()
}

async fn ask(php: Php<'_>, file: &Path, root: &Path, mode: Mode) -> anyhow::Result<Found> {
    let mark = mark()?;
    let mut command = Command::new(php.path);
    // Errors are for people: in plain text, once, and not in the way of the answer.
    for setting in ["display_errors=stderr", "log_errors=0", "html_errors=0", "memory_limit=512M"] {
        command.args(["-d", setting]);
    }
    command.arg("-r").arg(SCRIPT.trim_start_matches("<?php")).arg("--").arg(file).arg(root).arg(&mark);
    command.arg(match mode {
        Mode::Application => "application",
        Mode::File => "file",
    });
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| {
        UsageError(format!(
            "can't run `{}` ({error}), and only PHP can read a PHP file. Name another with --php PATH, or let the application's own machine \
             tell: php artisan tinker --execute='echo json_encode(config(\"websocket\"));' | plugsocket config import -",
            php.path.display()
        ))
    })?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let all = async {
        // One that writes without end is not waited for: it does not notice that nobody reads.
        let (out, err) = match tokio::try_join!(read(out), read(err)) {
            Ok(both) => both,
            Err(TooMuch(text)) => {
                show(&text);
                bail!("PHP wrote more than {} KiB; its beginning stands above", OUTPUT_MAX / 1024);
            }
        };
        show(&err);
        Ok((child.wait().await?, out))
    };
    let Ok(done) = tokio::time::timeout(php.timeout, all).await else {
        bail!("PHP was not done after {} (--timeout gives it longer)", humantime::format_duration(php.timeout));
    };
    let (status, out) = done?;
    answer(&out, &mark, status, file)
}

/// What stands behind the mark.
fn answer(out: &str, mark: &str, status: ExitStatus, file: &Path) -> anyhow::Result<Found> {
    let Some((_, json)) = out.rsplit_once(mark) else {
        bail!("PHP ended before it had the config ({status}); what it says of that stands above");
    };
    match serde_json::from_str(json).context("PHP's answer")? {
        Answer::Found(found) => Ok(found),
        Answer::Error { error, file: place, line } => {
            let place = place.as_deref().filter(|place| place.is_file()).unwrap_or(file);
            let line = line.map_or(String::new(), |line| format!(":{line}"));
            Err(anyhow!("{}{line}: {}", place.display(), clean(&error)))
        }
    }
}

/// It wrote more than is read; this is its beginning.
struct TooMuch(String);

async fn read(stream: Option<impl AsyncRead + Unpin>) -> Result<String, TooMuch> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        // An error ends the stream as its end does.
        let _ = stream.take(OUTPUT_MAX + 1).read_to_end(&mut bytes).await;
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    if bytes.len() as u64 > OUTPUT_MAX { Err(TooMuch(text)) } else { Ok(text) }
}

/// What PHP had to say, to standard error.
fn show(text: &str) {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    for line in lines.by_ref().take(LINES_MAX) {
        eprintln!("php: {}", shown(line));
    }
    let left = lines.count();
    if left > 0 {
        eprintln!("php: … and {left} lines more");
    }
}

/// Behind it stands our answer, and nothing that the config prints can look like it.
fn mark() -> anyhow::Result<String> {
    let mut bytes = [0; MARK_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("no random bytes: {error}"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

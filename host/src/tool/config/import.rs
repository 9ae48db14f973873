//! `plugsocket config import`: the PHP package's `config/websocket.php` as a config file of ours.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::Args;
use serde_json::Value;

use super::package::Package;
use super::php::{Found, Php, evaluate};
use super::queue_url::{self, Place};
use super::steps::steps;
use super::text::Application;
use crate::config::{self, ConfigError};
use crate::tool::print;
use crate::tool::reach::UsageError;

/// Longest JSON on standard input.
const INPUT_MAX: u64 = 1 << 20;
/// The connection that Laravel's queue uses where nothing else is said.
const CONNECTION: &str = "default";

/// Flags of `config import`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  plugsocket config import -o config/plugsocket.toml                   # in the Laravel application's folder
  plugsocket config import app/config/websocket.php --php php7.4       # to standard output, by another PHP
  php artisan tinker --execute='echo json_encode(config(\"websocket\"));' | plugsocket config import -

Exit codes: 0 done, 1 PHP can't evaluate the file or a value in it is wrong, 2 wrong use: no such file, no PHP, OUT exists.")]
pub struct ImportArgs {
    /// The PHP package's config, or - for the same keys as JSON on standard input.
    #[arg(default_value = "config/websocket.php", value_name = "FILE")]
    file: PathBuf,
    /// Where to write; without it to standard output.
    #[arg(short, long, value_name = "OUT")]
    out: Option<PathBuf>,
    /// Overwrite OUT.
    #[arg(long, requires = "out")]
    force: bool,
    /// The plugin that shall admit clients; else a name made from the PHP handler's class.
    #[arg(long, value_name = "NAME")]
    handler: Option<String>,
    /// The PHP that evaluates the file.
    #[arg(long, default_value = "php", value_name = "PATH")]
    php: PathBuf,
    /// How long it may take.
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// Reads, maps, checks and writes; what it did and what is left to do goes to standard error.
///
/// # Errors
/// See the exit codes.
pub async fn run(args: ImportArgs) -> anyhow::Result<()> {
    if let Some(out) = args.out.as_deref().filter(|out| !args.force && out.symlink_metadata().is_ok()) {
        return Err(is_there(out));
    }
    let source = if is_input(&args.file) { "standard input".to_owned() } else { args.file.display().to_string() };
    let found = if is_input(&args.file) {
        Found { websocket: read_json(io::stdin().lock())?, ..Found::default() }
    } else {
        evaluate(Php { path: &args.php, timeout: args.timeout }, &args.file).await?
    };
    for note in &found.notes {
        eprintln!("note: {}", print::clean(note));
    }
    let application = application(&found, &source, args.handler.as_deref())?;
    let text = application.text();
    let name = args.out.clone().unwrap_or_else(|| "plugsocket.toml".into());
    // What the rules of the config say of its names and sizes is not said here again.
    config::check_text(&name, &text).map_err(|error| refused(&error))?;
    match &args.out {
        Some(out) => write(out, &text, application.place.has_password, args.force)?,
        None => print::out(&text)?,
    }
    for line in steps(&application, args.out.as_deref()) {
        eprintln!("{line}");
    }
    Ok(())
}

fn is_input(file: &Path) -> bool {
    file.as_os_str() == "-"
}

/// The config's own rules, told as what they are: PHP's file is wrong, or our flag.
fn refused(error: &ConfigError) -> anyhow::Error {
    match error {
        ConfigError::File { key, reason, .. } if key == "server.handler" => UsageError(format!("--handler {reason}")).into(),
        _ => anyhow!("what was made of it would be refused; change it in PHP's file: {error}"),
    }
}

fn is_there(out: &Path) -> anyhow::Error {
    UsageError(format!("{} is there already, and was left as it is; --force overwrites it", out.display())).into()
}

/// What PHP found, understood.
fn application<'call>(found: &Found, source: &'call str, handler: Option<&'call str>) -> anyhow::Result<Application<'call>> {
    let package = Package::read(&found.websocket).with_context(|| source.to_owned())?;
    let connection = package.connection.as_deref().or(found.connection.as_str()).unwrap_or(CONNECTION);
    // The environment's names are of no connection in particular.
    let connection = if found.is_bootstrapped { connection } else { CONNECTION };
    let place = if found.redis.is_null() { Place::default() } else { queue_url::place(&found.redis, connection) };
    Ok(Application { package, place, source, handler })
}

/// The config as JSON.
fn read_json(input: impl io::Read) -> anyhow::Result<Value> {
    let mut text = String::new();
    input.take(INPUT_MAX + 1).read_to_string(&mut text).context("standard input")?;
    if text.len() as u64 > INPUT_MAX {
        return Err(anyhow!("standard input has more than {} KiB", INPUT_MAX / 1024));
    }
    if text.trim().is_empty() {
        return Err(anyhow!("standard input is empty: pipe in what `echo json_encode(config(\"websocket\"));` prints"));
    }
    serde_json::from_str(text.trim()).context("standard input is not the JSON of the config (json_encode(config(\"websocket\")))")
}

/// Readable by its owner only when there is a secret in it. A file that was there stays whole until the new one is.
fn write(out: &Path, text: &str, is_secret: bool, force: bool) -> anyhow::Result<()> {
    let mode = if is_secret { 0o600 } else { 0o644 };
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode);
    let put = |path: &Path| -> io::Result<()> {
        let mut file = options.open(path)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).inspect_err(|_| drop(fs::remove_file(path)))
    };
    if !force {
        return put(out).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => is_there(out),
            _ => anyhow::Error::from(error).context(format!("can't write {}", out.display())),
        });
    }
    let mut draft = out.as_os_str().to_owned();
    draft.push(format!(".{}.new", std::process::id()));
    let draft = PathBuf::from(draft);
    put(&draft)
        .and_then(|()| fs::rename(&draft, out).inspect_err(|_| drop(fs::remove_file(&draft))))
        .with_context(|| format!("can't write {}", out.display()))
}

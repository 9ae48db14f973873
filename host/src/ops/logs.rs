//! Logs on standard error, as text or JSON lines, their level changeable while the process runs.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::LogFormat;

/// Whether standard error has nothing but JSON lines.
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// Whether the log is JSON lines, so that nothing else may be written to standard error.
#[must_use]
pub fn is_json() -> bool {
    IS_JSON.load(Relaxed)
}

/// The running log.
#[derive(Clone)]
pub struct Logs {
    filter: reload::Handle<EnvFilter, Registry>,
}

/// Why a level can't be used.
#[derive(Debug, thiserror::Error)]
#[error("`{level}` is no log level or filter: {reason}; use error, warn, info, debug, trace, or `info,plugsocket::server=debug`")]
pub struct LevelError {
    level: String,
    reason: String,
}

impl Logs {
    /// Starts logging. Call once.
    ///
    /// # Errors
    /// [`LevelError`]
    pub fn start(level: &str, format: LogFormat) -> Result<Self, LevelError> {
        let (filter, handle) = reload::Layer::new(parse(level)?);
        let lines: Box<dyn Layer<_> + Send + Sync> = match format {
            LogFormat::Text => fmt::layer().with_writer(std::io::stderr).with_ansi(is_terminal()).boxed(),
            LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed(),
        };
        if format == LogFormat::Json && !IS_JSON.swap(true, Relaxed) {
            std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "a panic")));
        }
        // A second start (in tests) keeps the first subscriber.
        let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
        Ok(Self { filter: handle })
    }

    /// Changes the level from now on.
    ///
    /// # Errors
    /// [`LevelError`]: the level stays.
    pub fn set_level(&self, level: &str) -> Result<(), LevelError> {
        let filter = parse(level)?;
        self.filter.reload(filter).map_err(|error| LevelError { level: level.to_owned(), reason: error.to_string() })
    }
}

fn parse(level: &str) -> Result<EnvFilter, LevelError> {
    EnvFilter::builder().parse(level).map_err(|error| LevelError { level: level.to_owned(), reason: error.to_string() })
}

fn is_terminal() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stderr())
}

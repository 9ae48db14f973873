//! What the tests drive: processes, a private Redis, WebSocket clients, plugin builds and browser tabs. Every wait has an end.

pub mod app;
pub mod authority;
pub mod browser;
pub mod calm;
pub mod client;
pub mod config;
pub mod frames;
pub mod http;
pub mod load;
pub mod php;
pub mod plugin;
pub mod process;
pub mod procfs;
pub mod redis;
pub mod report;
pub mod sequence;
pub mod tool;

use std::io;
use std::time::Duration;

/// The default end of a wait: far more than anything takes, so that only a defect reaches it on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// The end of waiting for a process to start; many tests start theirs at the same time.
pub const START_PATIENCE: Duration = Duration::from_secs(60);

/// How long a load runs whose figures are of interest; longer with `PLUGSOCKET_LOAD_SECONDS`.
pub fn load_seconds() -> Duration {
    Duration::from_secs(number("PLUGSOCKET_LOAD_SECONDS").unwrap_or(5))
}

/// A number in the environment of the tests.
pub fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// Reads again after an interruption: sockets with a timeout report one when the machine was stopped and goes on.
pub fn uninterrupted<T>(mut read: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match read() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Waits until `condition` holds, looking again every few milliseconds.
///
/// # Panics
/// When it does not hold within `timeout`; `what` says what was waited for.
pub async fn eventually(what: &str, timeout: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let end = tokio::time::Instant::now() + timeout;
    while !condition().await {
        assert!(tokio::time::Instant::now() < end, "waited {timeout:?} in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

//! What a runner prints: line by line into the host's log, under the plugin's name.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::process::Child;
use tokio::time::{self, Instant};
use tokio_util::task::TaskTracker;

use super::RunnersOptions;

/// A longer line is cut into several.
const LINE_BYTES_MAX: u64 = 8 * 1024;
/// Whoever prints more than these in a second waits for the next one to be read on: the log is the host's, and its time as well.
const LINES_PER_SECOND_MAX: u32 = 1000;
const SECOND: Duration = Duration::from_secs(1);
/// Lines kept to be quoted when the runner ends.
const LINES_KEPT: usize = 3;

/// The last lines of a runner.
#[derive(Default)]
pub(super) struct Speech {
    lines: Mutex<VecDeque<String>>,
    readers: TaskTracker,
}

impl Speech {
    /// What it said last on its standard error, in one line; `nothing` when it said nothing.
    pub(super) fn last(&self) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.is_empty() { "nothing".to_owned() } else { lines.iter().map(String::as_str).collect::<Vec<_>>().join(" / ") }
    }

    /// Resolves when both streams have ended; processes that the plugin has started may hold them for ever.
    pub(super) async fn ended(&self) {
        self.readers.wait().await;
    }

    fn keep(&self, line: &str) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == LINES_KEPT {
            lines.pop_front();
        }
        lines.push_back(line.to_owned());
    }
}

/// Reads both streams of `child` from here on.
pub(super) fn listen(child: &mut Child, options: &RunnersOptions) -> Arc<Speech> {
    let speech = Arc::new(Speech::default());
    let id = child.id().unwrap_or_default();
    if let Some(stdout) = child.stdout.take() {
        let plugin = Arc::clone(&options.plugin);
        speech.readers.spawn(lines(stdout, move |line| tracing::info!(target: "plugin", %plugin, runner = id, "{line}")));
    }
    if let Some(stderr) = child.stderr.take() {
        let (plugin, kept) = (Arc::clone(&options.plugin), Arc::clone(&speech));
        speech.readers.spawn(lines(stderr, move |line| {
            kept.keep(line);
            tracing::warn!(target: "plugin", %plugin, runner = id, "{line}");
        }));
    }
    speech.readers.close();
    speech
}

async fn lines(stream: impl AsyncRead + Unpin, tell: impl Fn(&str)) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    let (mut since, mut told) = (Instant::now(), 0);
    // `take` bounds what one line may hold in memory.
    while matches!((&mut reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await, Ok(count) if count > 0) {
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end();
        if !text.is_empty() {
            tell(text);
            told += 1;
        }
        line.clear();
        if told == LINES_PER_SECOND_MAX {
            time::sleep_until(since + SECOND).await;
            (since, told) = (Instant::now(), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn a_flood_is_held_back_and_nothing_of_it_lost() {
        const LINES: u32 = LINES_PER_SECOND_MAX + 500;
        let (mut plugin, host) = tokio::io::duplex(1024);
        let told = AtomicU32::new(0);
        let begun = Instant::now();
        let print = async {
            for _ in 0..LINES {
                plugin.write_all(b"again\n").await.unwrap();
            }
            drop(plugin);
        };
        tokio::join!(
            print,
            lines(host, |_| {
                told.fetch_add(1, Ordering::Relaxed);
            })
        );
        assert_eq!(told.into_inner(), LINES);
        assert!(begun.elapsed() >= SECOND, "{:?}", begun.elapsed());
    }
}

//! Running `plugsocket` for one answer.

use serde_json::Value;

use super::START_PATIENCE;
use super::config::Config;
use super::process::Process;

/// What one run of `plugsocket` said: its exit code, and the lines of both its outputs.
pub struct Said {
    /// Its exit code.
    pub code: i32,
    /// What it wrote, standard error included.
    pub lines: Vec<String>,
}

impl Said {
    /// It succeeded.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.code_is(0)
    }

    /// It ended with this code.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn code_is(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{:#?}", self.lines);
        self
    }

    /// A line contains these words.
    ///
    /// # Panics
    /// When none does.
    #[track_caller]
    pub fn says(self, words: &str) -> Self {
        assert!(self.lines.iter().any(|line| line.contains(words)), "no {words:?} in {:#?}", self.lines);
        self
    }

    /// The JSON documents in it, one per line.
    ///
    /// # Panics
    /// When a line only looks like one.
    pub fn json(&self) -> Vec<Value> {
        self.lines.iter().filter(|line| line.starts_with(['{', '['])).map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Runs `plugsocket` with these arguments, split at blanks, on this config, and with nobody at its standard input.
///
/// # Panics
/// When it does not end.
pub fn run(config: &Config, args: &str) -> Said {
    let args: Vec<&str> = args.split_whitespace().chain(["--config", config.path()]).collect();
    let mut process = Process::tool(&args);
    let code = process.wait_exit(START_PATIENCE).code().unwrap();
    Said { code, lines: process.lines() }
}

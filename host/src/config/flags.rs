//! Flags that every binary has, and how they join with file and environment.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::live::Source;
use super::load::{Override, environment};

/// Shape of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Flags every binary has.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// The config file.
    #[arg(long, short, env = "PLUGSOCKET_CONFIG", default_value = "config/plugsocket.toml", value_name = "FILE")]
    pub config: PathBuf,
    /// Overrides a key of the config file; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_override)]
    pub set: Vec<Override>,
    /// Shape of the log lines on standard error.
    #[arg(long, value_enum, default_value = "text", value_name = "SHAPE")]
    pub log_format: LogFormat,
}

impl Common {
    /// How many threads the config asks for; one when it can't be read, which whoever reads it next tells of.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.source(Vec::new()).load().map_or(1, |settings| settings.threads)
    }

    /// The config file with what overrides it: `first`, then the environment, then flags.
    #[must_use]
    pub fn source(&self, first: Vec<Override>) -> Source {
        let overrides = first.into_iter().chain(environment(std::env::vars_os())).chain(self.set.iter().cloned());
        Source::new(self.config.clone(), overrides.collect())
    }
}

fn parse_override(text: &str) -> Result<Override, String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE, for example server.listen=127.0.0.1:9000")?;
    Ok(Override { source: format!("--set {key}"), key: key.trim().to_owned(), value: value.trim().to_owned() })
}

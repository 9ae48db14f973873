//! A private redis-server on a Unix socket, and `redis-benchmark` as the reference on it.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tempfile::TempDir;

use crate::wire::Wire;

const START_PATIENCE: Duration = Duration::from_secs(10);
/// Commands in one pipeline of the reference.
const PIPELINE: &str = "128";

/// Ends with the program.
pub struct Redis {
    child: Child,
    folder: TempDir,
}

/// What a reference did.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// Commands or jobs per second.
    pub rate: f64,
    /// Redis's CPU for each, in microseconds.
    pub redis_us: f64,
}

impl Redis {
    /// `settings` are like `stream-node-max-bytes=1024`.
    pub fn start(settings: &[String]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let socket = folder.path().join("redis.sock");
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--daemonize", "no", "--maxclients", "500", "--unixsocket"])
            .arg(&socket)
            .arg("--dir")
            .arg(folder.path())
            .args(
                settings
                    .iter()
                    .filter_map(|setting| setting.split_once('='))
                    .flat_map(|(name, value)| [format!("--{name}"), value.to_owned()]),
            )
            .stdout(Stdio::null())
            .spawn()
            .context("redis-server must be installed (7.0 or newer)")?;
        let redis = Self { child, folder };
        let started = Instant::now();
        while redis.wire().and_then(|mut wire| wire.call(&[b"PING"])).is_err() {
            ensure!(started.elapsed() < START_PATIENCE, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(redis)
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    pub fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    pub fn wire(&self) -> anyhow::Result<Wire> {
        Wire::connect(&self.socket())
    }

    /// Empties it.
    pub fn flush(&self) -> anyhow::Result<()> {
        self.wire()?.call(&[b"FLUSHALL", b"SYNC"]).map(drop)
    }

    pub fn version(&self) -> anyhow::Result<String> {
        let info = self.wire()?.call(&[b"INFO", b"server"])?;
        Ok(info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or("unknown").to_owned())
    }

    /// One number of INFO.
    pub fn info(&self, section: &str, name: &str) -> anyhow::Result<f64> {
        let info = self.wire()?.call(&[b"INFO", section.as_bytes()])?;
        let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Ok(value.with_context(|| format!("INFO {section} without {name}"))?.trim().parse()?)
    }

    /// How often each of these commands was called, and the microseconds that took.
    pub fn calls(&self, commands: &[&str]) -> anyhow::Result<Vec<(f64, f64)>> {
        let info = self.wire()?.call(&[b"INFO", b"commandstats"])?;
        let of = |command: &&str| {
            let line = info.lines().find_map(|line| line.strip_prefix("cmdstat_")?.strip_prefix(*command)?.strip_prefix(':')).unwrap_or("");
            let number = |name: &str| line.split(',').find_map(|part| part.strip_prefix(name)?.parse().ok()).unwrap_or(0.0);
            (number("calls="), number("usec="))
        };
        Ok(commands.iter().map(of).collect())
    }

    /// CPU that its main thread has used, in microseconds.
    pub fn cpu_us(&self) -> anyhow::Result<f64> {
        let user = self.info("cpu", "used_cpu_user_main_thread").or_else(|_| self.info("cpu", "used_cpu_user"))?;
        let system = self.info("cpu", "used_cpu_sys_main_thread").or_else(|_| self.info("cpu", "used_cpu_sys"))?;
        Ok((user + system) * 1e6)
    }

    /// `redis-benchmark -P 128` with this command, `count` times.
    pub fn benchmark(&self, count: usize, command: &[&[u8]]) -> anyhow::Result<Measured> {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;

        let before = self.cpu_us()?;
        let output = Command::new("redis-benchmark")
            .arg("-s")
            .arg(self.socket())
            .args(["-P", PIPELINE, "--csv", "-n", &count.to_string()])
            .args(command.iter().map(|argument| OsStr::from_bytes(argument)))
            .output()
            .context("redis-benchmark must be installed (package redis-tools)")?;
        let redis_us = (self.cpu_us()? - before) / per(count);
        ensure!(output.status.success(), "redis-benchmark failed: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout);
        // "test","rps","avg_latency_ms","min","p50","p95","p99","max"; the test's name may hold anything.
        let rate = text.lines().last().and_then(|line| line.rsplit("\",\"").nth(6)).and_then(|rate| rate.parse().ok());
        Ok(Measured { rate: rate.with_context(|| format!("redis-benchmark said: {text}"))?, redis_us })
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A count to divide by.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
pub fn per(count: usize) -> f64 {
    count.max(1) as f64
}

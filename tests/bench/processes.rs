//! CPU of other processes, and who they are: Linux only, as `/proc` is.

use std::fs;

/// The hidden argument that makes a runner of a host's executable.
const RUNNER: &str = "__run-plugin";

/// CPU that a process has used in the threads it still has, in microseconds; 0 when it is gone.
pub fn cpu_us(pid: u32) -> f64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0.0 };
    let of_thread = |path: std::path::PathBuf| {
        let text = fs::read_to_string(path.join("schedstat")).unwrap_or_default();
        text.split_whitespace().next().and_then(|nanoseconds| nanoseconds.parse::<f64>().ok()).unwrap_or(0.0)
    };
    threads.flatten().map(|thread| of_thread(thread.path())).sum::<f64>() / 1e3
}

/// The runners that a process has started.
pub fn runners(host: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| parent(*pid) == Some(host) && is_runner(*pid)).collect()
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn is_runner(pid: u32) -> bool {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    arguments.split(|byte| *byte == 0).any(|argument| argument == RUNNER.as_bytes())
}

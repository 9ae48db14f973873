//! What the kernel knows of processes: their children, memory, descriptors and environment. Linux only, as `/proc` is.

use std::fs;
use std::path::PathBuf;

/// The hidden argument that makes a runner of a host's executable.
const RUNNER: &str = "__run-plugin";

/// The processes that `parent` has started and not yet waited for.
///
/// # Panics
/// When `/proc` can't be read.
pub fn children(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

/// Fields of `/proc/<pid>/stat` from the third (the state) on; empty when there is no such process.
fn stat(pid: u32) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before them may hold anything, spaces and brackets too.
    text.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().map(str::to_owned).collect()).unwrap_or_default()
}

fn parent_of(pid: u32) -> Option<u32> {
    stat(pid).get(1)?.parse().ok()
}

/// Whether this process runs: neither gone nor only waiting to be waited for.
pub fn is_running(pid: u32) -> bool {
    stat(pid).first().is_some_and(|state| state != "Z" && state != "X")
}

/// CPU that a process has used, its own and of no child, in microseconds.
pub fn cpu_us(pid: u32) -> u64 {
    // In ticks of 1/100 s on every Linux that matters.
    stat(pid).iter().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * 10_000
}

/// The arguments of a process.
pub fn arguments(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.split(|byte| *byte == 0).map(|argument| String::from_utf8_lossy(argument).into_owned()).collect()
}

/// The runners that a host has of a plugin.
pub fn runners(host: u32, plugin: &str) -> Vec<u32> {
    let is_runner = |pid: &u32| {
        let arguments = arguments(*pid);
        arguments.iter().any(|argument| argument == RUNNER) && arguments.iter().any(|argument| argument.contains(plugin))
    };
    children(host).into_iter().filter(is_runner).collect()
}

/// What the descriptors of a process are, by number.
pub fn descriptors(pid: u32) -> Vec<(u32, PathBuf)> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let numbers =
        entries.flatten().filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, fs::read_link(entry.path()).ok()?)));
    let mut all: Vec<_> = numbers.collect();
    all.sort();
    all
}

/// The environment a process was started with: `NAME=value` each.
pub fn environment(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    bytes.split(|byte| *byte == 0).map(|entry| String::from_utf8_lossy(entry).into_owned()).filter(|entry| !entry.is_empty()).collect()
}

/// The memory a process has resident, in KiB; 0 when it has ended.
pub fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches("kB").trim().parse().unwrap_or(0)
}

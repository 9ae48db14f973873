//! CPU and memory of processes, and what else the machine did meanwhile, from `/proc`.

use std::collections::HashMap;
use std::fs;

use anyhow::Context;

use crate::clock;

/// Of `/proc`'s clock; the same on every Linux.
const TICK_NS: u64 = 10_000_000;
/// By so much the exact sum over threads may be behind the rounded one before threads must have ended.
const ROUNDING_NS: u64 = 3 * TICK_NS;

/// CPU of each thread of a process, and of all that ever were, in nanoseconds.
struct Cpu {
    threads: HashMap<u32, u64>,
    rounded: u64,
}

impl Cpu {
    fn read(pid: u32) -> Self {
        let of_thread = |entry: fs::DirEntry| {
            let text = fs::read_to_string(entry.path().join("schedstat")).ok()?;
            Some((entry.file_name().to_str()?.parse().ok()?, text.split_whitespace().next()?.parse().ok()?))
        };
        let entries = fs::read_dir(format!("/proc/{pid}/task"));
        let threads = entries.into_iter().flatten().flatten().filter_map(of_thread).collect();
        let of_process = || {
            let fields = stat(pid)?;
            let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
            Some((ticks(11)? + ticks(12)?) * TICK_NS)
        };
        Self { threads, rounded: of_process().unwrap_or(0) }
    }

    /// What was used since `before`: exact, unless a thread ended meanwhile; then to a few hundredths of a second.
    fn since(&self, before: &Self) -> u64 {
        let exact = self.threads.iter().map(|(thread, used)| used.saturating_sub(before.threads.get(thread).copied().unwrap_or(0))).sum();
        let rounded = self.rounded.saturating_sub(before.rounded);
        if rounded > exact + ROUNDING_NS { rounded } else { exact }
    }
}

/// The fields of `/proc/PID/stat` from the state on.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

/// All processes that descend from `pid`: runners, whatever they are called.
pub fn descendants(pid: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parents: Vec<(u32, u32)> = pids.filter_map(|pid| Some((pid, stat(pid)?.get(1)?.parse().ok()?))).collect();
    let mut found = Vec::new();
    let mut looked_at = vec![pid];
    while let Some(parent) = looked_at.pop() {
        let children: Vec<u32> = parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid).collect();
        looked_at.extend(&children);
        found.extend(children);
    }
    found
}

/// A number of `/proc/PID/status` such as `VmRSS`, in bytes; 0 when the process is gone.
pub fn memory(pid: u32, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    value.unwrap_or(0) * 1024
}

/// Which processes of those that are measured something belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    Server,
    Worker,
    Runners,
    Redis,
}

/// Processes that count, by group.
#[derive(Default, Clone)]
pub struct Measured(pub Vec<(Group, u32)>);

impl Measured {
    pub fn pids(&self, group: Group) -> impl Iterator<Item = u32> {
        self.0.iter().filter(move |(of, _)| *of == group).map(|(_, pid)| *pid)
    }

    /// Peak memory of a group together, in bytes.
    pub fn peak(&self, group: Group) -> u64 {
        self.pids(group).map(|pid| memory(pid, "VmHWM")).sum()
    }
}

/// The beginning of a window.
pub struct Start {
    measured: Measured,
    cpu: Vec<Cpu>,
    own: u64,
    idle: u64,
    at: u64,
}

/// What a window used, in nanoseconds.
pub struct Used {
    groups: Vec<(Group, u64)>,
    pub own: u64,
    pub elapsed: u64,
    /// Share of the machine that something else used.
    pub others: f64,
}

impl Start {
    pub fn now(measured: &Measured) -> anyhow::Result<Self> {
        let cpu = measured.0.iter().map(|(_, pid)| Cpu::read(*pid)).collect();
        Ok(Self { measured: measured.clone(), cpu, own: clock::own_cpu(), idle: idle()?, at: clock::now() })
    }

    pub fn end(&self) -> anyhow::Result<Used> {
        let (elapsed, own) = (clock::now() - self.at, clock::own_cpu() - self.own);
        let idle = idle()?.saturating_sub(self.idle);
        let used = |((group, pid), before): (&(Group, u32), &Cpu)| (*group, Cpu::read(*pid).since(before));
        let groups: Vec<_> = self.measured.0.iter().zip(&self.cpu).map(used).collect();
        let ours = own + groups.iter().map(|(_, used)| used).sum::<u64>();
        let capacity = elapsed as f64 * std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let others = ((capacity - idle as f64 - ours as f64) / capacity).max(0.0);
        Ok(Used { groups, own, elapsed, others })
    }
}

impl Used {
    pub fn group(&self, group: Group) -> u64 {
        self.groups.iter().filter(|(of, _)| *of == group).map(|(_, used)| used).sum()
    }

    /// All that is measured, without the generator.
    pub fn all(&self) -> u64 {
        self.groups.iter().map(|(_, used)| used).sum()
    }
}

/// How long all processors together had nothing to do.
fn idle() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/stat").context("/proc/stat: this needs Linux")?;
    let first = text.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<u64> = first.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    Ok((ticks.get(3).copied().unwrap_or(0) + ticks.get(4).copied().unwrap_or(0)) * TICK_NS)
}

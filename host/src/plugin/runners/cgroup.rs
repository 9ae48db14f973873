//! Memory limits that count everything: a control group for each runner, where the system lets us make one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use tokio::task::JoinHandle;

/// Groups of ours begin with it; behind it the host's process id and the runner's.
const PREFIX: &str = "plugsocket-";

/// Where this process may make groups; `None` when nowhere.
static HOME: LazyLock<Option<Home>> = LazyLock::new(|| {
    let home = Home::find(Path::new("/sys/fs/cgroup"), &fs::read_to_string("/proc/self/cgroup").ok()?);
    if let Some(home) = &home {
        home.remove_leftovers();
    }
    tracing::debug!(?home, "control groups for the memory of runners");
    home
});

/// A folder in which groups with a memory limit can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Home {
    folder: PathBuf,
    /// The file that takes the limit.
    limit: &'static str,
}

/// One runner's group; removed when dropped, which must be after the runner's end.
#[derive(Debug)]
struct Group {
    folder: PathBuf,
}

/// A process that is being put into a group of its own: the kernel takes some milliseconds for it, and nobody waits for them. What the
/// process has used by then counts where it came from.
pub(super) struct Confined(JoinHandle<Option<Group>>);

impl Confined {
    /// For a process that has just started. Where the system has no group for us only the process's own limit holds.
    pub(super) fn begin(process: u32, bytes_max: u64) -> Self {
        Self(tokio::task::spawn_blocking(move || confine(process, bytes_max)))
    }

    /// Removes the group; the process must have ended.
    pub(super) async fn end(self) {
        if let Ok(Some(group)) = self.0.await {
            let _ = tokio::task::spawn_blocking(move || drop(group)).await;
        }
    }
}

fn confine(process: u32, bytes_max: u64) -> Option<Group> {
    let home = HOME.as_ref().filter(|_| bytes_max > 0 && process > 0)?;
    home.make(process, bytes_max).inspect_err(|error| tracing::debug!(process, %error, "no control group for a runner")).ok()
}

impl Home {
    /// Looks where this process is. Version 2: beside it or below it, where the memory controller can be handed on, which it can't be in a
    /// folder with processes in it. Version 1: below it.
    fn find(root: &Path, groups: &str) -> Option<Self> {
        let mut lines = groups.lines().filter_map(|line| {
            let (_, rest) = line.split_once(':')?;
            rest.split_once(':')
        });
        if let Some((_, path)) = lines.clone().find(|(controllers, _)| controllers.split(',').any(|name| name == "memory")) {
            let folder = root.join("memory").join(path.trim_start_matches('/'));
            return Self { folder, limit: "memory.limit_in_bytes" }.if_usable();
        }
        let (_, path) = lines.find(|(controllers, _)| controllers.is_empty())?;
        let own = root.join(path.trim_start_matches('/'));
        // A service manager that delegates puts the service into a folder of its own below what it delegates.
        let places = [Some(own.as_path()), own.parent().filter(|parent| parent.starts_with(root) && *parent != root)];
        places.into_iter().flatten().find_map(|folder| {
            let home = Self { folder: folder.to_owned(), limit: "memory.max" };
            let handed_on = folder.join("cgroup.subtree_control");
            let has_memory = || fs::read_to_string(&handed_on).is_ok_and(|names| names.split_whitespace().any(|name| name == "memory"));
            if !has_memory() {
                fs::write(&handed_on, "+memory").ok()?;
            }
            has_memory().then_some(home)?.if_usable()
        })
    }

    /// Tries it out.
    fn if_usable(self) -> Option<Self> {
        let trial = self.folder.join(format!("{PREFIX}{}-trial", std::process::id()));
        fs::create_dir(&trial).ok()?;
        let is_usable = trial.join(self.limit).exists();
        let _ = fs::remove_dir(&trial);
        is_usable.then_some(self)
    }

    fn make(&self, process: u32, bytes_max: u64) -> io::Result<Group> {
        self.remove_leftovers();
        let folder = self.folder.join(format!("{PREFIX}{}-{process}", std::process::id()));
        fs::create_dir(&folder)?;
        let group = Group { folder };
        fs::write(group.folder.join(self.limit), bytes_max.to_string())?;
        // With version 2 what the plugin has started goes with it; version 1 has no such thing.
        let _ = fs::write(group.folder.join("memory.oom.group"), "1");
        fs::write(group.folder.join("cgroup.procs"), process.to_string())?;
        Ok(group)
    }

    /// Groups of hosts that were killed, and of our own runners that were still ending when their group was let go.
    fn remove_leftovers(&self) {
        let is_gone = |process: u32| !Path::new("/proc").join(process.to_string()).exists();
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some((host, runner)) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split_once('-')) else { continue };
            let Ok(host) = host.parse::<u32>() else { continue };
            if is_gone(host) || (host == std::process::id() && runner.parse().is_ok_and(is_gone)) {
                let _ = fs::remove_dir(entry.path()); // Refused while something lives in it.
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::write(self.folder.join("cgroup.kill"), "1");
        if let Err(error) = fs::remove_dir(&self.folder) {
            tracing::debug!(group = %self.folder.display(), %error, "a control group is left until the next start");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_hands_the_memory_controller_on_beside_or_below() {
        let root = tempfile::tempdir().unwrap();
        let (service, host) = (root.path().join("plugsocket.service"), root.path().join("plugsocket.service/host"));
        fs::create_dir_all(&host).unwrap();
        let find = || Home::find(root.path(), "0::/plugsocket.service/host\n");
        assert_eq!(find(), None, "nothing can be handed on, and no group has a limit");
        fs::write(service.join("cgroup.subtree_control"), "cpu memory\n").unwrap();
        assert_eq!(find(), None, "a folder is made and has no limit: this is no real one");
    }

    #[test]
    fn groups_that_were_left_behind_are_removed() {
        let root = tempfile::tempdir().unwrap();
        let (own, gone) = (std::process::id(), u32::MAX);
        let names = [format!("{gone}-7"), format!("{own}-{gone}"), format!("{own}-{own}"), format!("{own}-trial")];
        let folders = names.map(|name| root.path().join(format!("{PREFIX}{name}")));
        folders.iter().for_each(|folder| fs::create_dir(folder).unwrap());
        Home { folder: root.path().to_owned(), limit: "memory.max" }.remove_leftovers();
        assert_eq!(folders.each_ref().map(|folder| folder.exists()), [false, false, true, true]);
    }

    #[test]
    fn a_process_without_groups_has_no_home() {
        assert_eq!(Home::find(Path::new("/nowhere"), ""), None);
        assert_eq!(Home::find(Path::new("/nowhere"), "4:memory:/a\n0::/\n"), None);
    }
}

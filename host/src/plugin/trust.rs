//! Whether anybody else could put code into this process: who owns, and who may write, what plugins come from.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

use super::error::PluginError;

const ROOT: u32 = 0;
const WRITABLE_BY_OTHERS: u32 = 0o022;
const STICKY: u32 = 0o1000;
/// What `state_dir` holds.
const OWN_FOLDERS: [&str; 2] = ["plugins", "control"];

/// What is done about a file or folder that others could change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Trust {
    /// It is refused.
    #[default]
    Enforced,
    /// It is used, and told: for a developer's own machine.
    Warned,
}

impl Trust {
    /// Lets a distrust pass as a warning where only that is wanted.
    pub(super) fn judge(self, checked: Result<(), PluginError>) -> Result<(), PluginError> {
        match checked {
            Err(PluginError::Untrusted(text)) if self == Self::Warned => {
                tracing::warn!("{text} (only warned of here: plugsocket-server and plugsocket-worker refuse it)");
                Ok(())
            }
            checked => checked,
        }
    }

    /// Makes `plugins_dir` and `state_dir` where they are absent, and checks them with all their parents.
    ///
    /// # Errors
    /// [`PluginError::Untrusted`] with the command that mends it; [`PluginError::Files`]
    pub fn check_folders(self, plugins_dir: &Path, state_dir: &Path) -> Result<(), PluginError> {
        make_folder(plugins_dir, 0o755)?;
        make_folder(state_dir, 0o700)?;
        let real = |folder: &Path| folder.canonicalize().ok();
        if let Some(taken) =
            OWN_FOLDERS.map(|name| state_dir.join(name)).iter().find(|own| real(own).is_some() && real(own) == real(plugins_dir))
        {
            return Err(PluginError::Untrusted(format!(
                "{} can't be plugins_dir: state_dir {} keeps files of its own there, closed to others; choose another state_dir, such as \"var\"",
                taken.display(),
                state_dir.display()
            )));
        }
        self.judge(check_folder(plugins_dir))?;
        self.judge(check_own_folder(state_dir))
    }

    /// Opens a file for reading when nobody else can change or replace it. Links are followed first, then nothing is: what is checked is
    /// what is read.
    ///
    /// # Errors
    /// [`PluginError::Untrusted`], [`PluginError::Files`], [`PluginError::NotLoadable`] when it is no file.
    pub(super) fn open(self, path: &Path) -> Result<File, PluginError> {
        let real = path.canonicalize().map_err(PluginError::files("open", path))?;
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed(); // A pipe by that name must not hold us up.
        let file = OpenOptions::new().read(true).custom_flags(flags).open(&real).map_err(PluginError::files("open", path))?;
        let metadata = file.metadata().map_err(PluginError::files("read", path))?;
        if !metadata.is_file() {
            return Err(PluginError::NotLoadable("not a regular file".to_owned()));
        }
        self.judge(judge(&real, &metadata, Kind::File))?;
        for folder in [path.parent(), real.parent()].into_iter().flatten() {
            self.judge(check_folder(folder))?;
        }
        Ok(file)
    }
}

/// What stands at a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    /// What plugins are taken from.
    Folder,
    /// Our own, where nobody else writes.
    OwnFolder,
    /// Above one of these: a sticky one lets others make entries, but not replace ours.
    Parent,
}

/// Checks a folder that is there, and its parents.
///
/// # Errors
/// [`PluginError::Untrusted`], [`PluginError::Files`]
pub(super) fn check_folder(folder: &Path) -> Result<(), PluginError> {
    check_way(folder, Kind::Folder)
}

fn check_own_folder(folder: &Path) -> Result<(), PluginError> {
    check_way(folder, Kind::OwnFolder)
}

fn check_way(folder: &Path, kind: Kind) -> Result<(), PluginError> {
    // The parent of a bare file name has none.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let real = folder.canonicalize().map_err(PluginError::files("look at the folder", folder))?;
    for (place, kind) in real.ancestors().zip(std::iter::once(kind).chain(std::iter::repeat(Kind::Parent))) {
        let metadata = fs::symlink_metadata(place).map_err(PluginError::files("look at", place))?;
        judge(place, &metadata, kind)?;
    }
    Ok(())
}

fn judge(path: &Path, metadata: &Metadata, kind: Kind) -> Result<(), PluginError> {
    judge_as(rustix::process::geteuid().as_raw(), path, metadata, kind)
}

/// Whether `metadata` may be relied on by a process of the user `own`.
fn judge_as(own: u32, path: &Path, metadata: &Metadata, kind: Kind) -> Result<(), PluginError> {
    let (shown, mode, owner) = (path.display(), metadata.mode() & 0o7777, metadata.uid());
    if owner != own && (owner != ROOT || kind == Kind::OwnFolder) {
        let or_root = if own == ROOT || kind == Kind::OwnFolder { "" } else { " or root" };
        return Err(PluginError::Untrusted(format!(
            "{shown} belongs to user {owner} (mode {mode:04o}), who could put code into this process, which runs as user {own}; it must belong to user {own}{or_root}: chown {own} {shown}"
        )));
    }
    let is_shared = kind == Kind::Parent && mode & STICKY != 0;
    if mode & WRITABLE_BY_OTHERS != 0 && !is_shared {
        return Err(PluginError::Untrusted(format!(
            "{shown} can be written by others (mode {mode:04o}, owner {owner}), who could put code into this process: chmod go-w {shown}"
        )));
    }
    Ok(())
}

fn make_folder(folder: &Path, mode: u32) -> Result<(), PluginError> {
    DirBuilder::new().recursive(true).mode(mode).create(folder).map_err(PluginError::files("make the folder", folder))
}

/// Makes a folder that is only ours (mode 0700), or closes the one that is there.
///
/// # Errors
/// [`PluginError::Untrusted`] when it is somebody else's or a link, [`PluginError::Files`]
pub fn private_folder(folder: &Path) -> Result<(), PluginError> {
    make_folder(folder, 0o700)?;
    let look = || fs::symlink_metadata(folder).map_err(PluginError::files("look at", folder));
    let metadata = look()?;
    let own = rustix::process::geteuid().as_raw();
    if !metadata.is_dir() || metadata.uid() != own {
        return Err(PluginError::Untrusted(format!(
            "{} must be a folder of user {own} (it belongs to user {}, mode {:04o}): move it away",
            folder.display(),
            metadata.uid(),
            metadata.mode() & 0o7777
        )));
    }
    if metadata.mode() & 0o7777 != 0o700 {
        fs::set_permissions(folder, Permissions::from_mode(0o700)).map_err(PluginError::files("close to others", folder))?;
    }
    Ok(())
}

/// Writes a whole file or nothing, readable by all and writable by us.
///
/// # Errors
/// What the system refuses.
pub(super) fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write as _;
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}.new", std::process::id()));
    let draft = Path::new(&draft);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(draft, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(draft);
    }
    written
}

#[cfg(test)]
mod tests;

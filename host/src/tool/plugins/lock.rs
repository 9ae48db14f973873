//! `plugsocket plugins lock`: writes `plugins.lock`, the builds that may be loaded.

use anyhow::bail;
use clap::Args;

use super::super::check::{subjects, try_out};
use super::super::print;
use crate::config::Common;
use crate::plugin::{Checker, Launcher, Lock, PluginError, Trust, sha256_of};

/// Flags of `plugins lock`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  plugsocket plugins lock                     # the builds that are in the plugins folder now, and no others
  plugsocket plugins lock --add               # these too; earlier ones stay allowed, for a way back

Writes the file that `plugins_lock` names (plugins.lock beside the config file), when no library would be refused. While that file
exists, nothing else is loaded; delete it to load everything again. A checksum is not a sandbox: it says which build runs, not that it does no harm.")]
pub(super) struct LockArgs {
    #[command(flatten)]
    common: Common,
    /// Keeps what the file lists already.
    #[arg(long)]
    add: bool,
}

pub(super) async fn run(args: LockArgs) -> anyhow::Result<()> {
    let settings = args.common.source(Vec::new()).load()?;
    let checker = Checker::new(Launcher::own_executable()?);
    let before = if args.add { Lock::read(&settings.plugins_lock, Trust::Warned)? } else { None };
    let (mut lock, mut listed, mut refused) = (before.unwrap_or_default(), Vec::new(), 0);
    for subject in subjects(&settings, Vec::new()) {
        let path = match &subject.path {
            Ok(path) => path,
            Err(error @ PluginError::Missing { .. }) => {
                print::out(&format!("{}: not listed: {error}\n", subject.name))?;
                continue;
            }
            Err(error) => bail!("{}: {error}", subject.name),
        };
        let sha256 = sha256_of(path)?;
        let tried = try_out(&checker, &settings, &subject).await;
        match tried {
            Err(error) => {
                refused += 1;
                print::out(&format!("{}: refused: {error:#}\n", subject.name))?;
            }
            Ok(_) if sha256_of(path)? != sha256 => bail!("{} changed meanwhile: run this again when it is at rest", path.display()),
            Ok(_) => {
                lock.allow(&subject.name, &sha256);
                listed.push(format!("{}: {sha256}\n", subject.name));
            }
        }
    }
    let path = settings.plugins_lock.display();
    if refused > 0 {
        bail!("{refused} would be refused: {path} was not written");
    }
    if listed.is_empty() {
        bail!("none of the config's plugins is in {}: {path} was not written", settings.plugins_dir.display());
    }
    lock.write(&settings.plugins_lock)?;
    Ok(print::out(&format!("{}{path}: written{}\n", listed.concat(), if args.add { ", earlier builds kept" } else { "" }))?)
}

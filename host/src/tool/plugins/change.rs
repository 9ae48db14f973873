//! `plugsocket plugins reload`, `rollback` and `retry`: each in every process that it concerns.

use std::collections::BTreeSet;

use anyhow::bail;
use clap::Args;

use super::super::print;
use super::peers::{self, Peer, Plugin, Said, Version};
use crate::config::Common;
use crate::plugin::ControlRequest;
use crate::tool::reach::UsageError;

/// Fewer characters of a sha256 would soon name several builds.
const SHA256_CHARS_MIN: usize = 6;
/// States from which a version can be tried again.
const REFUSED: [&str; 2] = ["rejected", "rolled_back"];
/// States in which it needs no second try.
const SERVING: [&str; 2] = ["current", "probation"];

/// Flags of `plugins reload`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  plugsocket plugins reload                   # under reload = \"manual\": after a new library was put in place

A line for each process when it is done. A library that is refused is no failure of this command: see `plugsocket plugins list`.")]
pub(super) struct ReloadArgs {
    #[command(flatten)]
    common: Common,
}

/// Flags of `plugins rollback`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  plugsocket plugins rollback chat            # in every process that has the plugin")]
pub(super) struct RollbackArgs {
    #[command(flatten)]
    common: Common,
    /// The plugin.
    name: String,
}

/// Flags of `plugins retry`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  plugsocket plugins retry 3f9a0c21b7de       # as `plugsocket plugins list` shows it, or in full")]
pub(super) struct RetryArgs {
    #[command(flatten)]
    common: Common,
    /// sha256 of the library's file, or its first characters.
    sha256: String,
}

pub(super) async fn reload(args: ReloadArgs) -> anyhow::Result<()> {
    report(peers::ask_all(&peers::state_dir(&args.common)?, &ControlRequest::Reload).await?)
}

pub(super) async fn rollback(args: RollbackArgs) -> anyhow::Result<()> {
    let (found, silent) = look(&args.common).await?;
    let names: BTreeSet<_> = found.iter().flat_map(|(_, plugins)| plugins).map(|plugin| plugin.name.clone()).collect();
    let has_it = |plugins: &[Plugin]| plugins.iter().any(|plugin| plugin.name == args.name);
    let request = ControlRequest::Rollback { plugin: args.name.clone() };
    let questions: Vec<_> = found.into_iter().filter(|(_, plugins)| has_it(plugins)).map(|(peer, _)| (peer, request.clone())).collect();
    if questions.is_empty() && silent.is_empty() {
        bail!("no process has a plugin `{}`; they have: {}", args.name, names.into_iter().collect::<Vec<_>>().join(", "));
    }
    report(peers::ask_each(questions).await.into_iter().chain(silent).collect())
}

pub(super) async fn retry(args: RetryArgs) -> anyhow::Result<()> {
    let wanted = args.sha256.to_ascii_lowercase();
    if !(SHA256_CHARS_MIN..=64).contains(&wanted.len()) || !wanted.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let text = format!("`{}` is no sha256: {SHA256_CHARS_MIN} to 64 of the characters 0-9 a-f", args.sha256);
        return Err(UsageError(text).into());
    }
    let (found, silent) = look(&args.common).await?;
    let (mut questions, mut builds, mut said) = (Vec::new(), BTreeSet::new(), silent);
    for (peer, plugins) in found {
        let is_meant = |version: &&Version| version.sha256.starts_with(&wanted) || version.version.starts_with(&wanted);
        let versions: Vec<_> = plugins.iter().flat_map(|plugin| &plugin.versions).filter(is_meant).collect();
        builds.extend(versions.iter().map(|version| version.sha256.clone()));
        let is_serving = |version: &&Version| SERVING.contains(&version.state.as_str());
        if versions.iter().any(|version| REFUSED.contains(&version.state.as_str())) {
            questions.push((peer, ControlRequest::Retry { sha256: wanted.clone() }));
        } else if versions.iter().any(is_serving) {
            said.push((peer, Ok("serves it already".into())));
        }
    }
    if builds.len() > 1 {
        let builds: Vec<_> = builds.into_iter().collect();
        return Err(UsageError(format!("`{wanted}` begins several builds, give more of it: {}", builds.join(", "))).into());
    }
    if questions.is_empty() && said.is_empty() {
        bail!("no process has refused a build whose sha256 begins with `{wanted}`: see `plugsocket plugins list`");
    }
    said.extend(peers::ask_each(questions).await);
    report(said)
}

type Looked = (Vec<(Peer, Vec<Plugin>)>, Vec<(Peer, Said)>);

/// What each process has, and those that do not say.
async fn look(common: &Common) -> anyhow::Result<Looked> {
    let (mut found, mut silent) = (Vec::new(), Vec::new());
    for (peer, said) in peers::ask_all(&peers::state_dir(common)?, &ControlRequest::List).await? {
        match said.and_then(|told| peers::plugins(&told)) {
            Ok(plugins) => found.push((peer, plugins)),
            Err(error) => silent.push((peer, Err(error))),
        }
    }
    Ok((found, silent))
}

/// A line for each process; an error when one failed.
fn report(said: Vec<(Peer, Said)>) -> anyhow::Result<()> {
    let all = said.len();
    let mut failed = 0;
    for (peer, said) in said {
        let text = match said {
            Ok(told) => told.as_str().unwrap_or("done").to_owned(),
            Err(reason) => {
                failed += 1;
                format!("failed: {reason}")
            }
        };
        print::out(&format!("{}: {}\n", peer.name, print::clean(&text)))?;
    }
    if failed > 0 {
        bail!("{failed} of {all} processes failed");
    }
    Ok(())
}

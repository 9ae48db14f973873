//! `plugsocket check`: the config file and every plugin in it, tried as a reload would, without serving anybody.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use plugsocket_plugin::call::Role;

use crate::config::Common;
use crate::config::Settings;
use crate::plugin::{Checker, PluginError, inspect, library_path};

/// Flags of `check`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  plugsocket check                                   # the config file and the plugins it names
  plugsocket check target/release/libhello.so        # a library before it is installed

Exit codes: 0 all well, 1 a plugin would be refused, 2 the config is wrong.")]
pub struct CheckArgs {
    #[command(flatten)]
    common: Common,
    /// Libraries to check instead of those the config names.
    #[arg(value_name = "LIBRARY")]
    libraries: Vec<PathBuf>,
}

/// Checks and prints a line for each plugin.
///
/// # Errors
/// A bad config, or at least one plugin that would be refused.
pub async fn check(args: CheckArgs) -> anyhow::Result<()> {
    let settings = args.common.source(Vec::new()).load()?;
    println!("{}: ok, {} actions", args.common.config.display(), settings.actions.len());
    let checker = Checker::own_executable()?;
    let mut refused = 0;
    for Subject { name, role, path } in subjects(&settings, args.libraries) {
        let path = match path {
            Ok(path) => path,
            Err(error) => {
                refused += 1;
                println!("{name}: {error}");
                continue;
            }
        };
        let config = settings.plugins.get(&name).map(|plugin| plugin.config.clone()).unwrap_or_default();
        let config = serde_json::to_value(config)?.as_object().cloned().unwrap_or_default();
        let checked = match inspect(&path) {
            Ok(_) => checker.check(&path, &[role], &config).await,
            Err(error) => Err(error),
        };
        match checked {
            Ok(manifest) => {
                println!(
                    "{}: ok as {role:?}: {} {}, actions: {}",
                    path.display(),
                    manifest.name,
                    manifest.version,
                    manifest.actions.join(", ")
                );
            }
            Err(error) => {
                refused += 1;
                println!("{}: refused as {role:?}: {error}", path.display());
            }
        }
    }
    if refused > 0 {
        bail!("{refused} would be refused");
    }
    Ok(())
}

/// One library in one role.
struct Subject {
    name: String,
    role: Role,
    path: Result<PathBuf, PluginError>,
}

fn subjects(settings: &Settings, libraries: Vec<PathBuf>) -> Vec<Subject> {
    let by_path = |path: PathBuf| {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        Subject { name: stem.strip_prefix("lib").unwrap_or(&stem).to_owned(), role: Role::Actions, path: Ok(path) }
    };
    if !libraries.is_empty() {
        return libraries.into_iter().map(by_path).collect();
    }
    let actions: BTreeSet<_> = settings.actions.values().map(|action| &action.plugin).collect();
    let actions = actions.into_iter().map(|name| (name, Role::Actions));
    let handler = settings.server.handler.iter().map(|name| (name, Role::Handler));
    handler
        .chain(actions)
        .map(|(name, role)| Subject { name: name.clone(), role, path: library_path(&settings.plugins_dir, name) })
        .collect()
}

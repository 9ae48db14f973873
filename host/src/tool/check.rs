//! `plugsocket check`: the config file and every plugin in it, tried as a reload would, without serving anybody.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{anyhow, bail};
use clap::Args;
use plugsocket_plugin::call::{Manifest, Role};

use crate::config::{Common, ListAction, PluginAction, Settings};
use crate::plugin::{Checker, Launcher, Lock, PluginError, Trust, inspect, judge, library_path, sha256_of};

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

/// Checks and prints a line for each plugin. `check_files` reads the files that the config names for the server.
///
/// # Errors
/// A bad config or such a file that is bad, or at least one plugin that would be refused.
pub async fn check(args: CheckArgs, check_files: impl FnOnce(&Settings) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let settings = args.common.source(Vec::new()).load()?;
    check_files(&settings)?;
    println!("{}: ok, {} actions", args.common.config.display(), settings.actions.len());
    if args.libraries.is_empty() {
        for (action, ListAction { list, handle }) in settings.list_actions() {
            println!("{action}: ok: pushed to {}{list} for PHP's {handle}, which is not checked", settings.php.prefix);
        }
    }
    let checker = Checker::new(Launcher::own_executable()?);
    let mut refused = 0;
    let is_installed = args.libraries.is_empty();
    for subject in subjects(&settings, args.libraries) {
        let place = subject.path.as_ref().map_or_else(|_| subject.name.clone(), |path| path.display().to_string());
        let listed = if is_installed { check_listed(&settings, &subject) } else { Ok(()) };
        let tried = try_out(&checker, &settings, &subject).await;
        match tried.and_then(|manifest| listed.map(|()| manifest)) {
            Ok(Manifest { name, version, handler, actions, .. }) => {
                let handler = if handler { "handler, " } else { "" };
                println!("{place}: ok: {name} {version}, {handler}actions: {}", actions.join(", "));
            }
            Err(error) => {
                refused += 1;
                println!("{place}: refused: {error:#}");
            }
        }
    }
    if refused > 0 {
        bail!("{refused} would be refused");
    }
    Ok(())
}

/// One library, and what the config wants of it.
pub(super) struct Subject {
    pub(super) name: String,
    roles: Vec<Role>,
    actions: Vec<String>,
    pub(super) path: Result<PathBuf, PluginError>,
}

/// Whether plugins.lock lets it pass, if there is one.
fn check_listed(settings: &Settings, subject: &Subject) -> anyhow::Result<()> {
    let Ok(path) = &subject.path else { return Ok(()) };
    // Whom files belong to is for the processes to judge, which may run as another user.
    Ok(Lock::check(&settings.plugins_lock, Trust::Warned, &subject.name, &sha256_of(path)?)?)
}

/// The steps a reload takes, short of serving anybody.
pub(super) async fn try_out(checker: &Checker, settings: &Settings, subject: &Subject) -> anyhow::Result<Manifest> {
    let path = subject.path.as_ref().map_err(|error| anyhow!("{error}"))?;
    inspect(path)?;
    let plugin = settings.plugins.get(&subject.name).cloned().unwrap_or_default();
    let config = serde_json::to_value(plugin.config)?.as_object().cloned().unwrap_or_default();
    let manifest = checker.check(path, &subject.roles, &config).await?;
    // A library that the config does not name yet may be anything.
    let wanted: &[Role] = if subject.actions.is_empty() && subject.roles.len() > 1 { &[] } else { &subject.roles };
    judge(&manifest, wanted, plugin.isolation)?;
    let missing: Vec<_> = subject.actions.iter().filter(|action| !manifest.actions.contains(action)).map(String::as_str).collect();
    if !missing.is_empty() {
        bail!("[actions] wants {} of it, but it exports only: {}", missing.join(", "), manifest.actions.join(", "));
    }
    Ok(manifest)
}

/// What is to be checked: `libraries`, or without any what the config names.
pub(super) fn subjects(settings: &Settings, libraries: Vec<PathBuf>) -> Vec<Subject> {
    let by_path = |path: PathBuf| {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let name = stem.strip_prefix("lib").unwrap_or(&stem).to_owned();
        Subject { name, roles: vec![Role::Handler, Role::Actions], actions: Vec::new(), path: Ok(path) }
    };
    if !libraries.is_empty() {
        return libraries.into_iter().map(by_path).collect();
    }
    let handler = settings.server.handler.as_ref();
    let names: BTreeSet<_> = handler.into_iter().chain(settings.plugin_actions().map(|(_, action)| &action.plugin)).collect();
    let subject = |name: &String| {
        let is_theirs = |entry: &(&String, &PluginAction)| entry.1.plugin == *name;
        let actions: Vec<_> = settings.plugin_actions().filter(is_theirs).map(|(action, _)| action.clone()).collect();
        let handler = (handler == Some(name)).then_some(Role::Handler);
        let roles = handler.into_iter().chain((!actions.is_empty()).then_some(Role::Actions)).collect();
        Subject { name: name.clone(), roles, actions, path: library_path(&settings.plugins_dir, name) }
    };
    names.into_iter().map(subject).collect()
}

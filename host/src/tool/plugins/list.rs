//! `plugsocket plugins list`: every version in every process.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::bail;
use clap::Args;
use serde_json::{Value, json};

use super::super::print;
use super::peers::{self, Peer, Plugin, Said, Version};
use crate::config::Common;
use crate::plugin::ControlRequest;

/// Characters of a sha256 that are shown.
pub(super) const SHA256_SHOWN: usize = 12;
const COLUMNS: [&str; 13] = [
    "process",
    "plugin",
    "version",
    "sha256",
    "api",
    "isolation",
    "state",
    "since",
    "calls",
    "errors",
    "crashes",
    "in flight",
    "last reason",
];
/// Columns of text; the others are numbers.
const TEXT_COLUMNS: usize = 7;

/// Flags of `plugins list`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  plugsocket plugins list
  plugsocket plugins list --json | jq '.[].plugins[] | {name, state}'

sha256: of the library's file, its first 12 characters. api: the version of plugsocket-plugin it was built with. errors: calls that failed,
timeouts among them. The numbers are each process's own, since it started.")]
pub(super) struct ListArgs {
    #[command(flatten)]
    common: Common,
    /// One JSON array with everything, described in docs/operations.md.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: ListArgs) -> anyhow::Result<()> {
    let said = peers::ask_all(&peers::state_dir(&args.common)?, &ControlRequest::List).await?;
    if args.json {
        let entry = |(peer, said): &(Peer, Said)| match said {
            Ok(plugins) => json!({ "process": peer.name, "plugins": plugins }),
            Err(error) => json!({ "process": peer.name, "error": error }),
        };
        print::json(&said.iter().map(entry).collect::<Vec<_>>())?;
    } else {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        print::out(&text(&said, u64::try_from(now.as_millis()).unwrap_or(u64::MAX)))?;
    }
    let silent: Vec<_> = said.iter().filter_map(|(peer, said)| Some(format!("{}: {}", peer.name, said.as_ref().err()?))).collect();
    if !silent.is_empty() {
        bail!("{}", silent.join("; "));
    }
    Ok(())
}

fn text(said: &[(Peer, Said)], now_ms: u64) -> String {
    let (mut rows, mut notes) = (vec![COLUMNS.map(ToOwned::to_owned).to_vec()], String::new());
    for (peer, said) in said {
        match said.as_ref().map_err(Clone::clone).and_then(|told: &Value| peers::plugins(told)) {
            Ok(plugins) if plugins.is_empty() => notes.push_str(&format!("{}: the config asks for no plugin here\n", peer.name)),
            Ok(plugins) => {
                for plugin in plugins {
                    rows.extend(rows_of(&peer.name, &plugin, now_ms));
                    let waiting = plugin.waiting.iter().map(|text| format!("{}: {}: {}\n", peer.name, plugin.name, print::clean(text)));
                    notes.extend(waiting);
                }
            }
            Err(error) => notes.push_str(&format!("{}: {}\n", peer.name, print::clean(&error))),
        }
    }
    let table = if rows.len() > 1 { print::table(&rows, TEXT_COLUMNS) } else { String::new() };
    format!("{table}{notes}")
}

fn rows_of(process: &str, plugin: &Plugin, now_ms: u64) -> Vec<Vec<String>> {
    let mut rows: Vec<_> = plugin.versions.iter().map(|version| row(process, &plugin.name, version, now_ms)).collect();
    if rows.is_empty() && (plugin.version.is_some() || plugin.last_rejection.is_none()) {
        let version = Version {
            version: plugin.version.clone().unwrap_or_default(),
            manifest_version: plugin.manifest_version.clone().unwrap_or_default(),
            state: plugin.state.clone(),
            since_ms: plugin.since_ms,
            ..Version::default()
        };
        rows.push(row(process, &plugin.name, &version, now_ms));
    }
    let is_told = |version: &str| !version.is_empty() && plugin.versions.iter().any(|told| told.version == version);
    if let Some(rejection) = plugin.last_rejection.as_ref().filter(|rejection| !is_told(&rejection.version)) {
        let version = Version {
            version: rejection.version.clone(),
            state: if plugin.state == "missing" { "missing" } else { "rejected" }.to_owned(),
            since_ms: rejection.at_ms,
            last_reason: Some(rejection.reason.clone()),
            ..Version::default()
        };
        rows.push(row(process, &plugin.name, &version, now_ms));
    }
    rows
}

fn row(process: &str, plugin: &str, version: &Version, now_ms: u64) -> Vec<String> {
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { print::clean(text) };
    let sha256: String = version.sha256.chars().take(SHA256_SHOWN).collect();
    vec![
        process.to_owned(),
        or_dash(plugin),
        or_dash(&version.manifest_version),
        or_dash(&sha256),
        or_dash(&version.sdk),
        or_dash(&version.isolation),
        or_dash(&version.state),
        print::age(now_ms.saturating_sub(version.since_ms)),
        version.calls.to_string(),
        version.errors.to_string(),
        version.crashes.to_string(),
        version.in_flight.to_string(),
        or_dash(&print::short(version.last_reason.as_deref().unwrap_or_default())),
    ]
}

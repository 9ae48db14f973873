//! Making what is live agree with files and settings.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use plugsocket_plugin::call::Role;
use tokio::time::Instant;

use super::entry::Entry;
use super::lifecycle::{Attempt, Attempted, Wanted, candidates};
use super::record::Record;
use super::slot::{Moved, Slot};
use super::writer::Writer;
use crate::config::{Reload, Settings};
use crate::plugin::store::Fingerprint;

impl Writer {
    /// Makes what is live agree with files and settings, plugin by plugin; each goes live as soon as it is ready.
    pub(super) async fn pass(&mut self, with_waiting: bool) {
        let settings = self.options.settings.load_full();
        let wanted = self.wanted(&settings);
        self.open(&wanted).await;
        self.tools.is_worn = self.worn.is_cancelled();
        let mut attempts = FuturesUnordered::new();
        let mut coming = BTreeSet::new();
        for (name, wanted) in &wanted {
            if let Some(attempt) = self.attempt(name, wanted, &settings, with_waiting) {
                coming.insert(name.clone());
                attempts.push(attempt.run());
            }
        }
        self.publish(&settings, &coming);
        loop {
            tokio::select! {
                attempted = attempts.next() => {
                    let Some((name, seen, attempted)) = attempted else { break };
                    let Some(wanted) = wanted.get(&name) else { continue };
                    let (moved, is_to_go_on) = self.settle(&name, seen.map(|seen| (seen, wanted.clone())), attempted);
                    coming.remove(&name);
                    self.finish(&name, moved, &settings, &coming).await;
                    let next = if is_to_go_on { self.attempt(&name, wanted, &settings, with_waiting) } else { None };
                    if let Some(attempt) = next {
                        coming.insert(name);
                        attempts.push(attempt.run());
                    }
                }
                happening = self.happening() => self.attend(happening, &settings, &coming).await,
            }
        }
        // Last: until then an action that has moved to another plugin was served by the one it had.
        let unwanted: Vec<String> = self.entries.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        for name in unwanted {
            if let Some(moved) = self.entries.get_mut(&name).map(|entry| entry.slot.clear("the config does not ask for it any more")) {
                self.finish(&name, moved, &settings, &coming).await;
            }
            self.entries.remove(&name);
            self.publish(&settings, &coming);
        }
    }

    /// Reads the records of plugins that are new here.
    async fn open(&mut self, wanted: &BTreeMap<String, Wanted>) {
        for name in wanted.keys() {
            if self.entries.contains_key(name) {
                continue;
            }
            let (records, plugin) = (self.records.clone(), name.clone());
            let record = match candidates(Path::new(""), name) {
                Ok(_) => tokio::task::spawn_blocking(move || records.open(&plugin)).await.unwrap_or_default(),
                Err(_) => Record::default(), // No name for a file; refused in a moment.
            };
            self.entries.insert(name.clone(), Entry::new(name, record));
        }
    }

    /// The plugins that the settings ask for, and what for.
    pub(super) fn wanted(&self, settings: &Settings) -> BTreeMap<String, Wanted> {
        let handler = settings.server.handler.as_ref().filter(|_| self.options.roles.handler);
        let handler = handler.map(|name| (name, Role::Handler));
        let actions = settings.plugin_actions().filter(|_| self.options.roles.actions).map(|(_, action)| (&action.plugin, Role::Actions));
        let mut wanted = BTreeMap::new();
        for (name, role) in handler.into_iter().chain(actions) {
            let entry = wanted
                .entry(name.clone())
                .or_insert_with(|| Wanted { roles: Vec::new(), settings: settings.plugins.get(name).cloned().unwrap_or_default() });
            if !entry.roles.contains(&role) {
                entry.roles.push(role);
            }
        }
        wanted
    }

    /// An attempt, when there is something new to try.
    fn attempt(&mut self, name: &str, wanted: &Wanted, settings: &Settings, with_waiting: bool) -> Option<Attempt> {
        let entry = self.entries.get_mut(name)?;
        let found = match candidates(&settings.plugins_dir, name) {
            Ok(paths) => paths.iter().find_map(|path| Some((path.clone(), Fingerprint::of(path)?))).ok_or(paths),
            Err(error) => {
                entry.reject(name, None, &error);
                return None;
            }
        };
        let (mut file, fingerprint) = match found {
            Ok(found) => found,
            Err(paths) => {
                entry.note_missing(name, paths);
                return None;
            }
        };
        let was_missing = std::mem::take(&mut entry.is_missing);
        // Taken, not looked at: whatever comes of this attempt, it is not due again at once.
        let is_due = entry.rejected.as_mut().is_some_and(|rejected| {
            let is_asked = with_waiting && rejected.is_worth_retrying;
            rejected.retry_at.take_if(|at| is_asked || *at <= Instant::now()).is_some() || is_asked
        });
        let seen = entry.seen.as_ref().map(|(seen, _)| *seen);
        let is_changed = was_missing || entry.waiting.is_some() || seen.is_some_and(|seen| seen != fingerprint);
        let is_configured = entry.seen.as_ref().is_some_and(|(_, how)| how != wanted);
        let mut kept = None;
        if is_changed && settings.reload != Reload::Auto && !with_waiting {
            entry.note_waiting(name, fingerprint, settings.reload == Reload::Off);
            // The config still applies, to the library that is known.
            let live = entry.slot.holder().filter(|_| is_configured)?;
            file.clone_from(&live.staged.path);
            kept = seen;
        } else {
            entry.waiting = None;
            if seen.is_some() && !is_changed && !is_configured && !is_due {
                return None;
            }
        }
        let lives = entry.slot.lives().map(|live| live.key.clone());
        // A file that is put there again is asked for again, when what it failed for was not its own.
        let refused = entry.rejected.as_ref().filter(|rejected| !rejected.is_worth_retrying).and_then(|rejected| rejected.key.clone());
        let refused = refused.filter(|key| !entry.record.is_quarantined(&key.version));
        let is_first = !std::mem::replace(&mut entry.is_begun, true);
        let good = entry.record.good.as_ref().filter(|_| is_first);
        Some(Attempt {
            name: name.to_owned(),
            file,
            wanted: wanted.clone(),
            tools: self.tools.clone(),
            known: lives.chain(refused).collect(),
            quarantined: entry.record.quarantine.iter().map(|entry| entry.version.clone()).collect(),
            good: good.map(|good| (good.clone(), self.records.copy(good))),
            seen: kept,
        })
    }

    /// Writes an attempt's end down; answers what it moved, and whether the file is still to be tried.
    fn settle(&mut self, name: &str, seen: Option<(Fingerprint, Wanted)>, attempted: Attempted) -> (Moved, bool) {
        let Some(entry) = self.entries.get_mut(name) else { return (Moved::default(), false) };
        entry.seen = seen;
        match attempted {
            Attempted::Known(key) if entry.slot.standby().is_some_and(|standby| standby.key == key) => {
                return (entry.slot.return_to_standby(), false);
            }
            Attempted::Known(key) => {
                // What was known when the attempt began may have left while it ran: then the file is a new one again.
                let is_live = entry.slot.lives().any(|live| live.key == key);
                let is_refused = entry.rejected.as_ref().is_some_and(|rejected| rejected.key.as_ref() == Some(&key));
                let is_new = !is_live && !is_refused;
                if is_new {
                    entry.seen = None;
                }
                return (Moved::default(), is_new);
            }
            Attempted::Quarantined(key) => entry.note_quarantined(name, key),
            Attempted::Rejected(found, error) => entry.reject(name, found, &error),
            // Rolled back while it came up once more, with other settings.
            Attempted::Live(live) if entry.record.is_quarantined(&live.key.version) => {
                entry.note_quarantined(name, live.key.clone());
                return (Slot::turn_away(*live), false);
            }
            Attempted::Live(live) => {
                metrics::counter!("plugsocket_plugin_reloads_total", "plugin" => name.to_owned()).increment(1);
                entry.rejected = None;
                let is_good = entry.record.good.as_ref().is_some_and(|good| good.version == live.key.version);
                return (entry.slot.arrive(*live, is_good, Instant::now()), false);
            }
            Attempted::LastGood(live) => return (entry.slot.arrive(*live, true, Instant::now()), true),
            Attempted::NoLastGood { version, error } => {
                tracing::error!(plugin = name, version, %error, "the last good version does not come up; going on with the file");
                return (Moved::default(), true);
            }
        }
        (Moved::default(), false)
    }
}

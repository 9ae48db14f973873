//! What everybody else reads: the table of who serves what, and the statuses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::facts::Facts;
use super::status::{PluginStatus, VersionState};
use super::writer::Writer;
use super::{Listed, Table};
use crate::config::Settings;

impl Writer {
    /// One pointer: calls already running go on, later ones find the new version. What moves to a plugin that is still `coming` stays
    /// where it was until that is there.
    pub(super) fn publish(&mut self, settings: &Settings, coming: &BTreeSet<String>) {
        let mut table = Table::default();
        let before = self.shared.table.load_full();
        let is_coming = |name: &String| coming.contains(name) && self.entries.get(name).is_none_or(|entry| entry.slot.holder().is_none());
        let serving = |name: &str| self.entries.get(name).and_then(|entry| entry.slot.serving());
        let mut refused: BTreeMap<&str, BTreeMap<String, String>> = BTreeMap::new();
        for (action, entry) in settings.plugin_actions() {
            let Some((live, version)) = serving(&entry.plugin).and_then(|live| Some((live, live.actions()?))) else {
                if let Some(version) = before.actions.get(action).filter(|_| is_coming(&entry.plugin)) {
                    table.actions.insert(action.clone(), Arc::clone(version));
                }
                continue;
            };
            if live.manifest.actions.contains(action) {
                table.actions.insert(action.clone(), Arc::clone(version));
            } else {
                let exports = live.manifest.actions.join(", ");
                let reason = format!("plugin `{}` does not export the action `{action}`; it exports: {exports}", entry.plugin);
                refused.entry(&entry.plugin).or_default().insert(action.clone(), reason);
            }
        }
        // Servers send no more of what has left the map, but jobs of it that are queued already still run.
        for (action, version) in before.actions.iter().filter(|(action, _)| settings.plugin_action(action).is_none()) {
            let live = serving(&version.plugin).filter(|live| live.manifest.actions.contains(action));
            if let Some(version) = live.and_then(|live| live.actions()) {
                table.actions.insert(action.clone(), Arc::clone(version));
            }
        }
        if let Some(name) = &settings.server.handler {
            let live = serving(name).and_then(|live| live.handler().cloned());
            table.handler = live.or_else(|| before.handler.clone().filter(|_| is_coming(name)));
        }
        self.shared.table.store(Arc::new(table));
        for (name, entry) in &mut self.entries {
            let refused = refused.remove(name.as_str()).unwrap_or_default();
            for (action, reason) in refused.iter().filter(|(action, reason)| entry.refused_actions.get(*action) != Some(*reason)) {
                tracing::warn!(plugin = name, action, reason, "action refused: nobody serves it here");
            }
            entry.refused_actions = refused;
        }
        let listed: Vec<Listed> =
            self.entries.iter().map(|(name, entry)| Listed { status: entry.status(name), facts: entry.facts() }).collect();
        let live = self.entries.values().filter(|entry| entry.slot.serving().is_some()).count();
        metrics::gauge!("plugsocket_plugins_live").set(u32::try_from(live).unwrap_or(u32::MAX));
        self.shared.listed.store(Arc::new(listed));
    }
}

impl Listed {
    /// With the numbers of this moment.
    pub(super) fn read(&self) -> PluginStatus {
        let is_shown = |facts: &&Arc<Facts>| facts.state() != VersionState::Retired;
        let versions = self.facts.iter().filter(is_shown).map(|facts| facts.status()).collect();
        PluginStatus { versions, ..self.status.clone() }
    }
}

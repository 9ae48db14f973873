//! What operators ask for: back to a good version, or another try of a refused one.

use std::collections::BTreeSet;

use super::record::Entry as RecordEntry;
use super::status::RegistryError;
use super::writer::Writer;

const ID_DIGITS_MIN: usize = 6;
const BY_HAND: &str = "taken back by hand";

impl Writer {
    /// Back to the standby, or to the last good version that is not the one that serves.
    pub(super) async fn roll_back(&mut self, plugin: &str) -> Result<String, RegistryError> {
        let settings = self.options.settings.load_full();
        let unknown = || RegistryError::Unknown { name: plugin.to_owned(), wanted: self.entries.keys().cloned().collect() };
        let (Some(wanted), true) = (self.wanted(&settings).remove(plugin), self.entries.contains_key(plugin)) else {
            return Err(unknown());
        };
        let Some(entry) = self.entries.get_mut(plugin) else { return Err(RegistryError::Closed) };
        let left = entry.slot.candidate().map(|live| (live.key.version.clone(), live.facts.sha256.clone()));
        let moved = if entry.slot.has_standby() {
            entry.slot.roll_back(BY_HAND)
        } else {
            let known = [&entry.record.good, &entry.record.before];
            let goods: Vec<_> = known
                .into_iter()
                .flatten()
                .filter(|good| left.as_ref().map(|(version, _)| version) != Some(&good.version))
                .cloned()
                .collect();
            let mut brought = Err(RegistryError::NoGoodVersion(plugin.to_owned()));
            for good in goods {
                let copy = self.records.copy(&good);
                let attempt = self.tools.bring_up_good(plugin, &wanted, &good, &copy).await;
                brought = attempt.map_err(|error| RegistryError::DoesNotComeUp {
                    name: plugin.to_owned(),
                    version: good.version,
                    reason: error.to_string(),
                });
                if brought.is_ok() {
                    break;
                }
            }
            let live = brought?;
            entry.slot.roll_back_to(*live, BY_HAND)
        };
        let now = entry.slot.holder().map(|live| live.facts.sha256.clone()).unwrap_or_default();
        self.finish(plugin, moved, &settings, &BTreeSet::new()).await;
        Ok(match left {
            Some((_, left)) => format!(
                "plugin `{plugin}`: {} serves again; {left} is quarantined (to try it again: plugsocket plugins retry {left})",
                short(&now),
                left = short(&left)
            ),
            None => format!("plugin `{plugin}`: {} serves again", short(&now)),
        })
    }

    /// Forgets what was held against the versions that `id` begins, and tries what is there.
    pub(super) async fn retry(&mut self, id: &str) -> Result<String, RegistryError> {
        let id = id.to_ascii_lowercase();
        if id.len() < ID_DIGITS_MIN || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(RegistryError::NotAnId(id));
        }
        let mut found = Vec::new();
        let mut names = BTreeSet::new();
        for (plugin, entry) in &self.entries {
            for facts in entry.refused() {
                if let Some(name) = [&facts.version, &facts.sha256].into_iter().find(|name| name.starts_with(&id)) {
                    names.insert(name.clone());
                    found.push((plugin.clone(), facts.version.clone()));
                }
            }
        }
        match names.len() {
            0 => return Err(RegistryError::NotRefused(id)),
            1 => {}
            _ => return Err(RegistryError::Ambiguous { id, versions: names.into_iter().collect() }),
        }
        for (plugin, version) in &found {
            self.record(plugin, RecordEntry::Released { version: version.clone() }).await;
            if let Some(entry) = self.entries.get_mut(plugin) {
                entry.forgive(version);
            }
        }
        self.pass(false).await;
        Ok(found.iter().map(|(plugin, version)| self.outcome(plugin, version)).collect::<Vec<_>>().join("; "))
    }

    fn outcome(&self, plugin: &str, version: &str) -> String {
        let entry = self.entries.get(plugin);
        let serves = entry.and_then(|entry| entry.slot.holder()).is_some_and(|live| live.key.version == version);
        let rejected = entry.and_then(|entry| entry.rejected.as_ref()).filter(|rejected| rejected.status.version == version);
        match rejected {
            _ if serves => format!("plugin `{plugin}`: {} serves", short(version)),
            Some(rejected) => format!("plugin `{plugin}`: {} was refused again: {}", short(version), rejected.status.reason),
            None => format!(
                "plugin `{plugin}`: {} may be tried again, but its file is not the one in the plugins folder: install it again",
                short(version)
            ),
        }
    }
}

/// As much of an id as is shown, and enough to name it by.
pub(super) fn short(version: &str) -> &str {
    version.get(..12).unwrap_or(version)
}

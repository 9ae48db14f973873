//! The one task that changes what is live.

use std::collections::{BTreeMap, BTreeSet};
use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::task::Poll;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use plugsocket_plugin::call::Role;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::entry::Entry;
use super::facts::now_ms;
use super::lifecycle::{Attempt, Attempted, Live, Tools, Wanted, candidates};
use super::record::{Entry as RecordEntry, Good, Record, Records};
use super::slot::{Moved, Note};
use super::start::Starter;
use super::{Command, RegistryOptions, Shared, Table};
use crate::config::{Reload, Settings};
use crate::plugin::blame::RunnerEvent;
use crate::plugin::store::{Fingerprint, StagedStore};

pub(super) struct Writer {
    pub(super) options: RegistryOptions,
    pub(super) tools: Tools,
    pub(super) records: Records,
    pub(super) shared: Arc<Shared>,
    pub(super) tasks: TaskTracker,
    pub(super) entries: BTreeMap<String, Entry>,
    pub(super) worn: CancellationToken,
}

/// What comes to pass beside files and commands.
enum Happening {
    /// Of a plugin's version.
    Event(String, String, RunnerEvent),
    /// Numbers or the clock say that somebody is to be judged.
    Look,
}

impl Writer {
    pub(super) fn new(
        options: RegistryOptions,
        store: StagedStore,
        starter: Arc<dyn Starter>,
        shared: Arc<Shared>,
        tasks: TaskTracker,
        worn: CancellationToken,
    ) -> Self {
        let kind = match (options.roles.handler, options.roles.actions) {
            (true, true) => "dev",
            (true, false) => "server",
            _ => "worker",
        };
        let records = Records::new(&store, kind);
        let tools = Tools { store, starter, wake: Arc::new(Notify::new()), is_worn: false };
        Self { options, tools, records, shared, tasks, entries: BTreeMap::new(), worn }
    }

    /// Passes when asked, and when a failed constructor is due again; judges what is on probation; at `stop` takes everything out of
    /// service.
    pub(super) async fn run(mut self, mut asked: mpsc::Receiver<Command>, stop: CancellationToken) {
        loop {
            let retry_at = self.entries.values().filter_map(|entry| entry.rejected.as_ref()?.retry_at).min();
            let mut commands = Vec::new();
            let happening = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                first = asked.recv() => match first {
                    Some(command) => {
                        commands.push(command);
                        None
                    }
                    None => break,
                },
                happening = self.happening() => Some(happening),
                () = sleep_until(retry_at) => None,
            };
            while let Ok(command) = asked.try_recv() {
                commands.push(command);
            }
            let work = async {
                match happening {
                    Some(happening) => {
                        let settings = self.options.settings.load_full();
                        self.attend(happening, &settings, &BTreeSet::new()).await;
                    }
                    None if commands.is_empty() => self.pass(false).await,
                    None => {}
                }
                self.obey(commands).await;
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = work => {}
            }
        }
        self.shared.table.store(Arc::new(Table::default()));
        for (name, mut entry) in std::mem::take(&mut self.entries) {
            if entry.is_marked {
                self.records.write(&name, RecordEntry::ProbationOver);
            }
            for live in entry.slot.clear("this process ends").leaving {
                self.retire(live);
            }
        }
    }

    async fn obey(&mut self, commands: Vec<Command>) {
        let (mut waiting, mut with_waiting): (Vec<oneshot::Sender<()>>, bool) = (Vec::new(), false);
        for command in commands {
            // A caller may have given up: nobody minds.
            match command {
                Command::Pass { done, with_waiting: is_reload } => {
                    waiting.push(done);
                    with_waiting |= is_reload;
                }
                Command::Rollback { plugin, done } => {
                    let _ = done.send(self.roll_back(&plugin).await);
                }
                Command::Retry { id, done } => {
                    let _ = done.send(self.retry(&id).await);
                }
            }
        }
        if !waiting.is_empty() {
            self.pass(with_waiting).await;
        }
        for done in waiting {
            let _ = done.send(());
        }
    }

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
            let record = match candidates(std::path::Path::new(""), name) {
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
        let actions = settings.actions.values().filter(|_| self.options.roles.actions).map(|action| (&action.plugin, Role::Actions));
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
        let lives = entry.slot.holder().into_iter().chain(entry.slot.other()).map(|live| live.key.clone());
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
            Attempted::Known(_) => {}
            Attempted::Quarantined(key) => entry.note_quarantined(name, key),
            Attempted::Rejected(found, error) => entry.reject(name, found, &error),
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

    /// Waits for what is not asked for. Cancel-safe.
    async fn happening(&mut self) -> Happening {
        let (settings, now, wake) = (self.options.settings.load(), Instant::now(), Arc::clone(&self.tools.wake));
        let due = self.entries.values().filter_map(|entry| entry.slot.due(&settings.probation, now)).min();
        drop(settings);
        tokio::select! {
            (name, version, event) = next_event(&mut self.entries) => Happening::Event(name, version, event),
            () = wake.notified() => Happening::Look,
            () = sleep_until(due) => Happening::Look,
        }
    }

    async fn attend(&mut self, happening: Happening, settings: &Settings, coming: &BTreeSet<String>) {
        let now = Instant::now();
        let mut moves: Vec<(String, Moved)> = Vec::new();
        if let Happening::Event(name, version, event) = happening
            && let Some(entry) = self.entries.get_mut(&name)
        {
            moves.push((name, entry.slot.hear(&version, event, now)));
        }
        moves.extend(self.entries.iter_mut().map(|(name, entry)| (name.clone(), entry.slot.look(&settings.probation, now))));
        for (name, moved) in moves {
            self.finish(&name, moved, settings, coming).await;
        }
    }

    /// Publishes a move, writes down what is to be remembered, and lets go what has left.
    pub(super) async fn finish(&mut self, name: &str, moved: Moved, settings: &Settings, coming: &BTreeSet<String>) {
        if let Some(entry) = self.entries.get_mut(name) {
            if moved.is_changed {
                entry.since_ms = now_ms();
            }
            moved.leaving.iter().for_each(|live| entry.remember(&live.facts));
        }
        self.publish(settings, coming);
        for note in moved.notes {
            self.note(name, note).await;
        }
        moved.leaving.into_iter().for_each(|live| self.retire(live));
        self.count_retired(settings);
    }

    async fn note(&mut self, name: &str, note: Note) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        let holder = entry.slot.holder();
        let change = match note {
            Note::IsGood => holder.and_then(|live| {
                let is_known = entry.record.good.as_ref().is_some_and(|good| good.version == live.key.version);
                (!is_known)
                    .then(|| RecordEntry::Good(good_of(live, self.records.copy_name(name, &live.key.version)), live.staged.path.clone()))
            }),
            Note::ProbationBegun => holder.filter(|live| live.is_in_process).map(|live| {
                entry.is_marked = true;
                RecordEntry::ProbationBegun { version: live.key.version.clone(), sha256: live.facts.sha256.clone() }
            }),
            Note::ProbationOver => std::mem::take(&mut entry.is_marked).then_some(RecordEntry::ProbationOver),
            Note::Quarantined { version, sha256, reason } => Some(RecordEntry::Quarantined { version, sha256, reason }),
        };
        if let Some(change) = change {
            self.record(name, change).await;
        }
    }

    pub(super) async fn record(&mut self, name: &str, change: RecordEntry) {
        let (records, plugin) = (self.records.clone(), name.to_owned());
        let written = tokio::task::spawn_blocking(move || records.write(&plugin, change)).await;
        if let (Ok(record), Some(entry)) = (written, self.entries.get_mut(name)) {
            entry.record = record;
        }
    }

    pub(super) fn retire(&self, live: Live) {
        self.tasks.spawn(live.retire(self.tools.store.clone()));
    }

    fn count_retired(&self, settings: &Settings) {
        let lives = self.entries.values().flat_map(|entry| entry.slot.holder().into_iter().chain(entry.slot.other()));
        let in_use = u64::try_from(lives.filter(|live| live.is_in_process).count()).unwrap_or_default();
        let retired = self.tools.starter.loaded().saturating_sub(in_use);
        metrics::gauge!("plugsocket_plugin_versions_retired").set(u32::try_from(retired).unwrap_or(u32::MAX));
        if retired >= settings.retired_max && !self.worn.is_cancelled() {
            tracing::warn!(retired, "replaced plugin libraries are in this process's memory and can't be unloaded (retired_max)");
            self.worn.cancel();
        }
    }
}

fn good_of(live: &Live, copy: String) -> Good {
    Good {
        version: live.key.version.clone(),
        sha256: live.facts.sha256.clone(),
        manifest_version: live.manifest.version.clone(),
        config: live.key.wanted.config().unwrap_or_default(),
        copy,
        at_ms: now_ms(),
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => time::sleep_until(at).await,
        None => pending().await,
    }
}

/// The next event of any version. Cancel-safe.
async fn next_event(entries: &mut BTreeMap<String, Entry>) -> (String, String, RunnerEvent) {
    poll_fn(|context| {
        for (name, entry) in entries.iter_mut() {
            for live in entry.slot.lives_mut() {
                if let Poll::Ready(Some(event)) = live.events.poll_recv(context) {
                    return Poll::Ready((name.clone(), live.key.version.clone(), event));
                }
            }
        }
        Poll::Pending
    })
    .await
}

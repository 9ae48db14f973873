//! The one task that changes what is live.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::task::Poll;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::entry::Entry;
use super::facts::now_ms;
use super::lifecycle::{Live, Tools};
use super::record::{Entry as RecordEntry, Good, Record, Records};
use super::slot::{Moved, Note};
use super::start::Starter;
use super::{Command, RegistryOptions, Shared, Table};
use crate::config::Settings;
use crate::plugin::blame::RunnerEvent;
use crate::plugin::store::StagedStore;

pub(super) struct Writer {
    pub(super) options: RegistryOptions,
    pub(super) tools: Tools,
    pub(super) records: Records,
    pub(super) shared: Arc<Shared>,
    pub(super) tasks: TaskTracker,
    pub(super) entries: BTreeMap<String, Entry>,
    pub(super) worn: CancellationToken,
    is_leaving: bool,
    unwritten: VecDeque<(String, RecordEntry)>,
    writing: Option<(String, JoinHandle<Record>)>,
}

/// What comes to pass beside files and commands.
pub(super) enum Happening {
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
        Self {
            options,
            tools,
            records,
            shared,
            tasks,
            entries: BTreeMap::new(),
            worn,
            is_leaving: false,
            unwritten: VecDeque::new(),
            writing: None,
        }
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
        self.unmark();
        self.flush().await;
        for mut entry in std::mem::take(&mut self.entries).into_values() {
            for live in entry.slot.clear("this process ends").leaving {
                self.retire(live);
            }
        }
    }

    /// What ends this process from now on is no version's fault.
    fn unmark(&mut self) {
        for (name, entry) in &mut self.entries {
            if std::mem::take(&mut entry.is_marked) {
                self.unwritten.push_back((name.clone(), RecordEntry::ProbationOver));
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
                Command::Leave { done } => {
                    self.is_leaving = true;
                    self.unmark();
                    self.flush().await;
                    let _ = done.send(());
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

    /// Waits for what is not asked for. Cancel-safe.
    pub(super) async fn happening(&mut self) -> Happening {
        let (settings, now, wake) = (self.options.settings.load(), Instant::now(), Arc::clone(&self.tools.wake));
        let due = self.entries.values().filter_map(|entry| entry.slot.due(&settings.probation, now)).min();
        drop(settings);
        tokio::select! {
            (name, version, event) = next_event(&mut self.entries) => Happening::Event(name, version, event),
            () = wake.notified() => Happening::Look,
            () = sleep_until(due) => Happening::Look,
        }
    }

    pub(super) async fn attend(&mut self, happening: Happening, settings: &Settings, coming: &BTreeSet<String>) {
        let now = Instant::now();
        let mut moves: Vec<(String, Moved)> = Vec::new();
        if let Happening::Event(name, version, event) = happening
            && let Some(entry) = self.entries.get_mut(&name)
        {
            moves.push((name, entry.slot.hear(&version, event, now)));
        }
        moves.extend(self.entries.iter_mut().map(|(name, entry)| (name.clone(), entry.slot.look(&settings.probation, now))));
        for (name, moved) in moves.into_iter().filter(|(_, moved)| moved.is_changed) {
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
        for note in moved.notes {
            // Before its first call: that may be the one that ends this process.
            let is_first = note == Note::ProbationBegun;
            self.note(name, note);
            if is_first {
                self.flush().await;
            }
        }
        self.publish(settings, coming);
        moved.leaving.into_iter().for_each(|live| self.retire(live));
        self.count_retired(settings);
        self.flush().await;
    }

    /// Decides what of it is to be written.
    fn note(&mut self, name: &str, note: Note) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        let holder = entry.slot.holder();
        let change = match note {
            Note::IsGood => holder.and_then(|live| {
                let is_known = entry.record.good.as_ref().is_some_and(|good| good.version == live.key.version);
                let good = || good_of(live, self.records.copy_name(name, &live.key.version));
                (!is_known).then(|| RecordEntry::Good(good(), live.staged.path.clone()))
            }),
            Note::ProbationBegun => holder.filter(|live| live.is_in_process && !self.is_leaving).map(|live| {
                entry.is_marked = true;
                RecordEntry::ProbationBegun { version: live.key.version.clone(), sha256: live.facts.sha256.clone() }
            }),
            Note::ProbationOver => std::mem::take(&mut entry.is_marked).then_some(RecordEntry::ProbationOver),
            Note::Quarantined { version, sha256, reason } => Some(RecordEntry::Quarantined { version, sha256, reason }),
        };
        self.unwritten.extend(change.map(|change| (name.to_owned(), change)));
    }

    pub(super) async fn record(&mut self, name: &str, change: RecordEntry) {
        self.unwritten.push_back((name.to_owned(), change));
        self.flush().await;
    }

    /// Writes what is to be remembered, in order. When the future is dropped, another call goes on where it was.
    async fn flush(&mut self) {
        loop {
            if let Some((name, writing)) = &mut self.writing {
                let written = writing.await;
                if let (Ok(record), Some(entry)) = (written, self.entries.get_mut(name)) {
                    entry.record = record;
                }
                self.writing = None;
            }
            let Some((name, change)) = self.unwritten.pop_front() else { return };
            let known = self.entries.get(&name).map(|entry| entry.record.clone()).unwrap_or_default();
            let (records, plugin) = (self.records.clone(), name.clone());
            self.writing = Some((name, tokio::task::spawn_blocking(move || records.write(&plugin, change, known))));
        }
    }

    pub(super) fn retire(&self, live: Live) {
        self.tasks.spawn(live.retire(self.tools.store.clone()));
    }

    fn count_retired(&self, settings: &Settings) {
        let lives = self.entries.values().flat_map(|entry| entry.slot.lives());
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

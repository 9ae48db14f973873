//! Dead letters: found a page at a time, put back among the jobs, or dropped.

use std::time::Duration;

use redis::Value;

use super::{Admin, Entry, EntryId, REPLAY, count};
use crate::queue::QueueError;
use crate::wire::job::{JOB_FIELDS, Job};

/// Most entries of one page, and of one script run: Redis does nothing else meanwhile.
pub const PAGE: usize = 256;
/// Most bytes of jobs in one script run.
const RUN_BYTES_MAX: usize = 4 << 20;

/// Which entries are meant; what is absent does not matter.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// In this partition.
    pub partition: Option<u32>,
    /// With this action.
    pub action: Option<String>,
    /// Of this connection: its public id, or its session's.
    pub connection: Option<String>,
    /// Of this user.
    pub user: Option<String>,
    /// Whose reason contains this.
    pub reason: Option<String>,
    /// Dead for longer than this.
    pub older: Option<Duration>,
    /// Dead for no longer than this.
    pub newer: Option<Duration>,
}

impl Filter {
    /// Whether it says nothing at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.partition.is_none() && self.older.is_none() && self.newer.is_none() && !self.reads_content()
    }

    pub(super) fn reads_content(&self) -> bool {
        [&self.action, &self.connection, &self.user, &self.reason].into_iter().any(Option::is_some)
    }

    /// By what is in the entry; partition and time are a matter of where it is looked for.
    pub(super) fn accepts(&self, entry: &Entry) -> bool {
        let is = |wanted: &Option<String>, field: &str| wanted.is_none() || *wanted == entry.field(field);
        let is_connection = |wanted: &String| {
            entry.field("c").as_ref() == Some(wanted) || entry.session().is_some_and(|session| session.as_str() == wanted)
        };
        is(&self.action, "a")
            && is(&self.user, "u")
            && self.connection.as_ref().is_none_or(is_connection)
            && self.reason.as_ref().is_none_or(|part| entry.field("reason").is_some_and(|reason| reason.contains(part)))
    }
}

/// One page of a scan: of one partition, in order.
#[derive(Debug)]
pub struct Page {
    /// Entries looked at.
    pub scanned: u64,
    /// Those that the filter accepts.
    pub entries: Vec<Entry>,
}

/// Goes through the dead letters of the moment it began at: what dies meanwhile is not met, so that it ends.
pub struct DeadScan<'admin> {
    admin: &'admin Admin,
    filter: Filter,
    partitions: std::vec::IntoIter<u32>,
    current: Option<u32>,
    cursor: String,
    from: String,
    to: String,
}

impl DeadScan<'_> {
    /// The next page; `None` at the end.
    ///
    /// # Errors
    /// [`QueueError`]
    pub async fn next(&mut self) -> Result<Option<Page>, QueueError> {
        let Some(partition) = self.current else { return Ok(None) };
        let key = self.admin.keys.dead(partition);
        let entries = self.admin.page(partition, &key, &self.cursor, &self.to, PAGE).await?;
        match entries.last() {
            Some(last) if entries.len() == PAGE => self.cursor = format!("({}", last.id.stream_id()),
            _ => self.advance(),
        }
        let scanned = entries.len() as u64;
        Ok(Some(Page { scanned, entries: entries.into_iter().filter(|entry| self.filter.accepts(entry)).collect() }))
    }

    /// Leaves the rest of this partition out.
    pub fn advance(&mut self) {
        self.current = self.partitions.next();
        self.cursor.clone_from(&self.from);
    }

    /// The partition that the next page is of.
    #[must_use]
    pub fn partition(&self) -> Option<u32> {
        self.current
    }
}

/// What became of dead letters that were to be put back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Put back.
    pub moved: u64,
    /// No longer there.
    pub gone: u64,
    /// No jobs: they stay.
    pub not_jobs: u64,
}

impl Admin {
    /// Begins a scan over the dead letters that `filter` accepts, oldest first in each partition.
    ///
    /// # Errors
    /// [`QueueError::Invalid`] for a partition that is not there; [`QueueError`]
    pub async fn dead(&self, filter: Filter) -> Result<DeadScan<'_>, QueueError> {
        let now = self.now_ms().await?;
        let ago = |age: Duration| now.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)).to_string();
        let from = filter.newer.map_or_else(|| "-".to_owned(), ago);
        let to = filter.older.map_or_else(|| now.to_string(), ago);
        let mut partitions = self.chosen(&filter)?.into_iter();
        let current = partitions.next();
        Ok(DeadScan { admin: self, filter, partitions, current, cursor: from.clone(), from, to })
    }

    /// How many dead letters a scan has to look at, at most.
    ///
    /// # Errors
    /// [`QueueError`]
    pub async fn dead_count(&self, filter: &Filter) -> Result<u64, QueueError> {
        let mut pipeline = redis::Pipeline::new();
        for partition in self.chosen(filter)? {
            pipeline.cmd("XLEN").arg(self.keys.dead(partition));
        }
        Ok(self.many(&pipeline).await?.iter().map(count).sum())
    }

    /// One dead letter.
    ///
    /// # Errors
    /// [`QueueError`]
    pub async fn dead_letter(&self, id: &EntryId) -> Result<Option<Entry>, QueueError> {
        self.check_partition(id.partition)?;
        let stream_id = id.stream_id();
        Ok(self.page(id.partition, &self.keys.dead(id.partition), &stream_id, &stream_id, 1).await?.pop())
    }

    /// Puts dead letters back among the jobs of their connections, in the order given, as if they had never been tried. Each is moved in one
    /// step.
    ///
    /// # Errors
    /// [`QueueError`]: what was moved before is moved; to do the rest, do it again.
    pub async fn replay(&self, entries: &[Entry]) -> Result<Replayed, QueueError> {
        let mut replayed = Replayed::default();
        let mut run = Run::default();
        for entry in entries {
            let Ok(job) = entry.job() else {
                replayed.not_jobs += 1;
                continue;
            };
            let to = (entry.id.partition, job.session.partition(self.partitions));
            if run.count > 0 && (run.to != to || run.count >= PAGE || run.bytes + entry.bytes() > RUN_BYTES_MAX) {
                self.finish(std::mem::take(&mut run), &mut replayed).await?;
            }
            run.to = to;
            run.add(entry, job);
        }
        if run.count > 0 {
            self.finish(run, &mut replayed).await?;
        }
        Ok(replayed)
    }

    async fn finish(&self, run: Run, replayed: &mut Replayed) -> Result<(), QueueError> {
        let keys = [self.keys.dead(run.to.0), self.keys.incoming(run.to.1), self.keys.config()];
        let (partitions, width) = (self.partitions.to_string(), JOB_FIELDS.len().to_string());
        let mut arguments: Vec<&[u8]> = vec![partitions.as_bytes(), width.as_bytes()];
        arguments.extend(JOB_FIELDS.iter().map(|name| name.as_bytes()));
        arguments.extend(run.arguments.iter().map(|argument| &argument[..]));
        let moved = self.run(REPLAY, &keys, &arguments).await?;
        replayed.moved += moved;
        replayed.gone += (run.count as u64).saturating_sub(moved);
        Ok(())
    }

    /// Drops dead letters; answers how many were there.
    ///
    /// # Errors
    /// [`QueueError`]
    pub async fn drop_dead(&self, ids: &[EntryId]) -> Result<u64, QueueError> {
        let mut dropped = 0;
        for run in ids.chunk_by(|one, two| one.partition == two.partition).flat_map(|run| run.chunks(PAGE)) {
            let partition = run[0].partition;
            self.check_partition(partition)?;
            let ids: Vec<String> = run.iter().map(EntryId::stream_id).collect();
            dropped += count(&self.one(redis::cmd("XDEL").arg(self.keys.dead(partition)).arg(ids)).await?);
        }
        Ok(dropped)
    }

    pub(super) async fn page(&self, partition: u32, key: &str, from: &str, to: &str, most: usize) -> Result<Vec<Entry>, QueueError> {
        let answer = self.one(redis::cmd("XRANGE").arg(key).arg(from).arg(to).arg("COUNT").arg(most)).await?;
        let Value::Array(entries) = answer else { return Ok(Vec::new()) };
        Ok(entries.iter().filter_map(|entry| Entry::read(partition, entry)).collect())
    }

    pub(super) fn chosen(&self, filter: &Filter) -> Result<Vec<u32>, QueueError> {
        let Some(partition) = filter.partition else { return Ok((0..self.partitions).collect()) };
        self.check_partition(partition).map(|()| vec![partition])
    }

    fn check_partition(&self, partition: u32) -> Result<(), QueueError> {
        if partition < self.partitions {
            return Ok(());
        }
        Err(QueueError::Invalid(format!("there is no partition {partition}: the queue has 0 to {}", self.partitions - 1)))
    }
}

/// Dead letters on their way back, from one partition's dead letters to one partition's jobs.
#[derive(Default)]
struct Run {
    to: (u32, u32),
    arguments: Vec<bytes::Bytes>,
    count: usize,
    bytes: usize,
}

impl Run {
    fn add(&mut self, entry: &Entry, job: Job) {
        self.count += 1;
        self.bytes += entry.bytes();
        self.arguments.push(entry.id.stream_id().into_bytes().into());
        self.arguments.extend(Job { attempts: 0, unserved: 0, ..job }.to_fields());
    }
}

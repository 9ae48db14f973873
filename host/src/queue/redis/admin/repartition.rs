//! Another number of partitions for a queue that is drained: what waits for later and what is dead goes where its session hashes to.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;

use redis::{Pipeline, Value};
use tokio::time;

use super::dead::PAGE;
use super::entry::session_of;
use super::status::members;
use super::{Admin, EntryId, MOVE_DEAD, MOVE_LATER, REPARTITION, count, now_ms};
use crate::queue::QueueError;
use crate::wire::job::JOB_FIELDS;

const SETTLE_DEAD: &str = include_str!("../lua/settle_dead.lua");
const REMOVE_EMPTY: &str = include_str!("../lua/remove_empty.lua");
const END: &str = include_str!("../lua/repartition.lua");

/// How long a process that read `:cfg` before the mark was set may take to see it: it looks each second.
const SETTLE: Duration = Duration::from_secs(2);

/// How far a repartition has come.
#[derive(Debug, Clone, Copy)]
pub struct Move {
    /// Scheduled jobs and dead letters there are.
    pub total: u64,
    /// Those looked at.
    pub seen: u64,
}

/// What a repartition did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Repartitioned {
    /// Partitions before; the same number when there was nothing to do.
    pub from: u32,
    /// Scheduled jobs that changed their partition.
    pub later: u64,
    /// Dead letters that were put in place anew.
    pub dead: u64,
}

impl Admin {
    /// Gives the queue `target` partitions. While it works, and until it has been run to its end, servers and workers that start wait.
    /// Whatever interrupts it, running it again goes on.
    ///
    /// # Errors
    /// [`QueueError::Refused`] while a server or worker lives, jobs wait, or another repartition is not finished; [`QueueError`]
    pub async fn repartition(&mut self, target: u32, mut progress: impl FnMut(Move)) -> Result<Repartitioned, QueueError> {
        self.read_config().await?;
        let from = self.partitions;
        match self.repartition {
            Some(other) if other != target => return Err(QueueError::Refused(unfinished(other))),
            None if from == target => return Ok(Repartitioned { from, ..Repartitioned::default() }),
            _ => {}
        }
        let is_new = self.repartition.is_none();
        let all = from.max(target);
        self.check_drained(all).await?;
        self.one(redis::cmd("HSET").arg(self.keys.config()).arg(REPARTITION).arg(target)).await?;
        time::sleep(SETTLE).await;
        if let Err(error) = self.check_drained(all).await {
            if is_new {
                self.one(redis::cmd("HDEL").arg(self.keys.config()).arg(REPARTITION)).await?;
            }
            return Err(error);
        }
        let mut moved = Move { total: self.movable(all).await?, seen: 0 };
        progress(moved);
        let mut done = Repartitioned { from, ..Repartitioned::default() };
        for partition in 0..all {
            done.later += self
                .move_later(partition, target, |seen| {
                    moved.seen += seen;
                    progress(moved);
                })
                .await?;
        }
        done.dead = self
            .move_dead(all, target, |seen| {
                moved.seen += seen;
                progress(moved);
            })
            .await?;
        for partition in 0..all {
            self.run(SETTLE_DEAD, &[self.keys.dead(partition), self.keys.dead_gathered(partition)], &[]).await?;
            if self.run(REMOVE_EMPTY, &[self.keys.incoming(partition), self.keys.suspects(partition)], &[]).await? == 0 {
                return Err(QueueError::Refused(format!("jobs came to partition {partition} meanwhile; run this again")));
            }
        }
        let partitions = target.to_string();
        self.run(END, &[self.keys.config(), self.keys.owners()], &[partitions.as_bytes(), REPARTITION.as_bytes()]).await?;
        self.read_config().await?;
        Ok(done)
    }

    async fn check_drained(&self, partitions: u32) -> Result<(), QueueError> {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("TIME");
        pipeline.cmd("ZRANGE").arg(self.keys.workers()).arg(0).arg(-1).arg("WITHSCORES");
        pipeline.cmd("ZRANGE").arg(self.keys.nodes()).arg(0).arg(-1).arg("WITHSCORES");
        for partition in 0..partitions {
            pipeline.cmd("XLEN").arg(self.keys.incoming(partition));
        }
        let answers = self.many(&pipeline).await?;
        if let Some(Value::ServerError(error)) = answers.iter().find(|answer| matches!(answer, Value::ServerError(_))) {
            return Err(self.refused(error));
        }
        let now = answers.first().map(now_ms).unwrap_or(0);
        let live = |index: usize| answers.get(index).map(|answer| members(answer, now).len()).unwrap_or(0);
        let (workers, servers) = (live(1), live(2));
        let jobs: u64 = answers.iter().skip(3).map(count).sum();
        if jobs > 0 {
            return Err(QueueError::Refused(format!(
                "{jobs} jobs are not done: stop the servers, let workers run until `plugsocket queue status` shows none, then stop the workers too"
            )));
        }
        if workers + servers > 0 {
            return Err(QueueError::Refused(format!(
                "servers running: {servers}, workers running: {workers}; stop them all first (one that was killed counts until its lease ends)"
            )));
        }
        Ok(())
    }

    async fn movable(&self, partitions: u32) -> Result<u64, QueueError> {
        let mut pipeline = Pipeline::new();
        for partition in 0..partitions {
            pipeline.cmd("ZCARD").arg(self.keys.later(partition));
            pipeline.cmd("XLEN").arg(self.keys.dead(partition));
        }
        Ok(self.many(&pipeline).await?.iter().map(count).sum())
    }

    async fn move_later(&self, partition: u32, target: u32, mut seen: impl FnMut(u64)) -> Result<u64, QueueError> {
        let key = self.keys.later(partition);
        let (mut stay, mut moved) = (0, 0);
        loop {
            let answer = self.one(redis::cmd("ZRANGE").arg(&key).arg(stay).arg(stay + PAGE - 1)).await?;
            let Value::Array(members) = answer else { return Ok(moved) };
            if members.is_empty() {
                return Ok(moved);
            }
            let mut leaving: BTreeMap<u32, Vec<&[u8]>> = BTreeMap::new();
            for member in &members {
                let Value::BulkString(member) = member else { continue };
                match later_home(member, partition, target) {
                    home if home == partition => stay += 1,
                    home => leaving.entry(home).or_default().push(member),
                }
            }
            for (home, members) in leaving {
                moved += self.run(MOVE_LATER, &[key.clone(), self.keys.later(home)], &members).await?;
            }
            seen(members.len() as u64);
        }
    }

    /// Oldest first over all partitions, because each stream takes entries in the order of their times only.
    async fn move_dead(&self, partitions: u32, target: u32, mut seen: impl FnMut(u64)) -> Result<u64, QueueError> {
        let mut sources: Vec<Source> = (0..partitions).map(|partition| Source { partition, ..Source::default() }).collect();
        let mut heap = BinaryHeap::new();
        for source in &mut sources {
            if let Some(id) = self.head(source, target).await? {
                heap.push(Reverse((id.ms, id.sequence, id.partition)));
            }
        }
        let (mut moved, mut batch) = (0, Vec::new());
        while let Some(Reverse((_, _, partition))) = heap.pop() {
            let Some(source) = sources.get_mut(partition as usize) else { continue };
            batch.extend(source.waiting.pop_front());
            if let Some(id) = self.head(source, target).await? {
                heap.push(Reverse((id.ms, id.sequence, id.partition)));
            }
            if batch.len() >= PAGE || heap.is_empty() {
                seen(batch.len() as u64);
                moved += self.gather(std::mem::take(&mut batch)).await?;
            }
        }
        Ok(moved)
    }

    /// The oldest entry of a partition that is still to be moved; reads the next page when needed.
    async fn head(&self, source: &mut Source, target: u32) -> Result<Option<EntryId>, QueueError> {
        if source.waiting.is_empty() && !source.at_end {
            let from = source.last.as_ref().map_or_else(|| "-".to_owned(), |last| format!("({}", last.stream_id()));
            let entries = self.page(source.partition, &self.keys.dead(source.partition), &from, "+", PAGE).await?;
            source.at_end = entries.len() < PAGE;
            source.last = entries.last().map(|entry| entry.id.clone());
            for entry in entries {
                let home = entry.session().map_or(source.partition % target, |session| session.partition(target));
                source.waiting.push_back((entry.id, home));
            }
        }
        Ok(source.waiting.front().map(|(id, _)| id.clone()))
    }

    async fn gather(&self, mut batch: Vec<(EntryId, u32)>) -> Result<u64, QueueError> {
        // Stable: within one stream the order stays.
        batch.sort_by_key(|(_, home)| *home);
        let mut pipeline = Pipeline::new();
        for run in batch.chunk_by(|one, two| (one.0.partition, one.1) == (two.0.partition, two.1)) {
            let (id, home) = &run[0];
            pipeline.cmd("EVAL").arg(MOVE_DEAD).arg(2).arg(self.keys.dead(id.partition)).arg(self.keys.dead_gathered(*home));
            for (id, _) in run {
                pipeline.arg(id.stream_id());
            }
        }
        let mut moved = 0;
        for answer in self.many(&pipeline).await? {
            match answer {
                Value::ServerError(error) => return Err(self.refused(&error)),
                answer => moved += count(&answer),
            }
        }
        Ok(moved)
    }
}

#[derive(Default)]
struct Source {
    partition: u32,
    waiting: VecDeque<(EntryId, u32)>,
    last: Option<EntryId>,
    at_end: bool,
}

/// Where a member of `later` belongs. One that is no job stays if it can; a worker sets it aside when it is due.
fn later_home(member: &[u8], partition: u32, target: u32) -> u32 {
    let meta = JOB_FIELDS.iter().position(|field| *field == "m").unwrap_or(usize::MAX);
    let session = serde_json::from_slice::<Vec<String>>(member).ok().and_then(|fields| session_of(fields.get(meta)?.as_bytes()));
    session.map_or(partition % target, |session| session.partition(target))
}

/// Why nothing may use the queue at present.
pub(in crate::queue::redis) fn unfinished(target: u32) -> String {
    format!(
        "it is getting {target} partitions: `plugsocket queue repartition {target}` is at work, or was interrupted and is to be run again"
    )
}

//! Jobs that are offered, scheduled, taken, settled in every way, and inherited by the next worker.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::agree;
use crate::queue::conformance::backend::{Backend, Kind, job, patiently, take};
use crate::queue::conformance::run;
use crate::queue::{Consumer, Stored, Taken, Verdict};
use crate::wire::ids::{NodeId, SessionId};

const HOUR: Duration = Duration::from_secs(3600);

/// Something that happens to jobs, of which one consumer takes all that wait.
#[derive(Debug, Clone)]
enum Work {
    Offer { session: usize },
    Schedule { session: usize },
    Take,
    Settle { which: usize, verdict: Fate },
    Crash,
    Leave,
}

#[derive(Debug, Clone, Copy)]
enum Fate {
    Done,
    Soon,
    MuchLater,
    Dead,
}

const SESSIONS: usize = 3;

fn work() -> impl Strategy<Value = Work> {
    let fate = prop::sample::select(vec![Fate::Done, Fate::Done, Fate::Soon, Fate::MuchLater, Fate::Dead]);
    prop_oneof![
        6 => (0..SESSIONS).prop_map(|session| Work::Offer { session }),
        1 => (0..SESSIONS).prop_map(|session| Work::Schedule { session }),
        3 => Just(Work::Take),
        4 => (0..8_usize, fate).prop_map(|(which, verdict)| Work::Settle { which, verdict }),
        1 => Just(Work::Crash),
        1 => Just(Work::Leave),
    ]
}

/// What a consumer is told of a job: session, message, attempts, suspect.
type Seen = (String, String, u32, bool);

/// One kind of queue and its only worker.
struct Worker {
    backend: Backend,
    consumer: Arc<dyn Consumer>,
    /// Taken and not settled, in the order of taking.
    hand: Vec<Taken>,
    waiting: usize,
}

impl Worker {
    async fn new(backend: Backend) -> Self {
        let consumer = backend.consumer().await;
        Self { backend, consumer, hand: Vec::new(), waiting: 0 }
    }

    async fn take(&mut self) -> Vec<Seen> {
        let taken = take(&self.consumer, self.waiting).await;
        self.waiting = 0;
        let seen = taken.iter().map(|taken| {
            assert!(self.consumer.may_start(&taken.receipt));
            (taken.job.session.to_string(), taken.job.message_id(), taken.job.attempts, taken.suspect)
        });
        let seen = seen.collect();
        self.hand.extend(taken);
        seen
    }

    async fn settle(&mut self, message: &str, fate: Fate) {
        let index = self.hand.iter().position(|taken| taken.job.message_id() == message).unwrap();
        let Taken { mut job, receipt, .. } = self.hand.remove(index);
        job.attempts += 1;
        let verdict = match fate {
            Fate::Done => Verdict::Done,
            Fate::Soon => Verdict::Later { job: Box::new(job), delay: Duration::ZERO },
            Fate::MuchLater => Verdict::Later { job: Box::new(job), delay: HOUR },
            Fate::Dead => Verdict::Dead { job: Box::new(job), reason: format!("of {message}"), version: String::new() },
        };
        self.waiting += usize::from(matches!(fate, Fate::Soon));
        self.consumer.settle(receipt, verdict).await.unwrap();
        // What is not stored yet when its worker crashes comes again: allowed, but not told apart here.
        self.backend.queue.outbox.flush().await.unwrap();
    }

    async fn replace(&mut self, orderly: bool) {
        if orderly {
            patiently(self.consumer.leave()).await;
        }
        self.waiting += self.hand.drain(..).len();
        let heir = self.backend.consumer().await;
        drop(std::mem::replace(&mut self.consumer, heir));
    }

    async fn step(&mut self, step: &Work, sessions: &[SessionId], number: u64, chosen: Option<&str>) -> Vec<Seen> {
        match step {
            Work::Offer { session } => {
                assert_eq!(self.backend.offer(job(&sessions[*session], number)).await, Stored::Yes);
                self.waiting += 1;
            }
            Work::Schedule { session } => {
                let mut scheduled = job(&sessions[*session], 0);
                scheduled.scheduled_id = Some(format!("scheduled-{number}"));
                self.backend.queue.inbox.schedule(scheduled, Duration::ZERO).await.unwrap();
                self.waiting += 1;
            }
            Work::Take => return self.take().await,
            Work::Settle { verdict, .. } => {
                if let Some(message) = chosen {
                    self.settle(message, *verdict).await;
                }
            }
            Work::Crash => self.replace(false).await,
            Work::Leave => {
                while let Some(taken) = self.hand.first() {
                    let message = taken.job.message_id();
                    self.settle(&message, Fate::Done).await;
                }
                self.replace(true).await;
            }
        }
        Vec::new()
    }
}

/// Checks what one queue showed: each session's messages in order, but for those that were put back or scheduled.
fn in_order(seen: &[Seen], put_back: &BTreeSet<String>) -> bool {
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    seen.iter().filter(|(_, message, ..)| !put_back.contains(message)).all(|(session, message, ..)| {
        let sequence = message.rsplit('-').next().unwrap().parse().unwrap();
        last.insert(session, sequence).is_none_or(|before| before < sequence)
    })
}

#[test]
fn jobs_agree() {
    agree(12, 30, work(), |memory, redis, mut steps| async move {
        steps.extend([Work::Take, Work::Crash, Work::Take]);
        let node = NodeId::random().unwrap();
        let sessions: Vec<SessionId> = (0..SESSIONS).map(|_| SessionId::random(&node).unwrap()).collect();
        let (mut one, mut other) = (Worker::new(memory).await, Worker::new(redis).await);
        let mut put_back = BTreeSet::new();
        for (number, step) in steps.iter().enumerate() {
            let number = number as u64 + 1;
            let chosen = match step {
                Work::Settle { which, .. } if !one.hand.is_empty() => Some(one.hand[which % one.hand.len()].job.message_id()),
                _ => None,
            };
            match (step, &chosen) {
                (Work::Settle { .. }, Some(message)) => drop(put_back.insert(message.clone())),
                (Work::Schedule { .. }, _) => drop(put_back.insert(format!("scheduled-{number}"))),
                _ => {}
            }
            let mut seen = [Vec::new(), Vec::new()];
            for (worker, seen) in [&mut one, &mut other].into_iter().zip(&mut seen) {
                *seen = worker.step(step, &sessions, number, chosen.as_deref()).await;
                prop_assert!(in_order(seen, &put_back), "step {} of {:?}: {:?}", number, &steps, seen);
                seen.sort();
            }
            prop_assert_eq!(&seen[0], &seen[1], "step {} of {:?}", number, &steps);
        }
        let dead = [&one, &other].map(|worker| {
            let mut letters = worker.backend.dead_letters();
            letters.sort();
            letters
        });
        prop_assert_eq!(&dead[0], &dead[1], "{:?}", &steps);
        Ok(())
    });
}

/// A crash is told from a leave by its suspects; that the comparison sees them is no accident.
#[test]
fn what_the_comparison_rests_on() {
    for kind in [Kind::Memory, Kind::Redis] {
        run(kind, |backend| async move {
            let session = SessionId::random(&NodeId::random().unwrap()).unwrap();
            let mut worker = Worker::new(backend).await;
            worker.step(&Work::Offer { session: 0 }, std::slice::from_ref(&session), 1, None).await;
            assert!(!worker.take().await[0].3);
            worker.replace(false).await;
            assert!(!worker.take().await[0].3, "{kind:?}: once");
            worker.replace(false).await;
            assert!(worker.take().await[0].3, "{kind:?}");
        });
    }
}

//! Memory against Redis: random sequences of operations, on which both must agree in everything the contract promises.
//!
//! A failure prints the shortest sequence that fails, and its seed is kept in `host/proptest-regressions`, to be tried first from then on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use plugsocket_plugin::call::{ConnectionInfo, StoreAnswer, StoreRequest};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};

use super::backend::{Backend, Kind, Server, entry, job, options, patiently, take};
use super::outgoing::until;
use crate::queue::{Consumer, Entry, NodeFeed, QueueError, Stored, Taken, Verdict};
use crate::wire::delivery::{Address, Body, Delivery};
use crate::wire::ids::{NodeId, SessionId};
use crate::wire::json::Json;

/// Short, because the heir of a crash waits for it.
const LEASE: Duration = Duration::from_millis(300);
const HOUR: Duration = Duration::from_secs(3600);
const SHRINK_MS_MAX: u32 = 60_000;

/// Tries sequences of `operation` on a fresh pair of queues each.
fn agree<S: Strategy, F>(cases: u32, length: usize, operation: S, case: impl Fn(Backend, Backend, Vec<S::Value>) -> F)
where
    S::Value: Debug + Clone,
    F: Future<Output = Result<(), TestCaseError>>,
{
    let server = Server::start(&[]);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    let config =
        ProptestConfig { cases: asked.unwrap_or(cases), max_shrink_time: SHRINK_MS_MAX, ..ProptestConfig::with_source_file(file!()) };
    let result = TestRunner::new(config).run(&prop::collection::vec(operation, 1..length), |operations| {
        runtime.block_on(async {
            let options = crate::queue::QueueOptions { lease: LEASE, ..options() };
            let redis = Backend::on(Arc::clone(&server), options.clone());
            case(Backend::in_memory(options), redis, operations).await
        })
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

fn store_request() -> impl Strategy<Value = StoreRequest> {
    let key = || prop::sample::select(vec!["a", "b"]).prop_map(ToOwned::to_owned);
    let value = || prop::sample::select(vec!["", "1", "-7", "07", "é\n", "9223372036854775807"]).prop_map(ToOwned::to_owned);
    let ttl = || prop::sample::select(vec![None, Some(3_600_000)]);
    prop_oneof![
        key().prop_map(|key| StoreRequest::Get { key }),
        (key(), value(), ttl()).prop_map(|(key, value, ttl_ms)| StoreRequest::Set { key, value, ttl_ms }),
        key().prop_map(|key| StoreRequest::Delete { key }),
        (key(), prop::sample::select(vec![1, -3, i64::MAX, i64::MIN])).prop_map(|(key, by)| StoreRequest::Add { key, by }),
        (key(), value(), 0..3_u32).prop_map(|(key, value, cap)| StoreRequest::PushCapped { key, value, cap }),
        (key(), 0..4_u32).prop_map(|(key, count)| StoreRequest::Range { key, count }),
        (key(), prop::sample::select(vec![0, 3_600_000])).prop_map(|(key, ttl_ms)| StoreRequest::Expire { key, ttl_ms }),
        (key(), prop::option::of(value()), value()).prop_map(|(key, old, new)| StoreRequest::CompareAndSet { key, old, new }),
    ]
}

#[test]
fn stores_agree() {
    agree(40, 40, store_request(), |memory, redis, requests| async move {
        for request in requests {
            let answers = (memory.queue.store.run("p", request.clone()).await, redis.queue.store.run("p", request.clone()).await);
            // Errors agree in their kind; their words are each queue's own.
            let kind = |answer: Result<StoreAnswer, QueueError>| answer.map_err(|error| std::mem::discriminant(&error));
            prop_assert_eq!(kind(answers.0), kind(answers.1), "{:?}", request);
        }
        Ok(())
    });
}

/// Something that happens to the connection with this number; they are on two nodes in turn.
#[derive(Debug, Clone)]
enum Move {
    Enter { who: usize, alias: Option<&'static str>, user: Option<&'static str>, groups: Vec<&'static str> },
    Leave { who: usize },
    Send { to: Vec<To> },
}

#[derive(Debug, Clone, Copy)]
enum To {
    Who(usize),
    Connection(&'static str),
    User(&'static str),
    Group(&'static str),
    All,
}

const PEOPLE: usize = 4;

fn movement() -> impl Strategy<Value = Move> {
    let alias = || prop::sample::select(vec!["x", "y"]);
    let user = || prop::sample::select(vec!["7", "8"]);
    let group = || prop::sample::select(vec!["g", "h"]);
    let to = prop_oneof![
        (0..PEOPLE).prop_map(To::Who),
        alias().prop_map(To::Connection),
        user().prop_map(To::User),
        group().prop_map(To::Group),
        Just(To::All),
    ];
    let groups = prop::sample::subsequence(vec!["g", "h"], 0..=2);
    prop_oneof![
        (0..PEOPLE, prop::option::weighted(0.8, alias()), prop::option::of(user()), groups).prop_map(|(who, alias, user, groups)| Move::Enter {
            who,
            alias,
            user,
            groups
        }),
        (0..PEOPLE).prop_map(|who| Move::Leave { who }),
        prop::collection::vec(to, 1..3).prop_map(|to| Move::Send { to }),
    ]
}

/// One kind of queue with two nodes, each in a process of its own where there is more than one.
struct Nodes {
    queues: [crate::queue::Queue; 2],
    feeds: [Box<dyn NodeFeed>; 2],
    entries: BTreeMap<usize, Entry>,
}

impl Nodes {
    async fn open(backend: &Backend, nodes: &[NodeId; 2]) -> Self {
        let queues = [backend.queue.clone(), backend.other()];
        let feeds =
            [patiently(queues[0].presence.open(&nodes[0])).await.unwrap(), patiently(queues[1].presence.open(&nodes[1])).await.unwrap()];
        Self { queues, feeds, entries: BTreeMap::new() }
    }

    async fn step(&mut self, number: usize, step: &Move, sessions: &[SessionId]) {
        match step {
            Move::Enter { who, alias, user, groups } => {
                let new = entry(&sessions[*who], *alias, *user, groups);
                self.queues[who % 2].presence.enter(&new, self.entries.get(who)).await.unwrap();
                self.entries.insert(*who, new);
            }
            Move::Leave { who } => {
                if let Some(old) = self.entries.remove(who) {
                    self.queues[who % 2].presence.leave(&old).await.unwrap();
                }
            }
            Move::Send { to } => {
                let to = to.iter().map(|to| match to {
                    To::Who(who) => Address::Session(sessions[*who].clone()),
                    To::Connection(id) => Address::Connection((*id).to_owned()),
                    To::User(id) => Address::User((*id).to_owned()),
                    To::Group(id) => Address::Group((*id).to_owned()),
                    To::All => Address::All,
                });
                let body = Body::Message { action: number.to_string(), data: Json::NULL };
                let delivery = Delivery { to: to.collect(), except: None, body, origin: None };
                self.queues[0].outbox.send(delivery).await.unwrap();
                self.queues[0].outbox.flush().await.unwrap();
            }
        }
    }

    /// Who is there, in an order that does not depend on the queue.
    async fn lookups(&self) -> Vec<Vec<ConnectionInfo>> {
        let presence = &self.queues[1].presence;
        let mut found = Vec::new();
        for id in ["x", "y"] {
            found.push(presence.connection(id).await.unwrap().into_iter().collect());
        }
        for user in ["7", "8"] {
            found.push(presence.user_connections(user).await.unwrap());
        }
        for group in ["g", "h"] {
            found.push(presence.members(group).await.unwrap());
        }
        for list in &mut found {
            list.iter_mut().for_each(|info: &mut ConnectionInfo| info.groups.sort());
            list.sort_by_key(|info| format!("{info:?}"));
        }
        found
    }

    /// What each node got, by number of the step.
    async fn received(&mut self) -> [Vec<usize>; 2] {
        self.queues[0].outbox.send(Delivery::message(Address::All, "end", Json::NULL)).await.unwrap();
        let mut received = [Vec::new(), Vec::new()];
        for (feed, numbers) in self.feeds.iter_mut().zip(&mut received) {
            for delivery in until(feed, "end").await {
                let Body::Message { action, .. } = delivery.body else { panic!("{delivery:?}") };
                numbers.push(action.parse().unwrap());
            }
        }
        received
    }
}

#[test]
fn presence_and_deliveries_agree() {
    agree(24, 60, movement(), |memory, redis, steps| async move {
        let nodes = [NodeId::random().unwrap(), NodeId::random().unwrap()];
        let sessions: Vec<SessionId> = (0..PEOPLE).map(|who| SessionId::random(&nodes[who % 2]).unwrap()).collect();
        let (mut one, mut other) = (Nodes::open(&memory, &nodes).await, Nodes::open(&redis, &nodes).await);
        for (number, step) in steps.iter().enumerate() {
            one.step(number, step, &sessions).await;
            other.step(number, step, &sessions).await;
            prop_assert_eq!(one.lookups().await, other.lookups().await, "after step {} of {:?}", number, &steps);
        }
        let (expected, received) = (one.received().await, other.received().await);
        for (node, (expected, received)) in expected.iter().zip(&received).enumerate() {
            // A route may lead to a node for a while after it was needed: then it gets more; never less, and nothing twice.
            let wanted = received.iter().copied().filter(|number| expected.contains(number) || !lingers(&steps, *number, node));
            prop_assert_eq!(&wanted.collect::<Vec<_>>(), expected, "node {} of {:?}", node, &steps);
            prop_assert!(received.is_sorted_by(|one, next| one < next), "{:?} of {:?}", received, &steps);
        }
        Ok(())
    });
}

/// Whether the send that is this step goes to a user or a group that the node had before it.
fn lingers(steps: &[Move], number: usize, node: usize) -> bool {
    let Move::Send { to } = &steps[number] else { return false };
    steps[..number].iter().any(|step| match step {
        Move::Enter { who, user, groups, .. } if who % 2 == node => to.iter().any(|to| match to {
            To::User(id) => *user == Some(*id),
            To::Group(id) => groups.contains(id),
            _ => false,
        }),
        _ => false,
    })
}

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
        super::run(kind, |backend| async move {
            let session = SessionId::random(&NodeId::random().unwrap()).unwrap();
            let mut worker = Worker::new(backend).await;
            worker.step(&Work::Offer { session: 0 }, std::slice::from_ref(&session), 1, None).await;
            assert!(!worker.take().await[0].3);
            worker.replace(false).await;
            assert!(worker.take().await[0].3, "{kind:?}");
        });
    }
}

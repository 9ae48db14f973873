//! One partition's trouble is its own: flooded, unreadable, or left behind by a worker that goes.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::backend::{Backend, Kind, Server, job, options, patiently, session, take};
use super::faults::on_server;
use super::on_both;
use super::redis_only::take_through;
use crate::queue::{Consumer, Receipt, Stored, Verdict};
use crate::wire::ids::{NodeId, SessionId};

on_both!(
    leaving_does_not_wait_for_jobs_that_are_not_finished,
    a_partition_whose_jobs_are_settled_is_never_full,
    partitions_that_are_never_empty_take_turns,
);

/// Far less than any wait for what never comes.
const SOON: Duration = Duration::from_secs(5);

/// Two sessions in different partitions.
fn apart(backend: &Backend) -> [SessionId; 2] {
    let node = NodeId::random().unwrap();
    let (first, partitions) = (session(&node), backend.options.partitions);
    let other = std::iter::repeat_with(|| session(&node)).find(|other| other.partition(partitions) != first.partition(partitions));
    [first, other.unwrap()]
}

fn key(backend: &Backend, session: &SessionId, kind: &str) -> String {
    format!("ps:{{{}:p{}}}:{kind}", backend.options.app, session.partition(backend.options.partitions))
}

async fn leaving_does_not_wait_for_jobs_that_are_not_finished(backend: Backend) {
    let consumer = backend.consumer().await;
    let session = session(&NodeId::random().unwrap());
    for sequence in [1, 2] {
        backend.offer(job(&session, sequence)).await;
    }
    let finished = take(&consumer, 2).await.remove(0);
    consumer.settle(finished.receipt, Verdict::Done).await.unwrap();
    let started = Instant::now();
    patiently(consumer.leave()).await;
    assert!(started.elapsed() < SOON, "it took {:?}", started.elapsed());
    let heir = backend.consumer().await;
    assert_eq!(take(&heir, 1).await[0].job.sequence, 2, "the finished one was settled");
}

async fn a_partition_whose_jobs_are_settled_is_never_full(backend: Backend) {
    const LIMIT: usize = 400;
    let options = crate::queue::QueueOptions { partition_jobs_max: LIMIT, ..options() };
    let backend = backend.beside(options);
    let consumer = backend.consumer().await;
    let session = session(&NodeId::random().unwrap());
    // Long enough for lengths to be asked for, and to be counted up from.
    let (started, mut sequence) = (Instant::now(), 0);
    while started.elapsed() < Duration::from_millis(2500) || sequence < 3 * LIMIT as u64 {
        for _ in 0..10 {
            sequence += 1;
            assert_eq!(backend.offer(job(&session, sequence)).await, Stored::Yes, "job {sequence} after {:?}", started.elapsed());
        }
        for taken in take(&consumer, 10).await {
            consumer.settle(taken.receipt, Verdict::Done).await.unwrap();
        }
    }
}

async fn partitions_that_are_never_empty_take_turns(backend: Backend) {
    const TAKE: u64 = 10;
    const TAKES: u64 = 40;
    let consumer = backend.consumer().await;
    let sessions = apart(&backend);
    for (session, sequence) in sessions.iter().flat_map(|session| (1..=TAKES * TAKE).map(move |sequence| (session, sequence))) {
        assert_eq!(backend.offer(job(session, sequence)).await, Stored::Yes);
    }
    let mut had = [0; 2];
    for _ in 0..TAKES {
        for taken in consumer.take(TAKE as usize).await.unwrap() {
            had[usize::from(taken.job.session == sessions[1])] += 1;
            consumer.settle(taken.receipt, Verdict::Done).await.unwrap();
        }
    }
    assert!(had.iter().all(|jobs| *jobs > TAKES * TAKE / 4), "{had:?}");
}

#[test]
fn a_flooded_partition_does_not_wait_for_silent_ones() {
    on_server(|server| async move {
        const JOBS: u64 = 600;
        let backend = Backend::on(Arc::clone(&server), crate::queue::QueueOptions { partition_held_max: 20, ..options() });
        let consumer = backend.consumer().await;
        let session = session(&NodeId::random().unwrap());
        for sequence in 1..=JOBS {
            assert_eq!(backend.offer(job(&session, sequence)).await, Stored::Yes);
        }
        let started = Instant::now();
        let mut last = 0;
        while last < JOBS {
            for taken in consumer.take(20).await.unwrap() {
                assert_eq!(taken.job.sequence, last + 1);
                last += 1;
                consumer.settle(taken.receipt, Verdict::Done).await.unwrap();
            }
            assert!(started.elapsed() < SOON, "only {last} of {JOBS} jobs came in {SOON:?}");
        }
    });
}

#[test]
fn marks_of_suspects_that_cannot_be_read_hold_up_no_other_partition() {
    on_server(|server| async move {
        let backend = Backend::on(Arc::clone(&server), options());
        let sessions = apart(&backend);
        backend.command::<()>(redis::cmd("SET").arg(key(&backend, &sessions[0], "suspects")).arg("no hash"));
        for session in &sessions {
            backend.offer(job(session, 1)).await;
        }
        let consumer = backend.consumer().await;
        assert_eq!(take_through(&consumer, 1).await[0].job.session, sessions[1]);
        backend.command::<()>(redis::cmd("DEL").arg(key(&backend, &sessions[0], "suspects")));
        assert_eq!(take_through(&consumer, 1).await[0].job.session, sessions[0], "it heals");
    });
}

/// A suspect that was started alone, and whose consumer's lease has lapsed meanwhile, because Redis stood still.
async fn lapsed_suspect(server: &Server, consumer: &Arc<dyn Consumer>) -> Receipt {
    let receipt = take(consumer, 1).await.remove(0).receipt;
    consumer.start_alone(&receipt).await.unwrap();
    server.signal("STOP");
    patiently(async {
        while consumer.may_start(&receipt) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    server.signal("CONT");
    receipt
}

#[test]
fn no_mark_of_a_suspect_outlives_its_entry() {
    on_server(|server| async move {
        let backend = Backend::on(Arc::clone(&server), options());
        let consumer = backend.consumer().await;
        let session = session(&NodeId::random().unwrap());
        backend.offer(job(&session, 1)).await;
        let receipt = lapsed_suspect(&server, &consumer).await;
        // Its reply was out already.
        consumer.settle(receipt, Verdict::Done).await.unwrap();
        backend.queue.outbox.flush().await.unwrap();
        let marks: i64 = backend.command(redis::cmd("HLEN").arg(key(&backend, &session, "suspects")));
        assert_eq!(marks, 0);
    });
}

#[test]
fn a_lapse_of_the_lease_is_no_crash_of_the_suspect_that_runs() {
    on_server(|server| async move {
        let backend = Backend::on(Arc::clone(&server), options());
        let consumer = backend.consumer().await;
        backend.offer(job(&session(&NodeId::random().unwrap()), 1)).await;
        let first = lapsed_suspect(&server, &consumer).await;
        // Its call has not ended yet, so that the start is not taken back.
        let again = take_through(&consumer, 1).await.remove(0);
        assert_eq!((again.suspect, again.crashes), (true, 0));
        consumer.retract_alone(&first).await.unwrap();
        consumer.start_alone(&again.receipt).await.unwrap();
        drop(consumer);
        let heir = backend.consumer().await;
        let again = take_through(&heir, 1).await.remove(0);
        assert_eq!((again.suspect, again.crashes), (true, 1), "this one was");
    });
}

#[test]
fn however_many_are_scheduled_a_job_is_put_back() {
    super::run(Kind::Memory, |backend| async move {
        let consumer = backend.consumer().await;
        let session = session(&NodeId::random().unwrap());
        backend.offer(job(&session, 1)).await;
        let taken = take(&consumer, 1).await.remove(0);
        while backend.queue.inbox.schedule(job(&session, 0), Duration::from_secs(3600)).await.is_ok() {}
        let verdict = Verdict::Later { job: Box::new(taken.job), delay: Duration::ZERO };
        consumer.settle(taken.receipt, verdict).await.unwrap();
        assert_eq!(take(&consumer, 1).await[0].job.sequence, 1);
    });
}

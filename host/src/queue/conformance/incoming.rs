//! Jobs: offered, taken in order, settled, taken over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backend::{Backend, PATIENCE, job, offer, patiently, session, take};
use super::on_both;
use crate::queue::{Queue, Stored, Verdict};
use crate::wire::ids::{NodeId, SessionId};

on_both!(
    a_job_is_taken_and_settled,
    done_without_waiting_is_done,
    jobs_of_a_session_come_in_order,
    workers_come_and_go_under_load,
    a_crashed_workers_jobs_come_again_in_order,
    a_suspects_lonely_starts_are_counted,
    later_comes_back_with_its_attempts,
    dead_is_recorded,
    what_was_never_queued_is_set_aside,
    old_dead_letters_go_when_another_comes,
    a_scheduled_job_comes_in_its_time,
    a_full_partition_refuses,
);

async fn a_job_is_taken_and_settled(backend: Backend) {
    let consumer = backend.consumer().await;
    let sent = job(&session(&NodeId::random().unwrap()), 1);
    assert_eq!(backend.offer(sent.clone()).await, Stored::Yes);
    let taken = take(&consumer, 1).await.remove(0);
    assert_eq!((&taken.job, taken.suspect), (&sent, false));
    assert!(consumer.may_start(&taken.receipt));
    consumer.settle(taken.receipt, Verdict::Done).await.unwrap();
    patiently(consumer.leave()).await;
    let second = backend.consumer().await;
    assert!(second.take(10).await.unwrap().is_empty(), "a settled job is gone");
    assert_eq!(backend.offer(job(&sent.session, 2)).await, Stored::Yes);
    assert_eq!(take(&second, 1).await[0].job.sequence, 2);
}

async fn done_without_waiting_is_done(backend: Backend) {
    let consumer = backend.consumer().await;
    let session = session(&NodeId::random().unwrap());
    for sequence in 1..=2 {
        assert_eq!(backend.offer(job(&session, sequence)).await, Stored::Yes);
    }
    for taken in take(&consumer, 2).await {
        assert!(consumer.try_done(&taken.receipt), "there is room");
    }
    patiently(consumer.leave()).await;
    let second = backend.consumer().await;
    assert!(second.take(10).await.unwrap().is_empty(), "they are gone");
    assert_eq!(backend.offer(job(&session, 3)).await, Stored::Yes);
    assert_eq!(take(&second, 1).await[0].job.sequence, 3);
}

async fn jobs_of_a_session_come_in_order(backend: Backend) {
    let node = NodeId::random().unwrap();
    let sessions: Vec<SessionId> = (0..10).map(|_| session(&node)).collect();
    let stored = Arc::new(Mutex::new(0));
    for sequence in 1..=50 {
        for session in &sessions {
            let stored = Arc::clone(&stored);
            let mut held = Some((job(session, sequence), Box::new(move |_| *stored.lock().unwrap() += 1) as _));
            while let Some((job, on_stored)) = held.take() {
                if let Err(full) = backend.queue.inbox.offer(job, on_stored) {
                    held = Some((full.offered, full.on_stored));
                    backend.queue.inbox.room().await;
                }
            }
        }
    }
    let consumer = backend.consumer().await;
    let mut seen: HashMap<SessionId, u64> = HashMap::new();
    for taken in take(&consumer, 500).await {
        let last = seen.entry(taken.job.session.clone()).or_insert(0);
        assert_eq!(taken.job.sequence, *last + 1);
        *last += 1;
        consumer.settle(taken.receipt, Verdict::Done).await.unwrap();
    }
    assert_eq!(*stored.lock().unwrap(), 500);
}

/// Every job that ran, by session, in the order of running.
type Ran = Arc<Mutex<HashMap<SessionId, Vec<u64>>>>;

async fn work(queue: Queue, ran: Ran, stop: CancellationToken) {
    let consumer = queue.inbox.consume(&NodeId::random().unwrap()).await.unwrap();
    while !stop.is_cancelled() {
        for taken in consumer.take(7).await.unwrap() {
            tokio::time::sleep(Duration::from_micros(200)).await;
            ran.lock().unwrap().entry(taken.job.session).or_default().push(taken.job.sequence);
            consumer.settle(taken.receipt, Verdict::Done).await.unwrap();
        }
    }
    // What is left in hand goes to the others; the rest of it was never started.
    consumer.leave().await;
}

async fn workers_come_and_go_under_load(backend: Backend) {
    const EACH: u64 = 60;
    let node = NodeId::random().unwrap();
    let sessions: Vec<SessionId> = (0..40).map(|_| session(&node)).collect();
    let ran: Ran = Arc::default();
    let mut workers = JoinSet::new();
    let mut stops = Vec::new();
    let mut join = |workers: &mut JoinSet<()>| {
        let stop = CancellationToken::new();
        workers.spawn(work(backend.other(), Arc::clone(&ran), stop.clone()));
        stops.push(stop);
    };
    join(&mut workers);
    for sequence in 1..=EACH {
        for session in &sessions {
            assert_eq!(offer(&backend.queue, job(session, sequence)).await, Stored::Yes);
        }
        if sequence % 20 == 0 {
            join(&mut workers);
        }
    }
    stops[0].cancel();
    let started = Instant::now();
    while ran.lock().unwrap().values().map(Vec::len).sum::<usize>() < sessions.len() * EACH as usize {
        assert!(started.elapsed() < PATIENCE, "jobs are missing");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stops.iter().for_each(CancellationToken::cancel);
    while let Some(ended) = patiently(workers.join_next()).await {
        ended.unwrap();
    }
    for sequences in ran.lock().unwrap().values() {
        assert_eq!(*sequences, (1..=EACH).collect::<Vec<_>>(), "each once, in order");
    }
}

async fn a_crashed_workers_jobs_come_again_in_order(backend: Backend) {
    let crashing = backend.consumer().await;
    let session = session(&NodeId::random().unwrap());
    for sequence in 1..=20 {
        backend.offer(job(&session, sequence)).await;
    }
    let first = take(&crashing, 10).await;
    assert_eq!(first.len(), 10);
    drop(crashing);
    let heir = backend.consumer().await;
    let again = take(&heir, 20).await;
    assert_eq!(again.iter().map(|taken| taken.job.sequence).collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
    assert!(again.iter().all(|taken| !taken.suspect), "any worker may be killed once");
    let kept = again.into_iter().map(|taken| taken.receipt).collect::<Vec<_>>();
    for receipt in &kept[..5] {
        heir.settle(*receipt, Verdict::Done).await.unwrap();
    }
    backend.queue.outbox.flush().await.unwrap();
    drop(heir);
    let heir = backend.consumer().await;
    let again = take(&heir, 15).await;
    assert_eq!(again.iter().map(|taken| taken.job.sequence).collect::<Vec<_>>(), (6..=20).collect::<Vec<_>>());
    let suspects: Vec<_> = again.iter().filter(|taken| taken.suspect).map(|taken| taken.job.sequence).collect();
    assert_eq!(suspects, [6, 7, 8, 9, 10], "those that were in hand at two crashes");
    for taken in again {
        assert!(heir.may_start(&taken.receipt));
        heir.settle(taken.receipt, Verdict::Done).await.unwrap();
    }
}

async fn a_suspects_lonely_starts_are_counted(backend: Backend) {
    let session = session(&NodeId::random().unwrap());
    for sequence in 1..=2 {
        backend.offer(job(&session, sequence)).await;
    }
    let mut holder = backend.consumer().await;
    take(&holder, 2).await;
    drop(holder); // Any worker may be killed once.
    holder = backend.consumer().await;
    assert!(take(&holder, 2).await.iter().all(|taken| !taken.suspect));
    for crashes in 0..3 {
        drop(holder); // Crashes.
        holder = backend.consumer().await;
        let taken = take(&holder, 2).await;
        let seen: Vec<_> = taken.iter().map(|taken| (taken.job.sequence, taken.suspect, taken.crashes)).collect();
        assert_eq!(seen, [(1, true, crashes), (2, true, 0)]);
        holder.start_alone(&taken[0].receipt).await.unwrap();
        // Started as well, but nobody crashed at it.
        holder.start_alone(&taken[1].receipt).await.unwrap();
        holder.retract_alone(&taken[1].receipt).await.unwrap();
    }
    drop(holder);
    let last = backend.consumer().await;
    for taken in take(&last, 2).await {
        last.settle(taken.receipt, Verdict::Done).await.unwrap();
    }
    patiently(last.leave()).await;
    if backend.server.is_some() {
        let key = format!("ps:{{{}:p{}}}:suspects", backend.options.app, session.partition(backend.options.partitions));
        assert!(!backend.command::<bool>(redis::cmd("EXISTS").arg(key)), "nothing is left of a count");
    }
}

async fn later_comes_back_with_its_attempts(backend: Backend) {
    let consumer = backend.consumer().await;
    let session = session(&NodeId::random().unwrap());
    backend.offer(job(&session, 1)).await;
    let taken = take(&consumer, 1).await.remove(0);
    let (delay, started) = (Duration::from_millis(300), Instant::now());
    let mut back = taken.job;
    back.attempts = 1;
    consumer.settle(taken.receipt, Verdict::Later { job: Box::new(back.clone()), delay }).await.unwrap();
    let taken = take(&consumer, 1).await.remove(0);
    assert_eq!(taken.job, back);
    assert!(started.elapsed() >= delay - Duration::from_millis(5), "came after {:?}", started.elapsed());
    consumer.settle(taken.receipt, Verdict::Done).await.unwrap();
    assert!(consumer.take(1).await.unwrap().is_empty());
}

async fn old_dead_letters_go_when_another_comes(backend: Backend) {
    let mut options = super::backend::options();
    (options.partitions, options.dead_age_max) = (1, Duration::from_millis(100));
    let brief = match &backend.server {
        Some(server) => Backend::on(Arc::clone(server), options),
        None => Backend::in_memory(options),
    };
    let consumer = brief.consumer().await;
    let session = session(&NodeId::random().unwrap());
    for sequence in [1, 2] {
        brief.offer(job(&session, sequence)).await;
        let taken = take(&consumer, 1).await.remove(0);
        let verdict = Verdict::Dead { job: Box::new(taken.job), reason: "no use".to_owned(), version: String::new() };
        consumer.settle(taken.receipt, verdict).await.unwrap();
        brief.queue.outbox.flush().await.unwrap();
        assert_eq!(brief.dead_letters().last().map(|(action, _)| action.clone()), Some(format!("a{sequence}")));
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    assert_eq!(brief.dead_letters().len(), 1);
}

async fn dead_is_recorded(backend: Backend) {
    let consumer = backend.consumer().await;
    let session = session(&NodeId::random().unwrap());
    backend.offer(job(&session, 1)).await;
    let taken = take(&consumer, 1).await.remove(0);
    let verdict = Verdict::Dead { job: Box::new(taken.job), reason: "no use".to_owned(), version: "v".to_owned() };
    consumer.settle(taken.receipt, verdict).await.unwrap();
    backend.queue.outbox.flush().await.unwrap();
    assert_eq!(backend.dead_letters(), [("a1".to_owned(), "no use".to_owned())]);
    assert!(consumer.take(1).await.unwrap().is_empty());
}

async fn what_was_never_queued_is_set_aside(backend: Backend) {
    let consumer = backend.consumer().await;
    let session = session(&NodeId::random().unwrap());
    backend.queue.inbox.set_aside(job(&session, 1), "no use", "v").await.unwrap();
    assert_eq!(backend.dead_letters(), [("a1".to_owned(), "no use".to_owned())]);
    assert!(consumer.take(1).await.unwrap().is_empty(), "it does not run");
}

async fn a_scheduled_job_comes_in_its_time(backend: Backend) {
    let session = session(&NodeId::random().unwrap());
    let consumer = backend.consumer().await;
    let started = Instant::now();
    for (id, delay) in [("slow", 400), ("fast", 100)] {
        let mut scheduled = job(&session, 0);
        scheduled.scheduled_id = Some(id.to_owned());
        backend.queue.inbox.schedule(scheduled, Duration::from_millis(delay)).await.unwrap();
    }
    let taken = take(&consumer, 2).await;
    assert!(started.elapsed() >= Duration::from_millis(395));
    assert_eq!(taken.iter().map(|taken| taken.job.message_id()).collect::<Vec<_>>(), ["fast", "slow"]);
}

async fn a_full_partition_refuses(backend: Backend) {
    // 100 000 jobs would be slow; the limit itself is what is tried, with a queue of its own.
    let mut options = super::backend::options();
    options.partition_jobs_max = 5;
    let small = backend.beside(options);
    let session = session(&NodeId::random().unwrap());
    let started = Instant::now();
    for sequence in 1.. {
        match small.offer(job(&session, sequence)).await {
            Stored::Yes => {}
            Stored::No(reason) => {
                assert!(reason.contains("full") && sequence > 5, "{sequence}: {reason}");
                return;
            }
            Stored::Unknown => panic!("unknown"),
        }
        assert!(started.elapsed() < PATIENCE, "never full");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

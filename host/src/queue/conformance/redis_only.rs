//! What only the Redis queue can meet: other writers, restarts, a flush, PHP.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::backend::{Backend, Kind, PATIENCE, Server, entry, job, options, patiently, session, take};
use super::outgoing::until;
use crate::queue::{Consumer, Health, Queue, QueueError, Stored, Verdict, redis as redis_queue};
use crate::wire::delivery::{Address, Body, Delivery};
use crate::wire::ids::NodeId;
use crate::wire::job::JOB_FIELDS;
use crate::wire::json::Json;

pub(super) async fn healthy(queue: &Queue, up: bool) -> Health {
    let mut health = queue.health.clone();
    patiently(health.wait_for(|health| (*health == Health::Up) == up)).await.unwrap().clone()
}

/// Takes on through errors, as a worker does.
pub(super) async fn take_through(consumer: &Arc<dyn Consumer>, count: usize) -> Vec<crate::queue::Taken> {
    let mut taken = Vec::new();
    patiently(async {
        while taken.len() < count {
            match consumer.take(count - taken.len()).await {
                Ok(more) => taken.extend(more),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await;
    taken
}

fn run<F: Future<Output = ()>>(case: impl FnOnce(Backend) -> F) {
    super::run(Kind::Redis, case);
}

#[test]
fn a_bad_url_or_app_is_refused() {
    for (url, app) in [("http://x", "a"), ("redis://", "a b"), ("", "a")] {
        let bad = crate::queue::QueueOptions { app: app.to_owned(), ..options() };
        let opened = redis_queue::open(url, bad, CancellationToken::new(), &TaskTracker::new());
        assert!(matches!(opened, Err(QueueError::Invalid(_))), "{url} {app}");
    }
}

#[test]
fn an_older_releases_queue_is_read_and_marked_and_a_newer_ones_is_refused() {
    run(|backend| async move {
        let key = format!("ps:{{{}}}:cfg", backend.options.app);
        let session = session(&NodeId::random().unwrap());
        let partition = format!("ps:{{{}:p{}}}:in", backend.options.app, session.partition(backend.options.partitions));
        let mut add = redis::cmd("XADD");
        add.arg(&partition).arg("*");
        for (name, value) in JOB_FIELDS.iter().zip(job(&session, 1).to_fields()) {
            add.arg(*name).arg(&value[..]);
        }
        backend.command::<String>(&add);
        backend.command::<i32>(redis::cmd("HSET").arg(&key).arg("format").arg(1));
        let (url, stop, tasks) = (backend.server.as_ref().unwrap().url(), CancellationToken::new(), TaskTracker::new());
        let queue = redis_queue::open(&url, backend.options.clone(), stop.clone(), &tasks).unwrap();
        healthy(&queue, true).await;
        assert_eq!(backend.command::<String>(redis::cmd("HGET").arg(&key).arg("format")), "2");
        let consumer = patiently(queue.inbox.consume(&NodeId::random().unwrap())).await.unwrap();
        assert_eq!(take_through(&consumer, 1).await[0].job.sequence, 1, "a job of eight fields");
        backend.command::<i32>(redis::cmd("HSET").arg(&key).arg("format").arg(3));
        let newer = redis_queue::open(&url, backend.options.clone(), stop.clone(), &tasks).unwrap();
        let is_refused = |health: &Health| matches!(health, Health::Down(reason) if reason.contains("has format 3"));
        patiently(newer.health.clone().wait_for(is_refused)).await.unwrap();
        stop.cancel();
    });
}

#[test]
fn garbage_in_a_partition_is_set_aside() {
    run(|backend| async move {
        let consumer = backend.consumer().await;
        let session = session(&NodeId::random().unwrap());
        let key = format!("ps:{{{}:p{}}}:in", backend.options.app, session.partition(backend.options.partitions));
        backend.command::<String>(redis::cmd("XADD").arg(&key).arg("*").arg("a").arg("odd"));
        backend.offer(job(&session, 1)).await;
        assert_eq!(take(&consumer, 1).await[0].job.sequence, 1, "the loop goes on");
        backend.queue.outbox.flush().await.unwrap();
        let dead = backend.dead_letters();
        assert_eq!(dead.len(), 1);
        assert!(dead[0].0 == "odd" && dead[0].1.contains("is missing"), "{dead:?}");
    });
}

#[test]
fn a_write_sent_twice_runs_once() {
    run(|backend| async move {
        let consumer = backend.consumer().await;
        let session = session(&NodeId::random().unwrap());
        for sequence in [1, 2, 1, 2, 3] {
            backend.offer(job(&session, sequence)).await;
        }
        let taken = take(&consumer, 3).await;
        assert_eq!(taken.iter().map(|taken| taken.job.sequence).collect::<Vec<_>>(), [1, 2, 3]);
        for taken in taken {
            consumer.settle(taken.receipt, Verdict::Done).await.unwrap();
        }
        backend.offer(job(&session, 2)).await;
        backend.offer(job(&session, 4)).await;
        assert_eq!(take(&consumer, 1).await[0].job.sequence, 4);
    });
}

#[test]
fn an_absent_redis_is_waited_for() {
    let server = Server::absent(&[]);
    super::run(Kind::Memory, |_| async move {
        let backend = Backend::on(Arc::clone(&server), options());
        let session = session(&NodeId::random().unwrap());
        let Health::Down(reason) = healthy(&backend.queue, false).await else { panic!("not down") };
        assert!(!reason.is_empty());
        assert!(backend.queue.inbox.offer(job(&session, 1), Box::new(|_| {})).is_err(), "not stored, and said so at once");
        let launching = Arc::clone(&server);
        tokio::task::spawn_blocking(move || launching.launch()).await.unwrap();
        healthy(&backend.queue, true).await;
        let consumer = backend.consumer().await;
        assert_eq!(backend.offer(job(&session, 1)).await, Stored::Yes);
        assert_eq!(take(&consumer, 1).await.len(), 1);
    });
}

#[test]
fn a_restart_loses_nothing_that_was_confirmed() {
    let server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    super::run(Kind::Memory, |_| async move {
        let backend = Backend::on(Arc::clone(&server), options());
        let consumer = backend.consumer().await;
        let session = session(&NodeId::random().unwrap());
        let node = session.node();
        let mut feed = patiently(backend.queue.presence.open(&node)).await.unwrap();
        backend.queue.presence.enter(&entry(&session, Some("bob"), None, &["g"]), None).await.unwrap();
        for sequence in 1..=10 {
            assert_eq!(backend.offer(job(&session, sequence)).await, Stored::Yes);
        }
        for taken in take(&consumer, 5).await {
            consumer.settle(taken.receipt, Verdict::Done).await.unwrap();
        }
        backend.queue.outbox.flush().await.unwrap();
        let restarting = Arc::clone(&server);
        tokio::task::spawn_blocking(move || {
            restarting.stop();
            restarting.launch();
        })
        .await
        .unwrap();
        for sequence in 11..=20 {
            assert_eq!(backend.offer(job(&session, sequence)).await, Stored::Yes);
        }
        let rest = take_through(&consumer, 15).await;
        assert_eq!(rest.iter().map(|taken| taken.job.sequence).collect::<Vec<_>>(), (6..=20).collect::<Vec<_>>());
        let to = Address::Group("g".to_owned());
        backend.queue.outbox.send(Delivery::message(to, "end", Json::NULL)).await.unwrap();
        until(&mut feed, "end").await;
    });
}

#[test]
fn a_stalled_redis_loses_and_reorders_nothing() {
    let server = Server::start(&[]);
    super::run(Kind::Memory, |_| async move {
        let mut options = options();
        options.confirm_timeout = PATIENCE;
        let backend = Backend::on(Arc::clone(&server), options);
        let consumer = backend.consumer().await;
        let session = session(&NodeId::random().unwrap());
        backend.offer(job(&session, 1)).await;
        take(&consumer, 1).await;
        server.signal("STOP");
        let mut waiting = tokio::task::JoinSet::new();
        for sequence in 2..=50 {
            let (sender, stored) = tokio::sync::oneshot::channel();
            let offered = backend.queue.inbox.offer(job(&session, sequence), Box::new(move |stored| drop(sender.send(stored))));
            assert!(offered.is_ok());
            waiting.spawn(stored);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // Longer than any deadline of a connection: everything is given up and made anew.
        tokio::time::sleep(Duration::from_millis(4500)).await;
        server.signal("CONT");
        while let Some(stored) = patiently(waiting.join_next()).await {
            assert_eq!(stored.unwrap().unwrap(), Stored::Yes);
        }
        let taken = take_through(&consumer, 49).await;
        assert_eq!(taken.iter().map(|taken| taken.job.sequence).collect::<Vec<_>>(), (2..=50).collect::<Vec<_>>());
    });
}

#[test]
fn many_nodes_share_one_stream_for_all() {
    run(|backend| async move {
        let mut feed = patiently(backend.queue.presence.open(&NodeId::random().unwrap())).await.unwrap();
        let mut add = redis::cmd("ZADD");
        add.arg(format!("ps:{{{}}}:nodes", backend.options.app));
        for node in 0..40 {
            add.arg("9e15").arg(format!("fake{node}"));
        }
        backend.command::<()>(&add);
        let all = Delivery::message(Address::All, "native", Json::NULL);
        backend.queue.outbox.send(all).await.unwrap();
        backend.queue.outbox.flush().await.unwrap();
        let item = r#"{"to":{"broadcast":true},"action":"end"}"#;
        backend.command::<()>(redis::cmd("RPUSH").arg(&backend.options.php_lists[0]).arg(item));
        assert_eq!(until(&mut feed, "end").await.len(), 1);
        let stored: u32 = backend.command(redis::cmd("XLEN").arg(format!("ps:{{{}}}:all", backend.options.app)));
        assert_eq!(stored, 2);
    });
}

#[test]
fn a_flush_is_repaired() {
    let server = Server::start(&[]);
    super::run(Kind::Memory, |_| async move {
        let backend = Backend::on(Arc::clone(&server), options());
        let consumer = backend.consumer().await;
        let session = session(&NodeId::random().unwrap());
        let mut feed = patiently(backend.queue.presence.open(&session.node())).await.unwrap();
        backend.queue.presence.enter(&entry(&session, Some("bob"), Some("7"), &["g"]), None).await.unwrap();
        backend.offer(job(&session, 1)).await;
        take(&consumer, 1).await;
        backend.command::<()>(&redis::cmd("FLUSHALL"));
        let started = tokio::time::Instant::now();
        while backend.queue.presence.members("g").await.is_ok_and(|members| members.is_empty()) {
            assert!(started.elapsed() < PATIENCE, "not announced again");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        backend.queue.outbox.send(Delivery::message(Address::User("7".to_owned()), "end", Json::NULL)).await.unwrap();
        until(&mut feed, "end").await;
        backend.offer(job(&session, 2)).await;
        assert_eq!(take_through(&consumer, 1).await[0].job.sequence, 2);
    });
}

#[test]
fn an_evicting_redis_is_refused_until_it_is_mended() {
    let server = Server::start(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    super::run(Kind::Memory, |_| async move {
        let backend = Backend::on(Arc::clone(&server), options());
        let refused = patiently(backend.queue.inbox.consume(&NodeId::random().unwrap())).await.err();
        let Some(QueueError::Refused(reason)) = refused else { panic!("{refused:?}") };
        assert!(reason.contains("CONFIG SET maxmemory-policy noeviction"), "{reason}");
        assert_eq!(healthy(&backend.queue, false).await, Health::Down(reason));
        backend.command::<()>(redis::cmd("CONFIG").arg("SET").arg("maxmemory-policy").arg("noeviction"));
        healthy(&backend.queue, true).await;
    });
}

#[test]
fn a_full_redis_refuses_jobs_and_still_drains() {
    let server = Server::start(&[]);
    super::run(Kind::Memory, |_| async move {
        let backend = Backend::on(Arc::clone(&server), options());
        let consumer = backend.consumer().await;
        let session = session(&NodeId::random().unwrap());
        let mut feed = patiently(backend.queue.presence.open(&session.node())).await.unwrap();
        for sequence in 1..=3 {
            backend.offer(job(&session, sequence)).await;
        }
        backend.command::<()>(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1"));
        let Stored::No(reason) = backend.offer(job(&session, 4)).await else { panic!("stored") };
        assert!(reason.contains("OOM"), "{reason}");
        let to = Address::Session(session.clone());
        for action in ["1", "2", "3", "end"] {
            backend.queue.outbox.send(Delivery::message(to.clone(), action, Json::NULL)).await.unwrap();
        }
        assert_eq!(until(&mut feed, "end").await.len(), 3, "what lets it drain still arrives");
        let mut taken = take(&consumer, 3).await.into_iter();
        let (one, two, three) = (taken.next().unwrap(), taken.next().unwrap(), taken.next().unwrap());
        consumer.settle(one.receipt, Verdict::Done).await.unwrap();
        let later = Verdict::Later { job: Box::new(two.job), delay: Duration::from_millis(10) };
        consumer.settle(two.receipt, later).await.unwrap();
        let dead = Verdict::Dead { job: Box::new(three.job), reason: "r".to_owned(), version: String::new() };
        consumer.settle(three.receipt, dead).await.unwrap();
        assert_eq!(take(&consumer, 1).await[0].job.sequence, 2, "put back in spite of it");
        assert_eq!(backend.dead_letters().len(), 1);
    });
}

#[test]
fn scripts_that_were_flushed_are_loaded_again() {
    run(|backend| async move {
        let consumer = backend.consumer().await;
        let session = session(&NodeId::random().unwrap());
        let feed = patiently(backend.queue.presence.open(&session.node())).await.unwrap();
        backend.command::<()>(redis::cmd("SCRIPT").arg("FLUSH"));
        backend.queue.presence.enter(&entry(&session, Some("bob"), None, &[]), None).await.unwrap();
        backend.command::<()>(redis::cmd("SCRIPT").arg("FLUSH"));
        let mut scheduled = job(&session, 0);
        scheduled.scheduled_id = Some("s".to_owned());
        backend.queue.inbox.schedule(scheduled, Duration::ZERO).await.unwrap();
        assert_eq!(take(&consumer, 1).await.len(), 1);
        patiently(feed.close()).await;
    });
}

#[test]
fn stored_partitions_win_over_configured_ones() {
    run(|backend| async move {
        backend.consumer().await;
        let other = Backend::on(
            Arc::clone(backend.server.as_ref().unwrap()),
            crate::queue::QueueOptions { partitions: 3, ..backend.options.clone() },
        );
        let session = session(&NodeId::random().unwrap());
        other.offer(job(&session, 1)).await;
        let key = format!("ps:{{{}:p{}}}:in", backend.options.app, session.partition(8));
        assert_eq!(backend.command::<u32>(redis::cmd("XLEN").arg(key)), 1);
    });
}

#[test]
fn php_items_reach_everyone_once_and_in_order() {
    run(|backend| async move {
        let nodes = [NodeId::random().unwrap(), NodeId::random().unwrap()];
        let second = backend.other();
        let mut feeds =
            [patiently(backend.queue.presence.open(&nodes[0])).await.unwrap(), patiently(second.presence.open(&nodes[1])).await.unwrap()];
        let alice = entry(&session(&nodes[0]), Some("al{ice}"), Some("7"), &["g"]);
        let bob = entry(&session(&nodes[1]), None, Some("7"), &["5"]);
        backend.queue.presence.enter(&alice, None).await.unwrap();
        second.presence.enter(&bob, None).await.unwrap();
        second.presence.enter(&entry(&session(&nodes[1]), Some("12"), None, &[]), None).await.unwrap();
        let list = &backend.options.php_lists[0];
        let bob_id = bob.session.as_str();
        let mut push = redis::cmd("RPUSH");
        push.arg(list);
        for (to, action) in [
            (r#"{"connection_id":"al{ice}"}"#.to_owned(), "alias"),
            (format!(r#"{{"connection_id":"{bob_id}"}}"#), "session"),
            (r#"{"user_id":7}"#.to_owned(), "user"),
            (r#"{"group":5}"#.to_owned(), "group"),
            (r#"{"connection_id":12}"#.to_owned(), "number"),
            (r#"{"connection_id":12.0,"user_id":[]}"#.to_owned(), "float"),
            (r#"{"user_id":7,"group":"g","connection_id":"al{ice}"}"#.to_owned(), "several"),
            (r#"{"broadcast":1,"except":"al{ice}"}"#.to_owned(), "all"),
        ] {
            push.arg(format!(r#"{{"to":{to},"action":"{action}","data":{{"u":"a\/b"}},"meta":{{"time":1}}}}"#));
        }
        push.arg("no json").arg(r#"{"to":{},"action":"nobody"}"#).arg("[1]").arg(r#"{"to":5,"action":"x"}"#);
        push.arg(format!(r#"{{"to":{{"user_id":7}},"action":"{}"}}"#, "x".repeat(70_000)));
        push.arg(r#"{"to":{"broadcast":true},"action":"end"}"#);
        backend.command::<()>(redis::cmd("RPUSH").arg(format!("{list}:notify")).arg(1));
        backend.command::<()>(&push);
        let actions = |deliveries: Vec<Delivery>| -> Vec<String> {
            let action = |delivery: Delivery| match delivery.body {
                Body::Message { action, data } => {
                    assert_eq!(data.as_bytes(), br#"{"u":"a\/b"}"#, "data is untouched");
                    action
                }
                other => panic!("{other:?}"),
            };
            deliveries.into_iter().map(action).collect()
        };
        assert_eq!(actions(until(&mut feeds[0], "end").await), ["alias", "user", "several", "all"]);
        assert_eq!(actions(until(&mut feeds[1], "end").await), ["session", "user", "group", "number", "float", "several", "all"]);
        let dead: Vec<String> =
            backend.command(redis::cmd("LRANGE").arg(format!("ps:{{{}}}:php:dead", backend.options.app)).arg(0).arg(-1));
        assert_eq!(dead.len(), 5, "{dead:?}");
        assert!(dead[0].contains("no JSON") && dead[1].contains("nobody") && dead[4].contains("over the limit"));
        let left: u32 = backend.command(redis::cmd("EXISTS").arg(list).arg(format!("{list}:notify")));
        assert_eq!(left, 0);
    });
}

#[test]
fn a_php_list_of_the_wrong_type_is_tried_again() {
    run(|backend| async move {
        let list = backend.options.php_lists[0].clone();
        backend.command::<()>(redis::cmd("SET").arg(&list).arg("x"));
        let mut feed = patiently(backend.queue.presence.open(&NodeId::random().unwrap())).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        backend.command::<()>(redis::cmd("DEL").arg(&list));
        backend.command::<()>(redis::cmd("RPUSH").arg(&list).arg(r#"{"to":{"broadcast":true},"action":"end"}"#));
        until(&mut feed, "end").await;
    });
}

//! What happens to jobs and deliveries when Redis stalls, changes its role, or a former owner wakes up late.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::backend::{Backend, Kind, PATIENCE, Server, entry, job, options, patiently, session, take};
use super::outgoing::until;
use super::redis_only::{healthy, take_through};
use crate::queue::{Health, Stored, Verdict};
use crate::wire::delivery::{Address, Body, Delivery};
use crate::wire::ids::NodeId;
use crate::wire::json::Json;

pub(super) fn on_server<F: Future<Output = ()>>(case: impl FnOnce(Arc<Server>) -> F) {
    let server = Server::start(&[]);
    super::run(Kind::Memory, |_| case(server));
}

fn sequences(taken: &[crate::queue::Taken]) -> Vec<u64> {
    taken.iter().map(|taken| taken.job.sequence).collect()
}

pub(super) async fn eventually(mut holds: impl FnMut() -> bool) {
    patiently(async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[test]
fn jobs_that_might_not_start_in_a_stall_come_again_in_order() {
    on_server(|server| async move {
        let backend = Backend::on(Arc::clone(&server), options());
        let consumer = backend.consumer().await;
        let session = session(&NodeId::random().unwrap());
        for sequence in 1..=5 {
            backend.offer(job(&session, sequence)).await;
        }
        let taken = take(&consumer, 5).await;
        assert!(consumer.may_start(&taken[0].receipt), "this one runs on through the stall");
        server.signal("STOP");
        eventually(|| !consumer.may_start(&taken[1].receipt)).await;
        server.signal("CONT");
        let again = take_through(&consumer, 3 + 1).await;
        assert_eq!(sequences(&again), [2, 3, 4, 5], "each once more, but not the one that runs");
        assert!(!taken[1..].iter().any(|taken| consumer.may_start(&taken.receipt)), "only the newer delivery counts");
        consumer.settle(taken.into_iter().next().unwrap().receipt, Verdict::Done).await.unwrap();
        for taken in again {
            assert!(consumer.may_start(&taken.receipt));
            consumer.settle(taken.receipt, Verdict::Done).await.unwrap();
        }
        patiently(consumer.leave()).await;
        let key = format!("ps:{{{}:p{}}}:in", backend.options.app, session.partition(backend.options.partitions));
        assert_eq!(backend.command::<u32>(redis::cmd("XLEN").arg(key)), 0);
    });
}

#[test]
fn what_a_former_owner_reads_late_is_not_stranded() {
    super::run(Kind::Redis, |backend| async move {
        let consumer = backend.consumer().await;
        let session = session(&NodeId::random().unwrap());
        backend.offer(job(&session, 1)).await;
        let first = take(&consumer, 1).await.remove(0);
        consumer.settle(first.receipt, Verdict::Done).await.unwrap();
        let key = format!("ps:{{{}:p{}}}:in", backend.options.app, session.partition(backend.options.partitions));
        let mut late = redis::pipe();
        let add = late.atomic().cmd("XADD").arg(&key).arg("*");
        for (name, value) in crate::wire::job::JOB_FIELDS.iter().zip(job(&session, 2).to_fields()) {
            add.arg(*name).arg(&value[..]);
        }
        late.cmd("XREADGROUP").arg("GROUP").arg("w").arg("former").arg("STREAMS").arg(&key).arg(">");
        let client = redis::Client::open(backend.server.as_ref().unwrap().url()).unwrap();
        late.query::<redis::Value>(&mut client.get_connection().unwrap()).unwrap();
        let found = take(&consumer, 1).await.remove(0);
        assert_eq!((found.job.sequence, found.suspect), (2, false));
    });
}

#[test]
fn a_worker_that_has_left_starts_nothing() {
    super::run(Kind::Redis, |backend| async move {
        let consumer = backend.consumer().await;
        let session = session(&NodeId::random().unwrap());
        for sequence in [1, 2] {
            backend.offer(job(&session, sequence)).await;
        }
        let taken = take(&consumer, 2).await;
        let unsettled = taken.into_iter().nth(1).unwrap().receipt;
        let leaving = Arc::clone(&consumer);
        patiently(async move { leaving.leave().await }).await;
        assert!(!consumer.may_start(&unsettled), "its partition is somebody else's now");
    });
}

#[test]
fn deliveries_outlive_a_stall_that_is_longer_than_the_lease() {
    on_server(|server| async move {
        let mut options = options();
        (options.confirm_timeout, options.lease) = (PATIENCE, Duration::from_millis(600));
        let backend = Backend::on(Arc::clone(&server), options);
        let session = session(&NodeId::random().unwrap());
        let mut feed = patiently(backend.queue.presence.open(&session.node())).await.unwrap();
        backend.queue.presence.enter(&entry(&session, None, Some("7"), &[]), None).await.unwrap();
        server.signal("STOP");
        for index in 0..20 {
            let to = if index % 2 == 0 { Address::Session(session.clone()) } else { Address::User("7".to_owned()) };
            backend.queue.outbox.send(Delivery::message(to, index.to_string(), Json::NULL)).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(1500)).await;
        server.signal("CONT");
        backend.queue.outbox.send(Delivery::message(Address::All, "all", Json::NULL)).await.unwrap();
        backend.queue.outbox.send(Delivery::message(Address::Session(session), "end", Json::NULL)).await.unwrap();
        let names = until(&mut feed, "end").await.into_iter().map(name).collect::<Vec<_>>();
        let expected = (0..20).map(|index| index.to_string()).chain(["all".to_owned()]).collect::<Vec<_>>();
        assert_eq!(names, expected);
    });
}

fn name(delivery: Delivery) -> String {
    match delivery.body {
        Body::Message { action, .. } => action,
        other => panic!("{other:?}"),
    }
}

#[test]
fn no_delivery_comes_twice_while_leases_are_renewed() {
    super::run(Kind::Redis, |shared| async move {
        let mut options = options();
        options.lease = Duration::from_millis(12);
        let backend = Backend::on(Arc::clone(shared.server.as_ref().unwrap()), options);
        let session = session(&NodeId::random().unwrap());
        let mut feed = patiently(backend.queue.presence.open(&session.node())).await.unwrap();
        let outbox = Arc::clone(&backend.queue.outbox);
        let to = Address::Session(session);
        let mut sender = tokio::task::JoinSet::new();
        sender.spawn(async move {
            for index in 0..6_000 {
                outbox.send(Delivery::message(to.clone(), index.to_string(), Json::NULL)).await.unwrap();
                if index % 3 == 0 {
                    tokio::task::yield_now().await;
                    outbox.flush().await.unwrap();
                }
            }
            outbox.send(Delivery::message(to, "end", Json::NULL)).await.unwrap();
        });
        let mut seen = HashSet::new();
        for delivery in until(&mut feed, "end").await {
            let name = name(delivery);
            assert!(seen.insert(name.clone()), "{name} came twice");
        }
        sender.join_next().await.unwrap().unwrap();
        assert_eq!(seen.len(), 6_000);
    });
}

#[test]
fn a_redis_that_became_a_replica_is_down_until_it_is_a_master_again() {
    on_server(|server| async move {
        let backend = Backend::on(Arc::clone(&server), options());
        let session = session(&NodeId::random().unwrap());
        healthy(&backend.queue, true).await;
        let consumer = backend.consumer().await;
        // The reader's own connection is refused meanwhile, too.
        let mut taking = tokio::task::JoinSet::new();
        taking.spawn(async move { take_through(&consumer, 1).await });
        backend.command::<()>(redis::cmd("REPLICAOF").arg("127.0.0.1").arg("1"));
        let to = Address::Session(session.clone());
        for index in 0..100 {
            if index == 1 {
                let Health::Down(reason) = healthy(&backend.queue, false).await else { panic!("not down") };
                assert!(reason.contains("read only replica"), "{reason}");
            }
            backend.queue.outbox.send(Delivery::message(to.clone(), "early", Json::NULL)).await.unwrap();
        }
        let before = connections(&backend);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let made = connections(&backend) - before;
        assert!(made < 30, "{made} connections in one second");
        backend.command::<()>(redis::cmd("REPLICAOF").arg("NO").arg("ONE"));
        healthy(&backend.queue, true).await;
        assert_eq!(backend.offer(job(&session, 1)).await, Stored::Yes);
        assert_eq!(patiently(taking.join_next()).await.unwrap().unwrap()[0].job.sequence, 1);
    });
}

fn connections(backend: &Backend) -> u64 {
    let info: String = backend.command(redis::cmd("INFO").arg("stats"));
    let line = info.lines().find_map(|line| line.strip_prefix("total_connections_received:")).unwrap();
    line.trim().parse().unwrap()
}

#[test]
fn a_node_that_does_not_read_is_cut_down() {
    super::run(Kind::Redis, |backend| async move {
        let node = NodeId::random().unwrap();
        let _feed = patiently(backend.queue.presence.open(&node)).await.unwrap();
        let key = format!("ps:{{{}:n:{node}}}:out", backend.options.app);
        let script = "for i = 1, 120000 do redis.call('XADD', KEYS[1], '*', 'x', '1') end";
        // Read faster than that it is not: what is handed over waits for the server, which does not take it.
        backend.command::<()>(redis::cmd("EVAL").arg(script).arg(1).arg(&key));
        eventually(|| backend.command::<u64>(redis::cmd("XLEN").arg(&key)) <= 60_000).await;
        assert!(backend.command::<i64>(redis::cmd("PTTL").arg(&key)) > 0, "and ends with its node");
    });
}

#[test]
fn an_unneeded_route_is_dropped_and_a_needed_one_stays() {
    super::run(Kind::Redis, |backend| async move {
        let node = NodeId::random().unwrap();
        let feed = patiently(backend.queue.presence.open(&node)).await.unwrap();
        let (one, two) = (entry(&session(&node), None, Some("7"), &["g", "h"]), entry(&session(&node), None, Some("8"), &["g"]));
        for entry in [&one, &two] {
            backend.queue.presence.enter(entry, None).await.unwrap();
        }
        backend.queue.presence.leave(&one).await.unwrap();
        let routes =
            |name: &str| backend.command::<Vec<String>>(redis::cmd("SMEMBERS").arg(format!("ps:{{{}:{name}}}:nodes", backend.options.app)));
        assert_eq!(routes("g:h"), [node.to_string()], "for a while");
        eventually(|| routes("g:h").is_empty() && routes("u:7").is_empty()).await;
        assert_eq!((routes("g:g"), routes("u:8")), (vec![node.to_string()], vec![node.to_string()]));
        patiently(feed.close()).await;
        assert!(routes("g:g").is_empty() && routes("u:8").is_empty());
    });
}

#[test]
fn what_waits_is_bounded_by_bytes_and_answered_at_the_end() {
    on_server(|server| async move {
        let backend = Backend::on(Arc::clone(&server), options());
        let session = session(&NodeId::random().unwrap());
        backend.offer(job(&session, 1)).await;
        server.signal("STOP");
        let mut large = job(&session, 2);
        large.data = Json::encode(&"x".repeat(64 << 10)).unwrap();
        let (sender, mut answers) = tokio::sync::mpsc::unbounded_channel();
        let mut offered = 0;
        loop {
            let sender = sender.clone();
            if backend.queue.inbox.offer(large.clone(), Box::new(move |stored| drop(sender.send(stored)))).is_err() {
                break;
            }
            offered += 1;
            assert!(offered < 1_500, "far more than 64 MiB wait");
        }
        assert!(offered > 500, "refused after {offered}");
        drop((backend, sender));
        let mut answered = 0;
        while let Some(stored) = patiently(answers.recv()).await {
            assert_ne!(stored, Stored::Yes);
            answered += 1;
        }
        assert_eq!(answered, offered);
        server.signal("CONT");
    });
}

#[test]
fn a_poisoned_php_item_takes_no_other_with_it() {
    super::run(Kind::Redis, |backend| async move {
        let node = NodeId::random().unwrap();
        let mut feed = patiently(backend.queue.presence.open(&node)).await.unwrap();
        let large = entry(&session(&node), None, Some("9007199254740993"), &[]);
        let odd = entry(&session(&node), Some("a\u{0}b\n{é}%"), None, &[]);
        for entry in [&large, &odd] {
            backend.queue.presence.enter(entry, None).await.unwrap();
        }
        let app = &backend.options.app;
        backend.command::<()>(redis::cmd("SET").arg(format!("ps:{{{app}:u:poison}}:nodes")).arg("no set"));
        let mut push = redis::cmd("RPUSH");
        push.arg(&backend.options.php_lists[0]);
        push.arg(r#"{"to":{"user_id":"poison"},"action":"poison"}"#);
        push.arg(r#"{"to":{"user_id":9007199254740993},"action":"large"}"#);
        push.arg(r#"{"to":{"connection_id":"a\u0000b\n{é}%"},"action":"odd"}"#);
        push.arg(r#"{"to":{"user_id":1e400,"group":true},"action":"none"}"#);
        push.arg(r#"{"to":{"broadcast":true},"action":"end"}"#);
        backend.command::<()>(&push);
        assert_eq!(until(&mut feed, "end").await.into_iter().map(name).collect::<Vec<_>>(), ["large", "odd"]);
        let dead: Vec<String> = backend.command(redis::cmd("LRANGE").arg(format!("ps:{{{app}}}:php:dead")).arg(0).arg(-1));
        assert!(dead.iter().any(|item| item.contains("WRONGTYPE") && item.contains("poison")), "{dead:?}");
    });
}

#[test]
fn errors_do_not_tell_the_password() {
    for url in ["redis://user:hunter2@127.0.0.1:bad/0", "redis://:hunter2@/x", "redis://:hunter2@127.0.0.1:1/notadb"] {
        if let Err(error) = crate::queue::redis::open(url, options(), tokio_util::sync::CancellationToken::new(), &Default::default()) {
            let text = format!("{error} {error:?}");
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}

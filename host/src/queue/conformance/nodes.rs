//! Nodes that die: adopted by one cleaner at a time, every connection handed out with its identity, and lost to their process for good.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use super::backend::{Backend, Kind, entry, options, patiently, session};
use super::faults::{eventually, on_server};
use crate::queue::{Adoption, Entry, Estate, NodeFeed, NodeLease, Queue, redis as redis_queue};
use crate::wire::ids::NodeId;

fn run<F: Future<Output = ()>>(case: impl FnOnce(Backend) -> F) {
    super::run(Kind::Redis, case);
}

fn node() -> NodeId {
    NodeId::random().unwrap()
}

/// A node of a process that then dies with these connections.
async fn die(backend: &Backend, node: &NodeId, entries: &[Entry]) {
    let (stop, tasks) = (CancellationToken::new(), tokio_util::task::TaskTracker::new());
    let queue = redis_queue::open(&backend.server.as_ref().unwrap().url(), backend.options.clone(), stop.clone(), &tasks).unwrap();
    let feed = patiently(queue.presence.open(node)).await.unwrap();
    for entry in entries {
        queue.presence.enter(entry, None).await.unwrap();
    }
    stop.cancel();
    tasks.close();
    patiently(tasks.wait()).await;
    drop(feed);
}

async fn adopt(queue: &Queue, cleaner: &NodeId) -> Arc<dyn Estate> {
    patiently(async {
        loop {
            match queue.presence.adopt(cleaner).await.unwrap() {
                Adoption::Node(estate) => return estate,
                Adoption::Nothing { again } => time::sleep(again).await,
            }
        }
    })
    .await
}

async fn walk(estate: &Arc<dyn Estate>) -> Vec<Entry> {
    let mut orphans = Vec::new();
    while let Some(more) = estate.next().await.unwrap() {
        orphans.extend(more);
    }
    orphans
}

fn key(backend: &Backend, name: &str) -> String {
    format!("ps:{{{}{name}", backend.options.app)
}

fn exists(backend: &Backend, name: &str) -> bool {
    backend.command::<u32>(redis::cmd("EXISTS").arg(key(backend, name))) == 1
}

#[test]
fn a_dead_nodes_connections_are_all_handed_out_and_buried() {
    run(|backend| async move {
        let (cleaner, dead) = (node(), node());
        let _feed = patiently(backend.queue.presence.open(&cleaner)).await.unwrap();
        let mut entries: Vec<Entry> = (0..300).map(|_| entry(&session(&dead), None, Some("7"), &["g"])).collect();
        entries.push(entry(&session(&dead), Some("bob"), None, &[]));
        entries.push(entry(&session(&dead), Some("moved"), None, &[]));
        die(&backend, &dead, &entries).await;
        let moved = entry(&session(&cleaner), Some("moved"), Some("7"), &[]);
        backend.queue.presence.enter(&moved, None).await.unwrap();
        let estate = adopt(&backend.queue, &cleaner).await;
        assert_eq!(estate.node(), &dead);
        assert_eq!(backend.queue.presence.online().await.unwrap(), 1, "the dead are not counted");
        let orphans = walk(&estate).await;
        let found: HashMap<_, _> = orphans.iter().map(|orphan| (orphan.session.clone(), orphan.clone())).collect();
        assert_eq!((orphans.len(), found.len()), (302, 302), "each once");
        assert!(entries.iter().all(|entry| found.get(&entry.session) == Some(entry)), "as they were announced, identity and all");
        assert!(!estate.finish().await.unwrap(), "they are not buried");
        for orphan in &orphans {
            estate.bury(orphan).await.unwrap();
        }
        assert!(walk(&estate).await.is_empty() && estate.finish().await.unwrap());
        let (roster, gone) = (format!(":n:{dead}}}:roster"), format!(":n:{dead}}}:gone"));
        assert!(!exists(&backend, &roster) && exists(&backend, &gone));
        let known: Vec<String> = backend.command(redis::cmd("ZRANGE").arg(key(&backend, "}:nodes")).arg(0).arg(-1));
        assert_eq!(known, [cleaner.to_string()]);
        assert!(!exists(&backend, "}:cleaners") && !exists(&backend, ":a:bob}") && !exists(&backend, ":g:g}:nodes"));
        let alias: String = backend.command(redis::cmd("GET").arg(key(&backend, ":a:moved}")));
        assert_eq!(alias, moved.session.to_string(), "another has it now");
        let routes: Vec<String> = backend.command(redis::cmd("SMEMBERS").arg(key(&backend, ":u:7}:nodes")));
        assert_eq!(routes, [cleaner.to_string()]);
        let mut feed = patiently(backend.queue.presence.open(&dead)).await.unwrap();
        assert_eq!(patiently(feed.receive()).await, None);
        assert_eq!(*feed.lease().borrow(), NodeLease::Lost, "gone for good: its server goes on as another one");
        drop(feed);
        assert!(backend.queue.presence.enter(&entries[0], None).await.is_err());
        assert!(!exists(&backend, &roster), "what comes late is not stored: nobody would look for it");
    });
}

#[test]
fn another_cleaner_goes_on_when_one_dies() {
    run(|backend| async move {
        let (first, second, dead) = (node(), node(), node());
        let other = backend.other();
        let feeds = [patiently(backend.queue.presence.open(&first)).await.unwrap(), patiently(other.presence.open(&second)).await.unwrap()];
        let entries = [entry(&session(&dead), None, None, &[]), entry(&session(&dead), None, None, &[])];
        die(&backend, &dead, &entries).await;
        let dying = adopt(&backend.queue, &first).await;
        assert!(dying.is_ours());
        let began = Instant::now();
        let orphans = walk(&dying).await;
        dying.bury(&orphans[0]).await.unwrap();
        let estate = adopt(&other, &second).await;
        let took = began.elapsed();
        assert!(took > backend.options.lease.mul_f64(0.9) && took < backend.options.lease * 2, "{took:?}");
        assert!(!dying.is_ours(), "it knows before the other begins");
        patiently(dying.keep()).await;
        assert!(dying.finish().await.is_ok() && exists(&backend, &format!(":n:{dead}}}:roster")), "it can end nothing any more");
        assert_eq!(walk(&estate).await, orphans[1..]);
        estate.bury(&orphans[1]).await.unwrap();
        assert!(estate.finish().await.unwrap());
        drop(feeds);
    });
}

#[test]
fn a_claim_that_is_kept_stays_and_one_that_is_released_passes_on_at_once() {
    run(|backend| async move {
        let (first, second, dead) = (node(), node(), node());
        let other = backend.other();
        let _feeds =
            [patiently(backend.queue.presence.open(&first)).await.unwrap(), patiently(other.presence.open(&second)).await.unwrap()];
        die(&backend, &dead, &[entry(&session(&dead), None, None, &[])]).await;
        let kept = adopt(&backend.queue, &first).await;
        let _ = time::timeout(backend.options.lease * 3, kept.keep()).await;
        assert!(kept.is_ours());
        assert!(matches!(other.presence.adopt(&second).await.unwrap(), Adoption::Nothing { .. }));
        kept.release().await;
        assert!(!kept.is_ours());
        assert!(matches!(other.presence.adopt(&second).await.unwrap(), Adoption::Node(_)));
    });
}

#[test]
fn nobody_is_adopted_after_a_stall_of_redis() {
    on_server(|server| async move {
        let backend = Backend::on(Arc::clone(&server), options());
        let other = backend.other();
        let nodes = [node(), node()];
        let mut feeds: Vec<Box<dyn NodeFeed>> = Vec::new();
        for (queue, node) in [&backend.queue, &other].into_iter().zip(&nodes) {
            feeds.push(patiently(queue.presence.open(node)).await.unwrap());
            queue.presence.enter(&entry(&session(node), None, None, &[]), None).await.unwrap();
        }
        // Long enough for both to be allowed to adopt.
        time::sleep(Duration::from_millis(3_500)).await;
        let look = async |queue: &Queue, node: &NodeId, adopted: &mut usize| loop {
            if let Ok(Adoption::Node(_)) = queue.presence.adopt(node).await {
                *adopted += 1;
            }
            time::sleep(Duration::from_millis(5)).await;
        };
        let mut adopted = [0, 0];
        let [first, second] = &mut adopted;
        let nodes_key = key(&backend, "}:nodes");
        let stall = async {
            // The last one is longer than any call waits, so that every connection is made anew.
            for pause in [400, 1_300, 4_000] {
                server.signal("STOP");
                time::sleep(Duration::from_millis(pause)).await;
                server.signal("CONT");
                if pause > 1_000 {
                    // A third node, which comes back later than these two.
                    backend.command::<()>(redis::cmd("ZADD").arg(&nodes_key).arg(1).arg("third"));
                    time::sleep(Duration::from_millis(2_500)).await;
                    backend.command::<()>(redis::cmd("ZREM").arg(&nodes_key).arg("third"));
                }
                time::sleep(Duration::from_millis(1_500)).await;
            }
        };
        tokio::select! {
            () = look(&backend.queue, &nodes[0], first) => {}
            () = look(&other, &nodes[1], second) => {}
            () = stall => {}
        }
        assert_eq!(adopted, [0, 0]);
        for feed in &feeds {
            let mut lease = feed.lease();
            let held = patiently(lease.wait_for(|lease| lease.is_held())).await.map(|lease| *lease);
            assert!(held.is_ok(), "both live on");
        }
        assert!(!exists(&backend, "}:cleaners"));
    });
}

#[test]
fn a_node_that_is_withdrawn_leaves_the_connections_that_are_owed_a_disconnect() {
    run(|backend| async move {
        let (cleaner, node) = (node(), node());
        let other = backend.other();
        let _feed = patiently(other.presence.open(&cleaner)).await.unwrap();
        let feed = patiently(backend.queue.presence.open(&node)).await.unwrap();
        let entries = [entry(&session(&node), Some("stays"), None, &["g"]), entry(&session(&node), None, None, &[])];
        for entry in &entries {
            backend.queue.presence.enter(entry, None).await.unwrap();
        }
        backend.queue.presence.leave(&entries[1]).await.unwrap();
        let until = Instant::now() + Duration::from_millis(3_200);
        time::sleep_until(until).await;
        patiently(feed.close()).await;
        let began = Instant::now();
        let estate = adopt(&other, &cleaner).await;
        assert!(began.elapsed() < backend.options.lease / 2, "its lease is not waited for");
        assert_eq!(walk(&estate).await, entries[..1]);
    });
}

#[test]
fn a_node_that_was_adopted_learns_that_it_is_lost() {
    run(|backend| async move {
        let node = node();
        let mut feed = patiently(backend.queue.presence.open(&node)).await.unwrap();
        assert!(feed.lease().borrow().is_held());
        let gone = entry(&session(&node), None, Some("left"), &["left"]);
        backend.queue.presence.enter(&gone, None).await.unwrap();
        backend.queue.presence.leave(&gone).await.unwrap();
        assert!(exists(&backend, ":u:left}:nodes") && exists(&backend, ":g:left}:nodes"), "idle, for a while");
        backend.command::<()>(redis::cmd("HSET").arg(key(&backend, "}:cleaners")).arg(node.as_str()).arg("somebody 1"));
        assert_eq!(patiently(feed.receive()).await, None);
        assert_eq!(*feed.lease().borrow(), NodeLease::Lost, "though the claim has ended: the cleaner may have begun");
        eventually(|| !exists(&backend, ":u:left}:nodes") && !exists(&backend, ":g:left}:nodes")).await;
        let late = entry(&session(&node), None, None, &[]);
        assert!(backend.queue.presence.enter(&late, None).await.is_err());
        patiently(feed.close()).await;
        let left: Option<f64> = backend.command(redis::cmd("ZSCORE").arg(key(&backend, "}:nodes")).arg(node.as_str()));
        assert!(left.is_some(), "it is its cleaner's to end");
    });
}

#[test]
fn a_node_is_sure_for_half_a_lease_only() {
    on_server(|server| async move {
        let backend = Backend::on(Arc::clone(&server), options());
        let feed = patiently(backend.queue.presence.open(&node())).await.unwrap();
        server.signal("STOP");
        let stopped = Instant::now();
        let mut lease = feed.lease();
        patiently(async {
            while lease.borrow_and_update().is_held() {
                time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        let NodeLease::Until(end) = *lease.borrow() else { panic!() };
        assert!(end <= stopped + backend.options.lease / 2, "the calls made until then need time to be noted");
        server.signal("CONT");
        let held = patiently(lease.wait_for(|lease| lease.is_held())).await.map(|lease| *lease);
        assert!(held.is_ok());
    });
}

#[test]
fn after_a_flush_the_identities_are_there_again() {
    on_server(|server| async move {
        let backend = Backend::on(server, options());
        let session = session(&node());
        let _feed = patiently(backend.queue.presence.open(&session.node())).await.unwrap();
        backend.queue.presence.enter(&entry(&session, Some("bob"), Some("7"), &["g"]), None).await.unwrap();
        backend.command::<()>(&redis::cmd("FLUSHALL"));
        let roster = key(&backend, &format!(":n:{}}}:roster", session.node()));
        let value = || backend.command::<Option<String>>(redis::cmd("HGET").arg(&roster).arg(session.as_str()));
        eventually(|| value().is_some_and(|value| value.contains(r#""identity":{"connection_id":"bob"}"#))).await;
    });
}

//! Connections that are cut or fall silent, one kind after the other: each is made anew, and service goes on.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::backend::{Backend, entry, job, options, patiently, session};
use super::faults::{eventually, on_server};
use super::outgoing::until;
use super::redis_only::{healthy, take_through};
use crate::queue::{Stored, Verdict};
use crate::wire::delivery::{Address, Delivery};
use crate::wire::ids::NodeId;
use crate::wire::json::Json;

/// What the reader, the feed and the bridge wait in.
const WAITS: [&str; 3] = ["xreadgroup", "xread", "blmove"];
/// Our longest own deadline is 3 s; the kernel's and redis-rs's defaults are far beyond.
const SILENCE: Duration = Duration::from_millis(4_500);

/// The connections' numbers at Redis, by what each did last.
fn clients(backend: &Backend) -> BTreeMap<u64, String> {
    let list: String = backend.command(redis::cmd("CLIENT").arg("LIST").arg("TYPE").arg("normal"));
    let field = |line: &str, name: &str| line.split(' ').find_map(|pair| pair.strip_prefix(name).map(str::to_owned)).unwrap();
    list.lines().map(|line| (field(line, "id=").parse().unwrap(), field(line, "cmd="))).filter(|(_, did)| did != "client|list").collect()
}

#[test]
fn each_kind_of_connection_heals_when_it_is_cut_or_silent() {
    on_server(|server| async move {
        let mut options = options();
        // The lease is no matter here.
        options.lease = Duration::from_secs(30);
        options.confirm_timeout = Duration::from_secs(20);
        let backend = Backend::on(Arc::clone(&server), options);
        let consumer = backend.consumer().await;
        let session = session(&NodeId::random().unwrap());
        let mut feed = patiently(backend.queue.presence.open(&session.node())).await.unwrap();
        backend.queue.presence.enter(&entry(&session, None, Some("7"), &["g"]), None).await.unwrap();
        let sequence = Cell::new(0);
        // Every kind takes its part: calls, writer, reader, feed, bridge.
        let mut serves = async || {
            sequence.set(sequence.get() + 1);
            patiently(async { while backend.queue.presence.members("g").await.is_err() {} }).await;
            assert_eq!(backend.offer(job(&session, sequence.get())).await, Stored::Yes);
            for taken in take_through(&consumer, 1).await {
                assert_eq!(taken.job.sequence, sequence.get());
                consumer.settle(taken.receipt, Verdict::Done).await.unwrap();
            }
            backend.queue.outbox.send(Delivery::message(Address::Session(session.clone()), "end", Json::NULL)).await.unwrap();
            until(&mut feed, "end").await;
            let item = r#"{"to":{"broadcast":true},"action":"listed"}"#;
            backend.command::<()>(redis::cmd("RPUSH").arg(&backend.options.php_lists[0]).arg(item));
            until(&mut feed, "listed").await;
        };
        serves().await;
        eventually(|| WAITS.iter().all(|wait| clients(&backend).values().any(|did| did == wait))).await;
        let kinds = clients(&backend);
        assert!(kinds.len() >= 5, "calls, writer, reader, feed, bridge: {kinds:?}");
        // One after the other: what was made anew meanwhile has another number.
        for (client, did) in &kinds {
            let cut: u64 = backend.command(redis::cmd("CLIENT").arg("KILL").arg("ID").arg(*client));
            println!("cut {client}, which did {did}: {cut}");
            serves().await;
        }
        healthy(&backend.queue, true).await;
        eventually(|| WAITS.iter().all(|wait| clients(&backend).values().any(|did| did == wait))).await;
        let before: HashSet<u64> = clients(&backend).into_keys().collect();
        assert!(before.iter().all(|client| !kinds.contains_key(client)), "made anew: {before:?}, were {kinds:?}");
        // Silent: the socket stays open, nothing is answered. All are waiting for something meanwhile.
        server.signal("STOP");
        let ((stored, ()), reader, call) = tokio::join!(
            async {
                let awake = async {
                    tokio::time::sleep(SILENCE).await;
                    server.signal("CONT");
                };
                tokio::join!(backend.offer(job(&session, 100)), awake)
            },
            tokio::time::timeout(SILENCE, async { while consumer.take(1).await.is_ok() {} }),
            tokio::time::timeout(SILENCE, async { while backend.queue.presence.members("g").await.is_ok() {} }),
        );
        assert!(reader.is_ok() && call.is_ok(), "given up at their own deadlines: reader {reader:?}, call {call:?}");
        assert_eq!(stored, Stored::Yes, "sent again");
        let late = take_through(&consumer, 1).await.remove(0);
        assert_eq!(late.job.sequence, 100);
        consumer.settle(late.receipt, Verdict::Done).await.unwrap();
        sequence.set(100);
        serves().await;
        let after: HashSet<u64> = clients(&backend).into_keys().collect();
        assert!(after.is_disjoint(&before), "none is used again: {before:?}, {after:?}");
    });
}

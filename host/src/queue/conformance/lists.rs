//! Messages for lists of `[actions]`: in order, no more than may wait, each at most once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::backend::{Backend, Kind, job, options, patiently, session, take};
use super::faults::{eventually, on_server};
use crate::queue::{ListItem, OnStored, Queue, QueueOptions, Stored};
use crate::wire::ids::NodeId;

fn run<F: Future<Output = ()>>(case: impl FnOnce(Backend) -> F) {
    super::run(Kind::Redis, case);
}

/// The list of a backend's app.
fn list(backend: &Backend) -> String {
    format!("queues:{}_in", backend.options.app)
}

/// Hands an item over; the answer comes when there is one.
async fn offer(queue: &Queue, list: &str, item: &str) -> oneshot::Receiver<Stored> {
    let (sender, stored) = oneshot::channel();
    let mut on_stored: OnStored = Box::new(move |stored| drop(sender.send(stored)));
    let mut offered = ListItem { list: list.to_owned(), item: Bytes::copy_from_slice(item.as_bytes()) };
    while let Err(full) = queue.inbox.push(offered, on_stored) {
        (offered, on_stored) = (full.offered, full.on_stored);
        patiently(queue.inbox.room()).await;
    }
    stored
}

async fn push(queue: &Queue, list: &str, item: &str) -> Stored {
    patiently(offer(queue, list, item).await).await.unwrap()
}

fn items(backend: &Backend, key: &str) -> Vec<String> {
    backend.command(redis::cmd("LRANGE").arg(key).arg(0).arg(-1))
}

#[test]
fn items_keep_their_order_under_the_prefix() {
    on_server(|server| async move {
        let backend = Backend::on(server, QueueOptions { php_prefix: "laravel_".to_owned(), ..options() });
        let list = list(&backend);
        let mut answers = Vec::new();
        for number in 0..300 {
            answers.push(offer(&backend.queue, &list, &number.to_string()).await);
        }
        for answer in answers {
            assert_eq!(patiently(answer).await.unwrap(), Stored::Yes);
        }
        let expected: Vec<_> = (0..300).map(|number: u32| number.to_string()).collect();
        assert_eq!(items(&backend, &format!("laravel_{list}")), expected);
        assert_eq!(items(&backend, &list), Vec::<String>::new());
    });
}

#[test]
fn no_more_wait_than_may_whoever_pushes() {
    run(|backend| async move {
        let backend = Backend::on(backend.server.clone().unwrap(), QueueOptions { php_waiting_max: 3, ..options() });
        let (list, other) = (list(&backend), backend.other());
        let mut answers = Vec::new();
        for number in 0..6 {
            let queue = if number % 2 == 0 { &backend.queue } else { &other };
            answers.push(push(queue, &list, &number.to_string()).await);
        }
        assert!(answers[..3].iter().all(|stored| *stored == Stored::Yes), "{answers:?}");
        assert!(answers[3..].iter().all(|stored| matches!(stored, Stored::No(_))), "{answers:?}");
        assert_eq!(items(&backend, &list), ["0", "1", "2"]);
        assert_eq!(push(&backend.queue, "another", "x").await, Stored::Yes, "each list for itself");
        backend.command::<String>(redis::cmd("LPOP").arg(&list));
        assert_eq!(push(&backend.queue, &list, "6").await, Stored::Yes, "PHP has taken one");
    });
}

#[test]
fn a_key_that_is_no_list_refuses_and_heals() {
    run(|backend| async move {
        let list = list(&backend);
        backend.command::<()>(redis::cmd("SET").arg(&list).arg("x"));
        for _ in 0..2 {
            let Stored::No(reason) = push(&backend.queue, &list, "1").await else { panic!("stored in a string") };
            assert!(!reason.contains("WRONGTYPE"), "{reason}: clients are not told what is in Redis");
        }
        let consumer = backend.consumer().await;
        assert_eq!(backend.offer(job(&session(&NodeId::random().unwrap()), 1)).await, Stored::Yes, "nothing else is held up");
        assert_eq!(take(&consumer, 1).await.len(), 1);
        backend.command::<()>(redis::cmd("DEL").arg(&list));
        assert_eq!(push(&backend.queue, &list, "2").await, Stored::Yes);
        assert_eq!(items(&backend, &list), ["2"]);
    });
}

#[test]
fn a_full_redis_takes_none() {
    on_server(|server| async move {
        let backend = Backend::on(server, options());
        let list = list(&backend);
        assert_eq!(push(&backend.queue, &list, "1").await, Stored::Yes);
        backend.command::<()>(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1"));
        let Stored::No(reason) = push(&backend.queue, &list, "2").await else { panic!("stored in a full Redis") };
        assert!(reason.contains("OOM"), "{reason}");
        backend.command::<()>(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("0"));
        assert_eq!(push(&backend.queue, &list, "3").await, Stored::Yes);
        assert_eq!(items(&backend, &list), ["1", "3"]);
    });
}

#[test]
fn what_is_in_doubt_is_not_pushed_again() {
    on_server(|server| async move {
        let backend = Backend::on(Arc::clone(&server), QueueOptions { confirm_timeout: Duration::from_secs(60), ..options() });
        let (list, session) = (list(&backend), session(&NodeId::random().unwrap()));
        let consumer = backend.consumer().await;
        assert_eq!(push(&backend.queue, &list, "before").await, Stored::Yes);
        server.signal("STOP");
        let [first, second] = [offer(&backend.queue, &list, "1").await, offer(&backend.queue, &list, "2").await];
        let (sender, stored) = oneshot::channel();
        let offered = backend.queue.inbox.offer(job(&session, 1), Box::new(move |stored| drop(sender.send(stored))));
        assert!(offered.is_ok());
        // When the connection is given up, not when the time to confirm is over.
        assert_eq!(patiently(first).await.unwrap(), Stored::Unknown);
        server.signal("CONT");
        // It was in the same pipeline, or had not been sent at all.
        let second = patiently(second).await.unwrap();
        assert!(matches!(second, Stored::Unknown | Stored::Yes), "{second:?}");
        assert_eq!(patiently(stored).await.unwrap(), Stored::Yes, "jobs are sent again: their workers know a second one");
        assert_eq!(take(&consumer, 1).await.len(), 1);
        assert_eq!(push(&backend.queue, &list, "after").await, Stored::Yes);
        let found = items(&backend, &list);
        let count = |item: &str| found.iter().filter(|found| *found == item).count();
        assert!(count("1") <= 1 && count("2") <= 1, "{found:?}");
        assert!(second == Stored::Unknown || count("2") == 1, "{found:?}");
        assert_eq!((found.first().map(String::as_str), found.last().map(String::as_str)), (Some("before"), Some("after")));
    });
}

#[test]
fn a_script_that_was_flushed_refuses_once() {
    // On a server of its own: others load their scripts, too.
    on_server(|server| async move {
        let backend = Backend::on(server, options());
        let list = list(&backend);
        assert_eq!(push(&backend.queue, &list, "1").await, Stored::Yes);
        backend.command::<()>(redis::cmd("SCRIPT").arg("FLUSH"));
        // Sent again it might come behind one that has found the script.
        assert!(matches!(push(&backend.queue, &list, "2").await, Stored::No(_)));
        eventually(|| *backend.queue.health.borrow() == crate::queue::Health::Up).await;
        assert_eq!(push(&backend.queue, &list, "3").await, Stored::Yes);
        assert_eq!(items(&backend, &list), ["1", "3"]);
    });
}

#[test]
fn the_queue_in_memory_has_none() {
    super::run(Kind::Memory, |backend| async move {
        assert!(matches!(push(&backend.queue, "queues:app_in", "1").await, Stored::No(_)));
    });
}

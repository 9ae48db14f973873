//! The plugins' store, and what only one node may do.

use std::time::Duration;

use plugsocket_plugin::call::{StoreAnswer, StoreRequest};

use super::backend::{Backend, PATIENCE};
use super::on_both;
use crate::queue::QueueError;
use crate::wire::ids::NodeId;

on_both!(
    values_are_kept,
    numbers_add_up,
    lists_are_capped,
    compare_and_set_compares,
    values_expire,
    limits_and_kinds_are_checked,
    one_node_leads
);

fn key() -> String {
    "k{1}%".to_owned()
}

async fn run(backend: &Backend, request: StoreRequest) -> StoreAnswer {
    backend.queue.store.run("p", request).await.unwrap()
}

async fn get(backend: &Backend) -> StoreAnswer {
    run(backend, StoreRequest::Get { key: key() }).await
}

fn text(text: &str) -> StoreAnswer {
    StoreAnswer::Value(Some(text.to_owned()))
}

async fn values_are_kept(backend: Backend) {
    assert_eq!(get(&backend).await, StoreAnswer::Value(None));
    assert_eq!(run(&backend, StoreRequest::Set { key: key(), value: "é\n".to_owned(), ttl_ms: None }).await, StoreAnswer::Done);
    assert_eq!(get(&backend).await, text("é\n"));
    let other = backend.queue.store.run("q", StoreRequest::Get { key: key() }).await.unwrap();
    assert_eq!(other, StoreAnswer::Value(None), "each plugin has its own");
    assert_eq!(run(&backend, StoreRequest::Delete { key: key() }).await, StoreAnswer::Flag(true));
    assert_eq!(run(&backend, StoreRequest::Delete { key: key() }).await, StoreAnswer::Flag(false));
}

async fn numbers_add_up(backend: Backend) {
    let add = |by| StoreRequest::Add { key: key(), by };
    assert_eq!(run(&backend, add(5)).await, StoreAnswer::Number(5));
    assert_eq!(run(&backend, add(-7)).await, StoreAnswer::Number(-2));
    assert_eq!(get(&backend).await, text("-2"));
    run(&backend, StoreRequest::Delete { key: key() }).await;
    let large = 9_007_199_254_740_993;
    assert_eq!(run(&backend, add(large)).await, StoreAnswer::Number(large), "more than a double holds");
    let overflow = backend.queue.store.run("p", add(i64::MAX)).await;
    assert!(matches!(overflow, Err(QueueError::Invalid(_))), "{overflow:?}");
}

async fn lists_are_capped(backend: Backend) {
    for value in ["a", "b", "c", "d"] {
        run(&backend, StoreRequest::PushCapped { key: key(), value: value.to_owned(), cap: 3 }).await;
    }
    let range = |count| StoreRequest::Range { key: key(), count };
    let values = |values: &[&str]| StoreAnswer::Values(values.iter().map(|value| (*value).to_owned()).collect());
    assert_eq!(run(&backend, range(2)).await, values(&["c", "d"]));
    assert_eq!(run(&backend, range(9)).await, values(&["b", "c", "d"]));
    assert_eq!(run(&backend, range(0)).await, values(&[]));
}

async fn compare_and_set_compares(backend: Backend) {
    let swap =
        |old: Option<&str>, new: &str| StoreRequest::CompareAndSet { key: key(), old: old.map(ToOwned::to_owned), new: new.to_owned() };
    assert_eq!(run(&backend, swap(Some("x"), "1")).await, StoreAnswer::Flag(false));
    assert_eq!(run(&backend, swap(None, "1")).await, StoreAnswer::Flag(true));
    assert_eq!(run(&backend, swap(None, "2")).await, StoreAnswer::Flag(false));
    assert_eq!(run(&backend, swap(Some("1"), "2")).await, StoreAnswer::Flag(true));
    assert_eq!(get(&backend).await, text("2"));
}

async fn values_expire(backend: Backend) {
    run(&backend, StoreRequest::Set { key: key(), value: "v".to_owned(), ttl_ms: Some(60) }).await;
    assert_eq!(get(&backend).await, text("v"));
    let gone = async {
        while get(&backend).await != StoreAnswer::Value(None) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    let expire = |ttl_ms| StoreRequest::Expire { key: key(), ttl_ms };
    assert_eq!(run(&backend, expire(10)).await, StoreAnswer::Flag(false));
    run(&backend, StoreRequest::Set { key: key(), value: "v".to_owned(), ttl_ms: None }).await;
    assert_eq!(run(&backend, expire(u64::MAX)).await, StoreAnswer::Flag(true));
    assert_eq!(get(&backend).await, text("v"));
    assert_eq!(run(&backend, expire(0)).await, StoreAnswer::Flag(true));
    assert_eq!(get(&backend).await, StoreAnswer::Value(None));
}

async fn limits_and_kinds_are_checked(backend: Backend) {
    let set = |key: &str, bytes: usize| StoreRequest::Set { key: key.to_owned(), value: "x".repeat(bytes), ttl_ms: None };
    assert_eq!(run(&backend, set("k", 64 << 10)).await, StoreAnswer::Done);
    assert_eq!(run(&backend, set(&"k".repeat(512), 1)).await, StoreAnswer::Done);
    run(&backend, StoreRequest::PushCapped { key: key(), value: "a".to_owned(), cap: 1 }).await;
    for request in [
        set("k", (64 << 10) + 1),
        set(&"k".repeat(513), 1),
        set("", 1),
        StoreRequest::PushCapped { key: key(), value: "a".to_owned(), cap: 0 },
        StoreRequest::Get { key: key() },
        StoreRequest::Add { key: key(), by: 1 },
        StoreRequest::CompareAndSet { key: key(), old: None, new: "x".to_owned() },
        StoreRequest::Add { key: "k".to_owned(), by: 1 },
        StoreRequest::PushCapped { key: "k".to_owned(), value: "a".to_owned(), cap: 1 },
        StoreRequest::Range { key: "k".to_owned(), count: 1 },
    ] {
        let answer = backend.queue.store.run("p", request.clone()).await;
        assert!(matches!(answer, Err(QueueError::Invalid(_))), "{request:?} answered {answer:?}");
    }
}

async fn one_node_leads(backend: Backend) {
    let [first, second] = [(); 2].map(|()| NodeId::random().unwrap());
    let presence = &backend.queue.presence;
    let (short, long) = (Duration::from_millis(200), Duration::from_secs(60));
    assert!(presence.lead(&first, long).await.unwrap());
    assert!(!presence.lead(&second, long).await.unwrap());
    assert!(presence.lead(&first, short).await.unwrap(), "asked again it is prolonged, or cut short");
    let taken = async { while !presence.lead(&second, long).await.unwrap() {} };
    tokio::time::timeout(PATIENCE, taken).await.expect("nobody has it for ever");
    assert!(!presence.lead(&first, long).await.unwrap());
}

//! Memory against Redis: random sequences of operations, on which both must agree in everything the contract promises.
//!
//! A failure prints the shortest sequence that fails, and its seed is kept in `host/proptest-regressions`, to be tried first from then on.

mod jobs;
mod presence;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use plugsocket_plugin::call::{StoreAnswer, StoreRequest};
use proptest::prelude::*;
use proptest::test_runner::{TestCaseError, TestRunner};

use super::backend::{Backend, Server, options};
use crate::queue::QueueError;

/// Short, because the heir of a crash waits for it.
const LEASE: Duration = Duration::from_millis(300);
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

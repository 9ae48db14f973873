//! One suite for both implementations: what the contract says, tried on the memory queue and on a real Redis.

mod backend;
mod connections;
mod faults;
mod incoming;
mod lists;
mod model;
mod nodes;
mod outgoing;
mod pressure;
mod redis_only;
mod stored;

use self::backend::{Backend, Kind};

/// Runs one case on one backend, on a runtime with several threads.
fn run<F: Future<Output = ()>>(kind: Kind, case: impl FnOnce(Backend) -> F) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let backend = Backend::open(kind);
        case(backend).await;
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
}

macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod on_memory {
            $(#[test] fn $name() { crate::queue::conformance::run(crate::queue::conformance::Kind::Memory, super::$name); })+
        }
        mod on_redis {
            $(#[test] fn $name() { crate::queue::conformance::run(crate::queue::conformance::Kind::Redis, super::$name); })+
        }
    };
}
use on_both;

//! The handler's periodic turn.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::harness::{House, until};
use crate::config::LoopOn;

#[tokio::test]
async fn on_loop_comes_again_and_again_but_never_twice_at_once() {
    let house = House::open(|settings| {
        settings.server.loop_interval = Duration::from_millis(1);
        settings.server.handler_timeout = Duration::from_millis(5);
    })
    .await;
    let loops = || house.script.loops.load(SeqCst);
    until("three turns", || loops() >= 3).await;
    house.script.is_loop_held.store(true, SeqCst);
    let before = loops();
    until("a turn that hangs", || loops() > before).await;
    let hanging = loops();
    // Many intervals and several handler timeouts.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(loops(), hanging, "no turn while one runs, however late it is");
    house.script.is_loop_held.store(false, SeqCst);
    house.script.gate.add_permits(1);
    until("it goes on", || loops() > hanging).await;
}

#[tokio::test]
async fn on_one_node_only_the_one_that_has_it_runs_the_turns() {
    let house = House::open(|settings| {
        settings.server.loop_interval = Duration::from_millis(1);
        settings.server.loop_on = LoopOn::OneNode;
        settings.queue_options.lease = Duration::from_millis(600);
    })
    .await;
    let loops = || house.script.loops.load(SeqCst);
    until("three turns", || loops() >= 3).await;
    *house.queue.may_lead.lock().unwrap() = false;
    let quiet = async {
        loop {
            let before = loops();
            tokio::time::sleep(Duration::from_millis(100)).await;
            if loops() == before {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), quiet).await.expect("another one has it, and the turns go on");
    let before = loops();
    *house.queue.may_lead.lock().unwrap() = true;
    until("it is ours again", || loops() > before).await;
}

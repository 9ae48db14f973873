//! The handler's periodic turn.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::harness::{House, until};

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

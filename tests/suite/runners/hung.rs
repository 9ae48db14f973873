//! A call that never ends: when its runner is ended, and what the calls beside it see.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{PATIENCE, app, dead, enter, obituaries, settled};
use crate::harness::procfs;

/// The time limit of `act_briefly`, and the grace after it.
const TIMEOUT: Duration = Duration::from_millis(500);
const GRACE: Duration = Duration::from_millis(300);
/// A call that is longer than limit and grace together.
const LONG_MS: u64 = 1_500;
const SHORT_MS: u64 = 50;
/// What a machine that is busy with other things may add.
const SLACK: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_hung_call_is_ended_and_its_neighbours_are_made_again() {
    let app = app(|config| config.with("worker.attempts", 1));
    let url = app.urls().remove(0);
    let (mut hung, _) = enter(&url, "hung").await;
    let (mut long, _) = enter(&url, "long").await;
    let (mut short, _) = enter(&url, "short").await;
    let runner = short.request("act", Value::Null).await["process"].clone();
    let pid = u32::try_from(runner.as_u64().unwrap()).unwrap();
    let mark = app.workers[0].lines().len();

    let started = Instant::now();
    let long_asked = long.send_request("act", json!({ "milliseconds": LONG_MS })).await;
    let hung_asked = hung.send_request("act_briefly", json!({ "do": "loop" })).await;
    let waiting = async {
        let answer = hung.answer(&hung_asked).await;
        (answer, started.elapsed())
    };
    let ending = async {
        while procfs::is_running(pid) {
            assert!(started.elapsed() < PATIENCE, "the runner with the hung call goes on");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        started.elapsed()
    };
    // Calls that are short enough to end within the grace, one after another, through all of it.
    let calling = async {
        let (mut worst, mut count, mut last) = (Duration::ZERO, 0_u32, runner.clone());
        while last == runner {
            let asked = Instant::now();
            let answer = short.request("act", json!({ "milliseconds": SHORT_MS })).await;
            assert_eq!(answer["attempt"], 1);
            (worst, count, last) = (worst.max(asked.elapsed()), count + 1, answer["process"].clone());
        }
        (worst, count)
    };
    let ((answer, told), ended, (worst, count)) = tokio::join!(waiting, ending, calling);
    let long_answer = long.answer(&long_asked).await;
    let long_took = started.elapsed();
    println!(
        "a hung call with a limit of {TIMEOUT:?} and a grace of {GRACE:?}: its client was told {:?} after {told:.0?}, its runner had ended \
         after {ended:.0?}; {count} calls of {SHORT_MS} ms beside it: worst {worst:.0?}; one of {LONG_MS} ms: made again, answered after {long_took:.0?}",
        answer.as_ref().map_err(|error| error["code"].clone())
    );
    assert_eq!(answer.as_ref().map_err(|error| error["code"].as_str()), Err(Some("timeout")), "{answer:?}");
    assert!((TIMEOUT..TIMEOUT + SLACK).contains(&told), "told after {told:?}");
    assert!((TIMEOUT..TIMEOUT + GRACE + SLACK).contains(&ended), "ended after {ended:?}");
    let long_answer = long_answer.unwrap();
    assert_eq!(long_answer["attempt"], 1, "an interrupted call counts no attempt");
    assert_ne!(long_answer["process"], runner, "it was too long to end in the old runner");
    let letters = dead(&app);
    assert!(letters.len() == 1 && letters[0].contains("timed out"), "{letters:?}");
    assert_eq!(obituaries(&app.workers[0], mark).len(), 1, "{:?}", obituaries(&app.workers[0], mark));
    settled(&app.workers[0], 1).await;
}

//! What counts as what, and that counting is nothing beside a call.

use async_trait::async_trait;
use bytes::Bytes;
use plugsocket_plugin::call::{HostOperation, Operation};
use serde_json::json;
use tokio::sync::Mutex;

use super::*;
use crate::plugin::HostSink;

struct Quiet;

#[async_trait]
impl HostSink for Quiet {
    async fn request(&self, _operation: HostOperation, _input: Bytes) -> Answer {
        Answer { status: Status::Done, bytes: Bytes::new() }
    }
}

/// Ends a call as it was told last; `None` = never.
struct Told(Mutex<Option<Result<Answer, CallError>>>);

#[async_trait]
impl Callee for Told {
    async fn call(&self, _call: Call) -> Result<Answer, CallError> {
        let told = self.0.lock().await.clone();
        match told {
            Some(result) => result,
            None => std::future::pending().await,
        }
    }

    fn ends_calls(&self) -> bool {
        true
    }
}

fn call(message_id: &str) -> Call {
    let input = json!({"action": "say", "meta": {"message_id": message_id}}).to_string();
    Call::new(Operation::Action, input, Arc::new(Quiet))
}

fn answer(status: Status) -> Option<Result<Answer, CallError>> {
    Some(Ok(Answer { status, bytes: Bytes::new() }))
}

#[tokio::test]
async fn what_counts_as_what() {
    let tally = Tally::new(Arc::default());
    let told = Arc::new(Told(Mutex::default()));
    let watched = Watched::new(Arc::clone(&told) as _, Arc::clone(&tally));
    let ends: [(Option<Result<Answer, CallError>>, Counts); 12] = [
        (answer(Status::Done), Counts { calls: 1, ..Counts::default() }),
        (answer(Status::Rejected), Counts { calls: 1, ..Counts::default() }),
        (answer(Status::Retry), Counts { calls: 1, errors: 1, ..Counts::default() }),
        (answer(Status::Panicked), Counts { calls: 1, errors: 1, ..Counts::default() }),
        (Some(Err(CallError::Gone(String::new()))), Counts { calls: 1, errors: 1, ..Counts::default() }),
        (Some(Err(CallError::Crashed(String::new()))), Counts { calls: 1, errors: 1, crashes: 1, ..Counts::default() }),
        (Some(Err(CallError::TimedOut)), Counts { calls: 1, timeouts: 1, ..Counts::default() }),
        (Some(Err(CallError::Interrupted { is_suspect: true })), Counts::default()),
        (Some(Err(CallError::Overloaded)), Counts::default()),
        (Some(Err(CallError::Late)), Counts::default()),
        (Some(Err(CallError::Unavailable(String::new()))), Counts::default()),
        (None, Counts::default()),
    ];
    for (end, expected) in ends {
        let before = tally.counts();
        *told.0.lock().await = end.clone();
        let mut calling = watched.call(call(""));
        let ended = futures_util::poll!(&mut calling);
        assert_eq!(tally.counts().in_flight, 1, "until it is dropped or has ended");
        drop(calling);
        let after = tally.counts();
        let (is_over, counted) = (ended.is_ready(), |after: u64, before: u64| after - before);
        let counted = Counts {
            calls: counted(after.calls, before.calls),
            quiet_turns: counted(after.quiet_turns, before.quiet_turns),
            errors: counted(after.errors, before.errors),
            timeouts: counted(after.timeouts, before.timeouts),
            crashes: counted(after.crashes, before.crashes),
            in_flight: after.in_flight,
        };
        assert_eq!((counted, is_over), (expected, end.is_some()), "{end:?}");
    }
}

#[tokio::test]
async fn turns_of_the_loop_that_end_well_are_counted_apart() {
    let tally = Tally::new(Arc::default());
    let told = Arc::new(Told(Mutex::default()));
    let watched = Watched::new(Arc::clone(&told) as _, Arc::clone(&tally));
    for status in [Status::Done, Status::Panicked] {
        *told.0.lock().await = answer(status);
        let _ = watched.call(Call::new(Operation::Loop, "", Arc::new(Quiet))).await;
    }
    assert_eq!(tally.counts(), Counts { calls: 2, quiet_turns: 1, errors: 1, ..Counts::default() });
}

#[tokio::test]
async fn a_followed_message_is_found_among_others() {
    let tally = Tally::new(Arc::default());
    let told = Arc::new(Told(Mutex::new(answer(Status::Done))));
    let watched = Watched::new(Arc::clone(&told) as _, Arc::clone(&tally));
    tally.follow("m1");
    watched.call(call("m2")).await.unwrap();
    assert_eq!(tally.followed_end(), None);
    *told.0.lock().await = Some(Err(CallError::Interrupted { is_suspect: true }));
    assert!(watched.call(call("m1")).await.is_err());
    assert_eq!(tally.followed_end(), None, "it comes again");
    *told.0.lock().await = Some(Err(CallError::Crashed(String::new())));
    assert!(watched.call(call("m1")).await.is_err());
    assert_eq!(tally.followed_end(), Some(FollowedEnd::Crashed));
    tally.follow("m2");
    *told.0.lock().await = answer(Status::Retry);
    watched.call(call("m2")).await.unwrap();
    assert_eq!(tally.followed_end(), Some(FollowedEnd::Otherwise));
    tally.unfollow();
    assert_eq!(tally.followed_end(), None);
}

//! Moves that take longer than a test may wait.

use std::sync::Arc;

use plugsocket_plugin::call::Role;

use super::*;
use crate::config::Settings;
use crate::plugin::blame::{RunnerEvent, Subject};
use crate::plugin::registry::tests::scripted::{folder_with, live, live_in};

fn crashed(message_id: &str) -> RunnerEvent {
    let subject = Subject {
        operation: plugsocket_plugin::call::Operation::Action,
        action: "say".to_owned(),
        connection_id: "c".to_owned(),
        message_id: message_id.to_owned(),
    };
    RunnerEvent::Crashed { subject: Some(subject), is_doubtful: false, reason: "SIGSEGV".to_owned() }
}

/// On probation, with a standby.
async fn slot() -> (Slot, String, Instant) {
    let (now, mut slot) = (Instant::now(), Slot::default());
    let folder = Arc::clone(&folder_with("one"));
    let _ = slot.arrive(live(folder.path(), "one").await, true, now);
    let two = live(folder.path(), "two").await;
    let version = two.key.version.clone();
    let _ = slot.arrive(two, false, now);
    (slot, version, now)
}

#[tokio::test]
async fn a_message_that_does_not_come_again_clears_nobody() {
    let settings = Settings::default().probation;
    let (mut slot, two, now) = slot().await;
    let moved = slot.hear(&two, crashed("m1"), now);
    assert!(moved.is_changed && moved.leaving.is_empty());
    assert!(slot.due(&settings, now).is_some_and(|due| due == now + Duration::from_secs(30)));
    assert!(!slot.look(&settings, now + Duration::from_secs(29)).is_changed);
    assert!(!slot.hear(&two, crashed("m1"), now).is_changed, "the same one says nothing new");
    let moved = slot.look(&settings, now + Duration::from_secs(30));
    assert_eq!(moved.leaving.len(), 1);
    assert!(matches!(moved.notes.first(), Some(Note::Quarantined { version, .. }) if *version == two));
}

#[tokio::test]
async fn a_second_message_that_crashes_it_meanwhile_is_enough() {
    let (mut slot, two, now) = slot().await;
    let _ = slot.hear(&two, crashed("m1"), now);
    assert_eq!(slot.hear(&two, crashed("m2"), now).leaving.len(), 1);
    assert!(slot.standby().is_none() && slot.serving().is_some_and(|live| live.key.version != two));
}

#[tokio::test]
async fn a_suspect_serves_when_its_standby_is_parked() {
    let (mut slot, two, now) = slot().await;
    let one = slot.standby().unwrap().key.version.clone();
    let _ = slot.hear(&two, crashed("m1"), now);
    let moved = slot.hear(&one, RunnerEvent::Parked { role: Role::Actions, reason: "no memory".to_owned() }, now);
    assert!(moved.is_changed && moved.leaving.is_empty());
    assert!(slot.serving().is_some_and(|live| live.key.version == two) && !slot.has_standby());
}

fn killed() -> RunnerEvent {
    RunnerEvent::Crashed { subject: None, is_doubtful: true, reason: "SIGKILL".to_owned() }
}

#[tokio::test]
async fn who_is_killed_from_outside_is_not_to_blame_until_it_repeats() {
    let (mut slot, two, now) = slot().await;
    for _ in 0..2 {
        assert!(!slot.hear(&two, killed(), now).is_changed, "anybody may kill a process");
    }
    let one = slot.standby().unwrap().key.version.clone();
    assert!(!slot.hear(&one, killed(), now).is_changed, "says nothing of the candidate");
    let moved = slot.hear(&two, killed(), now);
    assert_eq!(moved.leaving.len(), 1);
    assert!(slot.serving().is_some_and(|live| live.key.version == one));
}

#[tokio::test]
async fn the_last_attempt_of_a_message_that_crashed_the_good_version_is_no_fault_of_the_candidate() {
    let (now, mut slot) = (Instant::now(), Slot::default());
    let folder = Arc::clone(&folder_with("one"));
    let _ = slot.arrive(live(folder.path(), "one").await, true, now);
    let one = slot.holder().unwrap().key.version.clone();
    let _ = slot.hear(&one, crashed("m1"), now);
    let _ = slot.hear(&one, crashed("m1"), now);
    let two = live(folder.path(), "two").await;
    let version = two.key.version.clone();
    let _ = slot.arrive(two, false, now);
    assert!(!slot.hear(&version, crashed("m1"), now).is_changed);
    assert!(slot.hear(&version, crashed("m2"), now).is_changed, "another one is");
    let _ = slot.hear(&one, crashed("m3"), now);
    assert_eq!(slot.poison.iter().collect::<Vec<_>>(), ["m1", "m3"], "each once, and those of the standby too");
}

#[tokio::test]
async fn what_is_parked_in_one_role_serves_in_the_other() {
    let (now, mut slot) = (Instant::now(), Slot::default());
    let folder = Arc::clone(&folder_with("one"));
    let _ = slot.arrive(live_in(folder.path(), "one", vec![Role::Handler, Role::Actions]).await, true, now);
    let one = slot.holder().unwrap().key.version.clone();
    let parked = |role| RunnerEvent::Parked { role, reason: "no memory".to_owned() };
    let serves = |slot: &Slot| slot.serving().map(|live| (live.handler().is_some(), live.actions().is_some()));
    assert!(slot.hear(&one, parked(Role::Handler), now).is_changed);
    assert_eq!(serves(&slot), Some((false, true)));
    assert!(!slot.hear(&one, RunnerEvent::Recovered { role: Role::Actions }, now).is_changed, "it was not parked there");
    let _ = slot.hear(&one, parked(Role::Actions), now);
    assert_eq!(serves(&slot), None);
    let _ = slot.hear(&one, RunnerEvent::Recovered { role: Role::Handler }, now);
    assert_eq!(serves(&slot), Some((true, false)));
    let _ = slot.hear(&one, RunnerEvent::Recovered { role: Role::Actions }, now);
    assert_eq!(serves(&slot), Some((true, true)));
    assert_eq!(slot.holder().unwrap().facts.state(), VersionState::Current);
}

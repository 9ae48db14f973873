//! How one version follows another: probation, rollback, suspicion, parking, draining.

use plugsocket_plugin::call::Role;

use super::scripted::{Bench, EASY, STRICT, begin, bench, folder_with};
use super::*;
use crate::plugin::CallError;
use crate::plugin::blame::RunnerEvent;
use crate::plugin::registry::status::{RegistryError, VersionState};

#[tokio::test]
async fn a_version_that_lasts_lets_the_one_before_it_go() {
    let bench = bench("one").await;
    bench.put("two").await;
    assert!(bench.has("two", VersionState::Probation) && bench.has("one", VersionState::Standby), "{:#?}", bench.status());
    assert_eq!(bench.who().await, "two");
    bench.put("three").await;
    assert!(bench.has("three", VersionState::Probation) && bench.has("one", VersionState::Standby), "the standby stays the last good one");
    bench.until(|bench| bench.version("two").is_none()).await;
    bench.configure(EASY);
    bench.registry.apply().await;
    bench.say("").await.unwrap();
    bench.until(|bench| bench.has("three", VersionState::Current) && bench.version("one").is_none()).await;
    let three = bench.version("three").unwrap();
    assert_eq!((three.calls, three.errors, three.in_flight, three.sdk.as_str()), (1, 0, 0, "0.1.0"));
    assert_eq!(three.sha256, "8b5b9db0c13db24256c829aa364aa90c6d2eba318b9232a4ab9313b954d3555f", "as sha256sum has it");
}

#[tokio::test]
async fn the_last_good_file_put_back_needs_no_second_look() {
    let bench = bench("one").await;
    let one = bench.registry.action("say").unwrap();
    bench.put("two").await;
    bench.put("one").await;
    assert!(bench.has("one", VersionState::Current));
    assert!(Arc::ptr_eq(&one, &bench.registry.action("say").unwrap()), "it was kept, not brought up again");
    bench.put("two").await;
    assert!(bench.has("two", VersionState::Probation), "nothing is held against it");
}

async fn is_rolled_back(bench: &Bench, script: &str, reason: &str) {
    bench.until(|bench| bench.has(script, VersionState::RolledBack)).await;
    assert!(bench.reason(script).contains(reason), "{}", bench.reason(script));
    assert!(bench.has("one", VersionState::Current));
    assert_eq!(bench.who().await, "one");
}

#[tokio::test]
async fn errors_and_timeouts_roll_back() {
    let bench = bench("one").await;
    bench.put("two error").await;
    for _ in 0..4 {
        bench.say("").await.unwrap();
    }
    tokio::task::yield_now().await;
    assert!(bench.has("two error", VersionState::Probation), "four are too few to say");
    bench.say("").await.unwrap();
    is_rolled_back(&bench, "two error", "5 of its 5 calls failed").await;
    bench.put("two error").await;
    assert_eq!(bench.who().await, "one", "it is quarantined");
    assert!(bench.status().last_rejection.unwrap().reason.contains("plugsocket plugins retry"));

    bench.put("three timeout").await;
    for _ in 0..3 {
        assert!(matches!(bench.say("").await, Err(CallError::TimedOut)));
    }
    is_rolled_back(&bench, "three timeout", "3 of its calls did not end in time").await;
}

#[tokio::test]
async fn a_crash_is_tried_on_the_standby_which_survives_it() {
    let bench = bench("one").await;
    bench.put("two crash:m1").await;
    assert!(matches!(bench.say("m1").await, Err(CallError::Crashed(_))));
    bench.until(|bench| bench.has("two", VersionState::Suspended)).await;
    assert_eq!(bench.who().await, "one", "the standby serves");
    assert!(bench.has("two", VersionState::Suspended), "another message says nothing");
    bench.say("m1").await.unwrap();
    is_rolled_back(&bench, "two", "survived").await;
}

#[tokio::test]
async fn a_message_that_crashes_both_is_poison_and_clears_the_candidate() {
    poison("one crash:m1").await;
    // The call's own end is enough.
    poison("one mute crash:m1").await;
}

async fn poison(good: &str) {
    let bench = bench(good).await;
    bench.put("two crash:m1 crash:m2").await;
    assert!(bench.say("m1").await.is_err());
    bench.until(|bench| bench.has("two", VersionState::Suspended)).await;
    assert!(matches!(bench.say("m1").await, Err(CallError::Crashed(_))));
    bench.until(|bench| bench.has("two", VersionState::Probation)).await;
    assert!(bench.reason("two").contains("cleared: message m1"), "{}", bench.reason("two"));
    assert!(bench.has("one", VersionState::Standby));
    for _ in 0..8 {
        assert!(bench.say("m1").await.is_err());
    }
    // Events come in order: when this one has been heard, the poison's have.
    assert!(bench.say("m2").await.is_err());
    bench.until(|bench| bench.has("two", VersionState::Suspended)).await;
    assert!(bench.reason("two").contains("m2"), "{}", bench.reason("two"));
}

#[tokio::test]
async fn a_crash_without_a_message_rolls_back_at_once() {
    let bench = bench("one").await;
    bench.event("one", RunnerEvent::Crashed { subject: None, is_doubtful: false, reason: "SIGKILL".to_owned() });
    bench.put("two").await;
    bench.event("two", RunnerEvent::Crashed { subject: None, is_doubtful: false, reason: "SIGABRT".to_owned() });
    is_rolled_back(&bench, "two", "SIGABRT").await;
    assert_eq!(bench.version("two").unwrap().crashes, 1);
}

#[tokio::test]
async fn a_parked_version_takes_no_calls_until_it_recovers() {
    let bench = bench("one").await;
    bench.event("one", RunnerEvent::Parked { role: Role::Actions, reason: "no memory".to_owned() });
    bench.until(|bench| bench.has("one", VersionState::Parked)).await;
    assert!(bench.registry.action("say").is_none());
    assert_eq!((bench.status().state, bench.reason("one").as_str()), (PluginState::Parked, "no memory"));
    bench.event("one", RunnerEvent::Recovered { role: Role::Actions });
    bench.until(|bench| bench.has("one", VersionState::Current)).await;
    assert_eq!(bench.who().await, "one");

    bench.put("two").await;
    bench.event("two", RunnerEvent::Parked { role: Role::Actions, reason: "no memory".to_owned() });
    is_rolled_back(&bench, "two", "no runner of it comes up: no memory").await;
}

#[tokio::test]
async fn a_first_version_has_nothing_to_fall_back_to() {
    let bench = begin(folder_with("one error"), STRICT).await;
    for _ in 0..50 {
        bench.say("").await.unwrap();
    }
    bench.event("one", RunnerEvent::Crashed { subject: None, is_doubtful: false, reason: "SIGABRT".to_owned() });
    bench.until(|bench| bench.version("one").unwrap().crashes == 1).await;
    assert!(bench.has("one", VersionState::Probation));
    assert!(matches!(bench.registry.rollback("x").await, Err(RegistryError::NoGoodVersion(_))));
}

#[tokio::test]
async fn by_hand_it_goes_back_and_forth() {
    let bench = bench("one").await;
    bench.put("two").await;
    let said = bench.registry.rollback("x").await.unwrap();
    let two = bench.version("two").unwrap();
    assert!(said.contains("serves again") && said.contains(&two.sha256[..12]), "{said}");
    is_rolled_back(&bench, "two", "by hand").await;
    bench.configure(EASY);
    let said = bench.registry.retry(&two.sha256[..6]).await.unwrap();
    assert!(said.ends_with("serves"), "{said}");
    assert_eq!(bench.who().await, "two");
    bench.until(|bench| bench.has("two", VersionState::Current)).await;
    // No standby any more: the good version before it is brought up from its kept copy.
    bench.until(|bench| bench.version("one").is_none()).await;
    bench.registry.rollback("x").await.unwrap();
    is_rolled_back(&bench, "two", "by hand").await;
    assert!(matches!(bench.registry.rollback("x").await, Err(RegistryError::NoGoodVersion(_))));
    assert!(matches!(bench.registry.rollback("y").await, Err(RegistryError::Unknown { .. })));
    assert!(matches!(bench.registry.retry("12345").await, Err(RegistryError::NotAnId(_))));
    assert!(matches!(bench.registry.retry("000000").await, Err(RegistryError::NotRefused(_))));
}

#[tokio::test]
async fn changed_libraries_wait_when_they_are_told_to() {
    let bench = bench("one").await;
    bench.configure("reload = \"manual\"");
    bench.put("two").await;
    bench.put("two").await;
    assert_eq!(bench.who().await, "one");
    assert!(bench.status().waiting.unwrap().contains("plugsocket plugins reload"));
    bench.configure("reload = \"manual\"\n[plugins.x]\nconfig = { a = 1 }");
    let before = bench.status().version;
    time::timeout(SOON, bench.registry.apply()).await.unwrap();
    assert_ne!(bench.status().version, before, "the config applies");
    assert_eq!(bench.who().await, "one", "to the library that is known");
    bench.registry.reload().await.unwrap();
    assert_eq!(bench.who().await, "two");
    assert_eq!(bench.status().waiting, None);

    bench.configure("reload = \"off\"\n[plugins.x]\nconfig = { a = 1 }");
    bench.put("three").await;
    assert!(matches!(bench.registry.reload().await, Err(RegistryError::ReloadOff)));
    assert_eq!(bench.who().await, "two");
}

#[tokio::test]
async fn a_drain_has_an_end() {
    let bench = begin(folder_with("one hold"), "[probation]\ntime = \"0s\"\ncalls = 0\n[plugins.x]\ndrain_timeout = \"200ms\"").await;
    let version = bench.registry.action("say").unwrap();
    let call = version.callee.call(Call::new(Operation::Action, "{}", Arc::new(Quiet)));
    bench.put("two").await;
    bench.until(|bench| bench.version("one").is_some_and(|one| one.state == VersionState::Draining)).await;
    let ended = time::timeout(SOON, call).await.expect("it is not killed");
    assert!(matches!(ended, Err(CallError::Gone(_))));
    bench.until(|bench| bench.version("one").is_none()).await;
}

#[tokio::test]
async fn a_process_wears_out() {
    let bench =
        begin(folder_with("one"), "retired_max = 2\n[probation]\ntime = \"0s\"\ncalls = 0\n[plugins.x]\nisolation = \"in-process\"").await;
    let worn = bench.registry.worn();
    bench.put("two").await;
    assert!(!worn.is_cancelled(), "one was replaced");
    bench.put("three").await;
    time::timeout(SOON, worn.cancelled()).await.expect("two were");
    bench.put("four").await;
    assert_eq!(bench.who().await, "three", "nothing is loaded any more");
}

#[tokio::test]
async fn a_first_version_without_fault_stands_by_for_its_successor() {
    for (first, serves) in [("one", "one"), ("one error", "two")] {
        let folder = folder_with(first);
        let bench = begin(Arc::clone(&folder), "").await;
        bench.who().await;
        bench.put("two error").await;
        for _ in 0..10 {
            bench.who().await;
        }
        let serving = |bench: &Bench| bench.registry.action("say").is_some();
        bench.until(serving).await;
        bench.until(|bench| bench.has("two error", VersionState::RolledBack) == (serves == "one")).await;
        assert_eq!(bench.who().await, serves);
        if serves == "one" {
            let is_kept = |_: &Bench| {
                let files = fs::read_dir(folder.path().join("var/plugins")).unwrap();
                files.flatten().any(|file| file.path().extension().is_some_and(|ending| ending == "good"))
            };
            bench.until(is_kept).await; // A restart finds it.
        }
    }
}

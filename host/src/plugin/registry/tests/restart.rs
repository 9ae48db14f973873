//! What a process begins with after another has ended.

use super::scripted::{EASY, STRICT, begin, bench, folder_with};
use super::*;
use crate::plugin::registry::status::VersionState;

#[tokio::test]
async fn a_restart_begins_with_the_last_good_version() {
    let first = bench("one").await;
    let folder = Arc::clone(&first.folder);
    first.registry.close().await;
    let same = begin(Arc::clone(&folder), STRICT).await;
    assert!(same.has("one", VersionState::Current), "a good version needs no probation again");
    same.registry.close().await;

    same.replace("two");
    let second = begin(Arc::clone(&folder), STRICT).await;
    assert!(second.has("two", VersionState::Probation) && second.has("one", VersionState::Standby), "{:#?}", second.status());
    second.registry.rollback("x").await.unwrap();
    second.registry.close().await;
    let third = begin(Arc::clone(&folder), STRICT).await;
    assert_eq!(third.who().await, "one", "the other one is quarantined");
    assert!(third.status().last_rejection.unwrap().reason.contains("taken back by hand"));
    let quarantined = third.status().versions.into_iter().find(|version| version.state == VersionState::RolledBack).unwrap();
    assert!(third.registry.retry(&quarantined.version[..8]).await.unwrap().ends_with("serves"));
    third.registry.close().await;

    third.replace("three refuse");
    let fourth = begin(folder, STRICT).await;
    assert!(fourth.has("one", VersionState::Current) && fourth.who().await == "one", "a broken file does not stop it");
    assert_eq!(fourth.status().last_rejection.unwrap().reason, "refused");
}

#[tokio::test]
async fn who_died_during_a_probation_is_not_tried_again() {
    let in_process = format!("{EASY}\n[plugins.x]\nisolation = \"in-process\"");
    let first = begin(folder_with("one"), &in_process).await;
    first.say("").await.unwrap();
    first.until(|bench| bench.has("one", VersionState::Current)).await;
    let strict = format!("{STRICT}\n[plugins.x]\nisolation = \"in-process\"");
    first.configure(&strict);
    first.put("two").await;
    let var = first.folder.path().join("var/plugins");
    let mark = var.join(format!("x.worker.{}.probation", std::process::id()));
    let written = fs::read(&mark).unwrap();
    first.registry.close().await;
    assert!(!mark.exists(), "an orderly end is no crash");
    let orderly = begin(Arc::clone(&first.folder), &strict).await;
    assert!(orderly.has("two", VersionState::Probation) && mark.exists());
    orderly.registry.leave().await;
    assert!(!mark.exists(), "whoever is told to end may be killed when that takes too long");
    orderly.put("three").await;
    assert!(orderly.has("three", VersionState::Probation) && !mark.exists());
    orderly.put("two").await;
    orderly.registry.close().await;

    fs::write(var.join("x.worker.4000000000.probation"), written).unwrap();
    let second = begin(Arc::clone(&first.folder), &strict).await;
    assert_eq!(second.who().await, "one");
    assert!(second.status().last_rejection.unwrap().reason.contains("the process ended during its probation"));
}

#[tokio::test]
async fn a_damaged_record_or_copy_does_not_stop_the_start() {
    let first = bench("one").await;
    let (folder, var) = (Arc::clone(&first.folder), first.folder.path().join("var/plugins"));
    first.registry.close().await;
    first.replace("two");
    let kept = fs::read_dir(&var).unwrap().flatten().find(|entry| entry.file_name().to_string_lossy().ends_with(".good")).unwrap();
    fs::remove_file(kept.path()).unwrap();
    fs::write(kept.path(), "something else").unwrap();
    let second = begin(Arc::clone(&folder), STRICT).await;
    assert_eq!(second.who().await, "two");
    second.registry.close().await;
    fs::write(var.join("x.worker.json"), "{").unwrap();
    assert_eq!(begin(folder, STRICT).await.who().await, "two");
}

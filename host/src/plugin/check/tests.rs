//! The throw-away child: what it accepts, refuses, and how its own end is told.

use std::fs;

use super::*;
use crate::plugin::testing::{chat_library, checker};

#[tokio::test]
async fn answers_the_manifest() {
    let manifest = checker().check(&chat_library(), &[Role::Handler, Role::Actions], &Map::new()).await.unwrap();
    assert_eq!(manifest.name, "chat");
    assert!(manifest.handler);
    assert!(!manifest.actions.is_empty());
}

#[cfg(unix)]
#[tokio::test]
async fn crashes_hangs_and_refusals_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let play = |script: &str| {
        let script = OsString::from(format!("cat > /dev/null; {script}"));
        Checker::new(Launcher::program_at("/bin/sh".into()).with_arguments(["-c".into(), script])).with_timeout(Duration::from_secs(2))
    };
    let path = folder.path().join("libx.so");
    fs::write(&path, "").unwrap();
    for (script, words) in [
        ("kill -SEGV $$", "crashed the process that checks it with SIGSEGV"),
        ("kill -ABRT $$", "SIGABRT"),
        ("echo noise >&2; exit 1", "noise"),
        ("exit 7", "exit code 7"),
        ("echo hello", "it ended the process that checks it"),
        ("sleep 60 & exit 7", "exit code 7"), // A process it leaves behind holds the pipes.
    ] {
        let error = play(script).check(&path, &[Role::Actions], &Map::new()).await.unwrap_err();
        assert!(matches!(error, PluginError::Check(_)), "{script}: {error}");
        assert!(error.to_string().contains(words), "{script}: {error}");
    }
    for script in ["sleep 60", "yes"] {
        let error = play(script).check(&path, &[Role::Actions], &Map::new()).await.unwrap_err();
        assert!(error.to_string().contains("did not end within 2s") && error.is_worth_retrying(), "{script}: {error}");
    }
    let long = play("yes noise | head -c 300000 >&2; exit 1").check(&path, &[Role::Actions], &Map::new()).await.unwrap_err();
    assert!(long.to_string().len() < 5000, "its text is cut");
    let script = format!("echo noise >&2; echo '{MANIFEST_MARK}no database' >&2; exit 2");
    let error = play(&script).check(&path, &[], &Map::new()).await.unwrap_err();
    assert_eq!(error.to_string(), "its constructor failed: no database");
    assert!(error.is_worth_retrying());
    let missing = Checker::new(Launcher::program_at(folder.path().join("none"))).check(&path, &[], &Map::new()).await.unwrap_err();
    assert!(missing.to_string().contains("can't start the process") && missing.is_worth_retrying(), "{missing}");
}

#[tokio::test]
async fn a_file_that_is_no_library_is_refused_by_the_loader() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("libx.so");
    fs::write(&path, "hello").unwrap();
    let error = checker().check(&path, &[Role::Actions], &Map::new()).await.unwrap_err().to_string();
    assert!(error.contains("loader refused it"), "{error}");
}

//! Real files changed in real folders, each told once.

use std::fs;

use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(10);

async fn next(changes: &mut mpsc::Receiver<Change>) -> Change {
    timeout(SOON, changes.recv()).await.expect("nothing is told").unwrap()
}

#[tokio::test]
async fn renames_and_writes_are_told_once_and_reads_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let plugins = folder.path().join("plugins");
    fs::create_dir(&plugins).unwrap();
    let config = folder.path().join("plugsocket.toml");
    fs::write(&config, "").unwrap();
    let (_watcher, mut changes) = Watcher::start(&plugins, Some(&config)).unwrap();

    fs::write(folder.path().join("new.so"), "x").unwrap();
    let started = Instant::now();
    fs::rename(folder.path().join("new.so"), plugins.join("libx.so")).unwrap();
    assert_eq!(next(&mut changes).await, Change::PluginsChanged);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());

    fs::read(plugins.join("libx.so")).unwrap();
    fs::write(plugins.join("notes.txt"), "x").unwrap();
    fs::write(&config, "app = \"x\"").unwrap();
    assert_eq!(next(&mut changes).await, Change::ConfigChanged, "reading and other files say nothing");

    fs::write(plugins.join("libx.so"), "y").unwrap();
    fs::write(folder.path().join("config.new"), "z").unwrap();
    fs::rename(folder.path().join("config.new"), &config).unwrap();
    let mut both = [next(&mut changes).await, next(&mut changes).await];
    both.sort_by_key(|change| *change == Change::PluginsChanged);
    assert_eq!(both, [Change::ConfigChanged, Change::PluginsChanged]);
}

#[tokio::test]
async fn ends_when_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let (watcher, mut changes) = Watcher::start(folder.path(), None).unwrap();
    drop(watcher);
    assert_eq!(timeout(SOON, changes.recv()).await.expect("its thread still runs"), None);
    let missing = Watcher::start(&folder.path().join("none"), None).err().unwrap().to_string();
    assert!(missing.starts_with("can't watch the folder"), "{missing}");
}

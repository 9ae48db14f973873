//! Copies: of files at rest, under names never used before, gone with their process.

use std::io::Write as _;

use super::*;

#[test]
fn a_version_is_the_file_and_its_config() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("libx.so");
    fs::write(&file, "one").unwrap();
    let store = StagedStore::open(folder.path()).unwrap();
    let stage = |config: &str| store.stage("x", &file, config.as_bytes()).unwrap();
    let (first, again, other) = (stage("{}"), stage("{}"), stage("{\"a\":1}"));
    assert_eq!(first.version, again.version);
    assert_ne!(first.version, other.version);
    assert_ne!(first.path, again.path, "the loader would answer the same path with the old library");
    fs::write(&file, "two").unwrap();
    let changed = stage("{}");
    assert_ne!(first.version, changed.version);
    assert_eq!(fs::read(&first.path).unwrap(), b"one");
    assert_eq!(fs::metadata(&first.path).unwrap().permissions().mode() & 0o777, 0o400);
    assert_eq!(fs::metadata(folder.path().join("plugins")).unwrap().permissions().mode() & 0o777, 0o700);
    store.remove(&first);
    assert!(!first.path.exists());
}

#[test]
fn a_file_that_is_being_written_is_copied_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("libx.so");
    let mut file = File::create(&path).unwrap();
    let store = StagedStore::open(folder.path()).unwrap();
    let staged = std::thread::scope(|scope| {
        let staging = scope.spawn(|| store.stage("x", &path, b"").unwrap());
        for _ in 0..20 {
            file.write_all(&[7; 1000]).unwrap();
            std::thread::sleep(Duration::from_millis(10));
        }
        drop(file);
        staging.join().unwrap()
    });
    assert_eq!(fs::metadata(&staged.path).unwrap().len(), 20_000);
}

#[test]
fn copies_of_ended_processes_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let copies = folder.path().join("plugins");
    fs::create_dir(&copies).unwrap();
    let put = |name: String, age: Duration| {
        let path = copies.join(name);
        File::create(&path).unwrap().set_modified(SystemTime::now() - age).unwrap();
        path
    };
    let old = Duration::from_secs(48 * 3600);
    let ended = [put("x-ab.4000000000.1.so".to_owned(), old), put("x.4000000000.2.draft".to_owned(), old)];
    let earlier_self = put(format!("x-ab.{}.1.so", std::process::id()), old);
    let strange = put("notes.txt".to_owned(), old);
    StagedStore::open(folder.path()).unwrap();
    assert!(ended.iter().all(|path| !path.exists()));
    assert!(!earlier_self.exists());
    assert!(strange.exists());
    let young = put("x-ab.4000000000.3.so".to_owned(), Duration::from_secs(5));
    StagedStore::open(folder.path()).unwrap();
    assert!(young.exists(), "somebody we can't see may be loading it");
    if cfg!(target_os = "linux") {
        let running = put("x-ab.1.1.so".to_owned(), old);
        StagedStore::open(folder.path()).unwrap();
        assert!(running.exists(), "process 1 always runs");
    }
}

#[test]
fn what_is_no_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = StagedStore::open(folder.path()).unwrap();
    let error = store.stage("x", folder.path(), b"").unwrap_err();
    assert!(matches!(error, PluginError::NotLoadable(_)), "{error}");
    let missing = store.stage("x", &folder.path().join("none.so"), b"").unwrap_err().to_string();
    assert!(missing.starts_with("can't open"), "{missing}");
    let left = fs::read_dir(folder.path().join("plugins")).unwrap().count();
    assert_eq!(left, 0, "no draft stays");
}

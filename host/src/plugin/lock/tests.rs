//! The list of allowed builds: what it lets through, and that it lets nothing through when in doubt.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

fn sha256(digit: char) -> String {
    digit.to_string().repeat(64)
}

#[test]
fn without_a_file_everything_passes_and_with_one_only_what_it_lists() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plugins.lock");
    let check = |plugin: &str, digit: char| Lock::check(&path, Trust::Enforced, plugin, &sha256(digit));
    check("chat", 'a').unwrap();
    let mut lock = Lock::default();
    lock.allow("chat", &sha256('a'));
    lock.allow("chat", &sha256('b'));
    lock.write(&path).unwrap();
    assert_eq!(Lock::read(&path, Trust::Enforced).unwrap(), Some(lock));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no draft stays");
    check("chat", 'a').unwrap();
    check("chat", 'b').unwrap();
    for (plugin, digit) in [("chat", 'c'), ("other", 'a')] {
        let text = check(plugin, digit).unwrap_err().to_string();
        assert!(text.contains("plugsocket plugins lock --add") && text.contains(&sha256(digit)), "{text}");
    }
}

#[test]
fn a_list_that_cant_be_read_allows_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plugins.lock");
    let refused = |text: &str| {
        fs::write(&path, text).unwrap();
        Lock::check(&path, Trust::Enforced, "chat", &sha256('a')).unwrap_err().to_string()
    };
    for (text, words) in [
        ("[plugins", "can't be read, so nothing is loaded"),
        ("[plugin]\nchat = []", "unknown field"),
        ("[plugins]\nchat = [\"abc\"]", "`abc` is no sha256"),
        ("", "does not list"),
    ] {
        let said = refused(text);
        assert!(said.contains(words), "{said}");
    }
    let good = format!("[plugins]\nchat = [\"{}\"]", sha256('a'));
    fs::write(&path, good).unwrap();
    Lock::check(&path, Trust::Enforced, "chat", &sha256('a')).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let said = Lock::check(&path, Trust::Enforced, "chat", &sha256('a')).unwrap_err().to_string();
    assert!(said.contains("can be written by others"), "{said}");
    fs::remove_file(&path).unwrap();
    symlink(folder.path().join("nowhere"), &path).unwrap();
    assert!(Lock::check(&path, Trust::Enforced, "chat", &sha256('a')).is_err());
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(Lock::check(&path, Trust::Enforced, "chat", &sha256('a')).is_err());
}

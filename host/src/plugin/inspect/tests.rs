//! Files that are no library, or not one of this machine, each with its sentence.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::plugin::testing::chat_library;

fn refusal(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("libx.so");
    fs::write(&path, bytes).unwrap();
    inspect(&path).unwrap_err().to_string()
}

fn chat() -> (PathBuf, Vec<u8>) {
    let path = chat_library();
    let bytes = fs::read(&path).unwrap();
    (path, bytes)
}

#[test]
fn a_plugin_passes() {
    let (path, _) = chat();
    assert_eq!(inspect(&path).unwrap(), Inspection::default());
}

#[test]
fn other_files_are_called_what_they_are() {
    for (bytes, words) in [
        (b"".as_slice(), "empty"),
        (b"hello", "text file"),
        (b"#!/bin/sh\necho this is no library at all\n", "crate-type = [\"cdylib\"]"),
        (b"\x7fELF", "truncated"),
        (&[0; 100], "starts with zeros"),
        (b"!<arch>\n/               0", "static library"),
        (b"MZ\x90\0\x03\0\0\0\x04\0\0\0\xff\xff\0\0", "Windows"),
        (b"\x01\x02\x03\xff\xfe 0123456789", "not a library"),
    ] {
        let text = refusal(bytes);
        assert!(text.contains(words), "{words}: {text}");
    }
    let folder = tempfile::tempdir().unwrap();
    assert!(inspect(folder.path()).unwrap_err().to_string().contains("regular file"));
    let own = inspect(&std::env::current_exe().unwrap()).unwrap_err().to_string();
    assert!(own.contains("program, not a library"), "{own}");
}

#[test]
fn every_truncation_is_seen() {
    let (_, bytes) = chat();
    for part in 1..64 {
        let end = bytes.len() * part / 64;
        let text = refusal(&bytes[..end]);
        assert!(text.contains("truncated") || text.contains("damaged"), "cut at {end}: {text}");
    }
    let text = refusal(&bytes[..bytes.len() - 1]);
    assert!(text.contains("truncated: ") && text.contains(&format!("the file has {} bytes", bytes.len() - 1)), "{text}");
}

#[cfg(target_os = "linux")]
#[test]
fn foreign_machines_and_kinds_are_named() {
    let (_, bytes) = chat();
    let patched = |at: usize, value: u16| {
        let mut bytes = bytes.clone();
        bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
        refusal(&bytes)
    };
    let foreign = if cfg!(target_arch = "x86_64") { (183, "built for aarch64") } else { (62, "built for x86_64") };
    let text = patched(18, foreign.0);
    assert!(text.contains(foreign.1) && text.contains(std::env::consts::ARCH), "{text}");
    assert!(patched(16, 2).contains("program"));
    assert!(patched(16, 1).contains("object file"));
    let mut narrow = bytes.clone();
    narrow[4] = 1;
    assert!(refusal(&narrow).contains("32-bit"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_library_without_our_module_is_told_so() {
    let (_, mut bytes) = chat();
    let name = ROOT_MODULE_LOADER_NAME.as_bytes();
    let found: Vec<usize> = (0..bytes.len() - name.len()).filter(|at| bytes[*at..].starts_with(name)).collect();
    assert!(!found.is_empty());
    for at in found {
        bytes[at] = b'X';
    }
    assert!(refusal(&bytes).contains("is `export_plugin!` there?"));
}

//! Plugin libraries for the tests: the chat plugin as cargo built it, builds of it with another tag, and broken ones.

use std::env;
use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

/// A library that is sound but has nothing to do with us.
const STRANGER: &str = "#[unsafe(no_mangle)]\npub extern \"C\" fn stranger() -> i32 { 42 }\n";
/// A plugin of another host: made by abi_stable as ours are, with a module of its own.
const OTHER_API: &str = include_str!("../runners/other_api.rs.txt");

/// Only one variant is built at a time: all of them share one target folder, so that the dependencies are built once.
static BUILD: Mutex<()> = Mutex::new(());

/// Plugins are built as the suite is: what is measured with a release build shall not be the plugin's checks.
const PROFILE: &str = if cfg!(debug_assertions) { "debug" } else { "release" };

fn profile() -> Option<&'static str> {
    (PROFILE == "release").then_some("--release")
}

/// The workspace's root folder.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// File name of a plugin's library.
pub fn library_name(plugin: &str) -> String {
    format!("{DLL_PREFIX}{plugin}{DLL_SUFFIX}")
}

/// The chat plugin that cargo built as a dependency of this suite.
///
/// # Panics
/// When it is not there.
pub fn chat() -> PathBuf {
    built("chat")
}

/// The channels plugin that cargo built as a dependency of this suite.
///
/// # Panics
/// When it is not there.
pub fn channels() -> PathBuf {
    built("channels")
}

fn built(plugin: &str) -> PathBuf {
    let deps = env::current_exe().unwrap().parent().unwrap().to_owned();
    let name = library_name(plugin);
    let places = [deps.join(&name), deps.parent().unwrap().join(&name)];
    places.iter().find(|path| path.is_file()).unwrap_or_else(|| panic!("no {name} at {places:?}")).clone()
}

/// A build of the chat plugin that tells `tag` as its build; kept under the workspace's target folder.
///
/// # Panics
/// When it can't be built, or does not contain the tag.
pub fn chat_tagged(tag: &str) -> PathBuf {
    let _one = BUILD.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let target = env::current_exe().unwrap().ancestors().nth(3).unwrap().join("suite");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(workspace())
        .args(["build", "--locked", "--quiet", "-p", "chat", "--lib", "--target-dir"])
        .arg(&target)
        .args(profile());
    let output = command.env("PLUGSOCKET_CHAT_BUILD", tag).output().unwrap();
    assert!(output.status.success(), "can't build the chat plugin: {}", String::from_utf8_lossy(&output.stderr));
    let library = fs::read(target.join(PROFILE).join(library_name("chat"))).unwrap();
    let found = library.windows(tag.len()).any(|window| window == tag.as_bytes());
    assert!(found, "the chat plugin does not contain PLUGSOCKET_CHAT_BUILD={tag}");
    let folder = target.join("tagged").join(PROFILE).join(tag);
    fs::create_dir_all(&folder).unwrap();
    install_bytes(&library, &folder, "chat")
}

/// Builds a plugin from its one source file, on the SDK of this workspace, and gives back the library's content. Built again only when
/// something has changed.
///
/// # Panics
/// When it can't be built.
pub fn from_source(name: &str, source: &str) -> Vec<u8> {
    let sdk = workspace().join("plugin-api");
    from_source_with(
        name,
        source,
        &format!("plugsocket-plugin = {{ path = {sdk:?} }}\nserde = {{ version = \"1\", features = [\"derive\"] }}"),
    )
}

fn from_source_with(name: &str, source: &str, dependencies: &str) -> Vec<u8> {
    let folder = env::current_exe().unwrap().ancestors().nth(3).unwrap().join("suite/sources").join(name);
    let manifest = format!(
        "[package]\nname = \"{name}\"\nversion = \"0.0.1\"\nedition = \"2024\"\n[lib]\ncrate-type = [\"cdylib\"]\n\
         [dependencies]\n{dependencies}\n[workspace]\n"
    );
    fs::create_dir_all(folder.join("src")).unwrap();
    for (file, text) in [("Cargo.toml", manifest.as_str()), ("src/lib.rs", source)] {
        if fs::read_to_string(folder.join(file)).ok().as_deref() != Some(text) {
            fs::write(folder.join(file), text).unwrap();
        }
    }
    fs::read(build(&folder, name)).unwrap()
}

/// Builds the plugin crate in `folder`, which may be outside of the workspace, and gives back its library.
///
/// # Panics
/// When it can't be built.
pub fn build(folder: &Path, name: &str) -> PathBuf {
    let _one = BUILD.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let target = env::current_exe().unwrap().ancestors().nth(3).unwrap().join("suite");
    // The versions this workspace has tested, and nothing that must be asked of the network again.
    fs::copy(workspace().join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    let output = command.current_dir(folder).args(["build", "--quiet", "--target-dir"]).arg(&target).args(profile()).output().unwrap();
    assert!(output.status.success(), "can't build {name}: {}", String::from_utf8_lossy(&output.stderr));
    target.join(PROFILE).join(library_name(name))
}

/// Puts a library into a plugins folder under the name of `plugin`, the way a deployment should: copied beside, then renamed.
///
/// # Panics
/// When a file can't be read or written.
pub fn install(library: &Path, plugins_dir: &Path, plugin: &str) -> PathBuf {
    install_bytes(&fs::read(library).unwrap(), plugins_dir, plugin)
}

/// As [`install`], by a second link to the same content: costs those who are measured beside it nothing.
///
/// # Panics
/// When the two are not on one file system.
pub fn install_link(library: &Path, plugins_dir: &Path, plugin: &str) {
    let draft = plugins_dir.join(".link");
    fs::hard_link(library, &draft).unwrap();
    fs::rename(&draft, plugins_dir.join(library_name(plugin))).unwrap();
}

/// As [`install`], with any content.
///
/// # Panics
/// As [`install`].
pub fn install_bytes(bytes: &[u8], plugins_dir: &Path, plugin: &str) -> PathBuf {
    let draft = tempfile::NamedTempFile::with_prefix_in(".new-", plugins_dir).unwrap();
    fs::write(draft.path(), bytes).unwrap();
    let place = plugins_dir.join(library_name(plugin));
    draft.persist(&place).unwrap();
    place
}

/// Ways in which a library can be unusable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// Nothing in it.
    Empty,
    /// Not a library at all.
    Text,
    /// The first half of one: an upload that broke off.
    Truncated,
    /// Sound headers, but half of the code is zeros.
    Hollow,
    /// A sound library that is no plugin.
    Stranger,
    /// A sound library for another processor.
    Foreign,
    /// A plugin, but of another host.
    OtherApi,
}

/// Every way.
pub const BROKEN: [Broken; 7] =
    [Broken::Empty, Broken::Text, Broken::Truncated, Broken::Hollow, Broken::Stranger, Broken::Foreign, Broken::OtherApi];
/// Where an ELF file says for which processor it is, and what it says for one that is no host of these tests.
const ELF_MACHINE: usize = 18;
const ELF_SPARC: [u8; 2] = [2, 0];

/// The content of a library that is broken in this way.
///
/// # Panics
/// When it can't be made.
pub fn broken(way: Broken) -> Vec<u8> {
    let sound = || fs::read(chat()).unwrap();
    match way {
        Broken::Empty => Vec::new(),
        Broken::Text => b"#!/bin/sh\necho this is no library\n".to_vec(),
        Broken::Truncated => {
            let mut bytes = sound();
            bytes.truncate(bytes.len() / 2);
            bytes
        }
        Broken::Hollow => {
            let mut bytes = sound();
            let code = code_range(&bytes);
            bytes[code].fill(0);
            bytes
        }
        Broken::Stranger => stranger(),
        Broken::Foreign => {
            let mut bytes = sound();
            bytes[ELF_MACHINE..][..ELF_SPARC.len()].copy_from_slice(&ELF_SPARC);
            bytes
        }
        Broken::OtherApi => from_source_with("other_api", OTHER_API, "abi_stable = { version = \"0.11\", default-features = false }"),
    }
}

/// The middle of the code of a 64-bit little-endian ELF file; elsewhere the middle of the file.
fn code_range(bytes: &[u8]) -> std::ops::Range<usize> {
    let number = |at: usize, width: usize| bytes[at..at + width].iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte));
    let (mut start, mut size) = (0, bytes.len());
    if bytes.starts_with(b"\x7fELF") {
        let (headers, header_size, count) = (number(32, 8), number(54, 2), number(56, 2));
        let is_code = |header: &usize| number(*header, 4) == 1 && number(header + 4, 4) & 1 == 1; // PT_LOAD, PF_X
        let code = (0..count).map(|index| headers + index * header_size).find(is_code).expect("no code in the library");
        (start, size) = (number(code + 8, 8), number(code + 32, 8));
    }
    start + size / 4..start + size * 3 / 4
}

fn stranger() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let library = dir.path().join(library_name("stranger"));
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command.args(["--crate-type", "cdylib", "--crate-name", "stranger", "--edition", "2024", "-o"]).arg(&library).arg("-");
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(STRANGER.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "rustc can't build a library");
    fs::read(library).unwrap()
}

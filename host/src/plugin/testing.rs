//! What several tests of this room need: the chat plugin as cargo leaves it, and the test binary as throw-away child.

use std::ffi::OsString;
use std::path::PathBuf;

use super::check::Checker;

/// The library of the dev-dependency `chat`.
pub(crate) fn chat_library() -> PathBuf {
    let binary = std::env::current_exe().unwrap();
    let deps = binary.parent().unwrap();
    let name = format!("libchat.{}", if cfg!(target_os = "macos") { "dylib" } else { "so" });
    let places = [deps.join(&name), deps.parent().unwrap().join(&name)];
    places.iter().find(|path| path.exists()).unwrap_or_else(|| panic!("none of {places:?}: is `chat` a dev-dependency?")).clone()
}

/// Starts this test binary again with only the test that plays the child.
pub(crate) fn checker() -> Checker {
    let arguments = ["--exact", "plugin::check::tests::plays_the_child", "--nocapture", "--test-threads=1"];
    Checker::program(std::env::current_exe().unwrap()).with_arguments(arguments.map(OsString::from))
}

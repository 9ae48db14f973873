//! What several tests of this room need: the chat plugin as cargo leaves it, and the test binary as throw-away child.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use super::{Checker, Launcher, is_hidden, run_hidden};

/// The library of the dev-dependency `chat`.
pub(crate) fn chat_library() -> PathBuf {
    let binary = std::env::current_exe().unwrap();
    let deps = binary.parent().unwrap();
    let name = format!("libchat.{}", if cfg!(target_os = "macos") { "dylib" } else { "so" });
    let places = [deps.join(&name), deps.parent().unwrap().join(&name)];
    places.iter().find(|path| path.exists()).unwrap_or_else(|| panic!("none of {places:?}: is `chat` a dev-dependency?")).clone()
}

/// Starts this test binary again with only the test that plays the hidden purposes.
pub(crate) fn launcher() -> Launcher {
    let arguments = ["--exact", "plugin::testing::plays_the_child", "--nocapture", "--test-threads=1"];
    Launcher::program_at(std::env::current_exe().unwrap()).with_arguments(arguments.map(OsString::from))
}

pub(crate) fn checker() -> Checker {
    Checker::new(launcher())
}

/// No test of its own: the others start this binary again with only this one, and then it is their child.
#[test]
fn plays_the_child() {
    let mut arguments = std::env::args_os().skip_while(|argument| !is_hidden(argument));
    let Some(code) = arguments.next().and_then(|purpose| run_hidden(&purpose, arguments)) else { return };
    std::process::exit((0..=u8::MAX).find(|number| code == ExitCode::from(*number)).unwrap().into());
}

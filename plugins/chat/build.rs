//! Rebuilds when the build's name changes, so that two builds of one version can differ.

fn main() {
    println!("cargo::rerun-if-env-changed=PLUGSOCKET_CHAT_BUILD");
    println!("cargo::rerun-if-changed=build.rs");
}

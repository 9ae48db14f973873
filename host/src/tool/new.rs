//! `plugsocket new`: the beginnings of a plugin.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;

/// Flags of `new`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  plugsocket new hello                # makes plugins/hello
  cargo build --release -p hello      # makes target/release/libhello.so")]
pub struct NewArgs {
    /// The plugin's name: lower-case letters, digits, _.
    name: String,
    /// Where to make its folder.
    #[arg(long, default_value = "plugins", value_name = "DIR")]
    dir: PathBuf,
    /// The folder of the `plugsocket-plugin` crate.
    #[arg(long, default_value = "plugin-api", value_name = "DIR")]
    sdk: PathBuf,
}

const MANIFEST: &str = r#"[package]
name = "NAME"
version = "0.1.0"
edition = "2024"
publish = false

[lib]
crate-type = ["cdylib", "rlib"]

[dependencies]
plugsocket-plugin = { path = "SDK" }
serde = { version = "1", features = ["derive"] }
"#;

/// What README shows; a test builds it and lets the host check it.
const SOURCE: &str = include_str!("new_plugin.rs.txt");

/// Makes the folder; never overwrites.
///
/// # Errors
/// A bad name, a folder that exists, no SDK where it should be.
pub fn new(args: &NewArgs) -> anyhow::Result<()> {
    let name = &args.name;
    let is_usable = name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.len() <= 64
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    if !is_usable {
        bail!("`{name}` is no usable name: begin with a lower-case letter, then lower-case letters, digits and _");
    }
    let folder = args.dir.join(name);
    if folder.exists() {
        bail!("{} exists already; nothing was changed", folder.display());
    }
    let sdk = args.sdk.canonicalize().with_context(|| {
        format!(
            "{} is not there: run this in the folder of your Plugsocket clone, or name the plugin-api folder with --sdk",
            args.sdk.display()
        )
    })?;
    let files = [
        ("Cargo.toml", MANIFEST.replace("NAME", name).replace("SDK", &relative_sdk(&folder, &sdk))),
        ("src/lib.rs", SOURCE.replace("NAME", name)),
    ];
    for (file, text) in files {
        let path = folder.join(file);
        std::fs::create_dir_all(path.parent().unwrap_or(&folder))
            .and_then(|()| std::fs::write(&path, text))
            .with_context(|| path.display().to_string())?;
    }
    println!("made {}", folder.display());
    println!("  build:   cargo build --release -p {name}");
    println!("  install: cp target/release/lib{name}.{} plugins/", std::env::consts::DLL_EXTENSION);
    println!("  serve:   add `{name} = \"{name}\"` under [actions] in config/plugsocket.toml");
    Ok(())
}

/// Relative inside a clone, so that the clone can be moved; absolute elsewhere.
fn relative_sdk(folder: &Path, sdk: &Path) -> String {
    let beside = Path::new("../../plugin-api");
    let is_beside = folder.parent().and_then(Path::parent).is_some_and(|root| {
        let root = if root.as_os_str().is_empty() { Path::new(".") } else { root };
        root.join("plugin-api").canonicalize().is_ok_and(|found| found == sdk)
    });
    if is_beside { beside.display().to_string() } else { sdk.display().to_string() }
}

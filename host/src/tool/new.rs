//! `plugsocket new`: the beginnings of a plugin.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;

/// Flags of `new`.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  plugsocket new hello                # makes plugins/hello
  cargo build --release -p hello      # makes target/release/libhello.so
  scripts/install-plugin hello        # puts it where the host looks")]
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

/// Behind the manifest of a plugin that lies in a workspace and is not of it.
const STRAY: &str = "
[workspace]
";

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
    std::fs::create_dir_all(&args.dir).with_context(|| args.dir.display().to_string())?;
    let place = Place::of(&args.dir.canonicalize().with_context(|| args.dir.display().to_string())?, &sdk);
    let manifest = MANIFEST.replace("NAME", name).replace("SDK", &place.sdk.display().to_string());
    let files = [("Cargo.toml", manifest + if place.is_stray { STRAY } else { "" }), ("src/lib.rs", SOURCE.replace("NAME", name))];
    for (file, text) in files {
        let path = folder.join(file);
        std::fs::create_dir_all(path.parent().unwrap_or(&folder))
            .and_then(|()| std::fs::write(&path, text))
            .with_context(|| path.display().to_string())?;
    }
    let library = format!("lib{name}.{}", std::env::consts::DLL_EXTENSION);
    println!("made {}", folder.display());
    if place.is_member {
        println!("  build:   cargo build --release -p {name}    (once without --locked: it enters the clone's Cargo.lock)");
        println!("  install: scripts/install-plugin {name}");
    } else {
        println!("  build:   cargo build --release              (in {})", folder.display());
        println!("  install: copy target/release/{library} beside its place in plugins_dir, then rename it");
    }
    println!("  serve:   add `{name} = \"{name}\"` under [actions] in config/plugsocket.toml");
    Ok(())
}

/// Where the folder stands to the clone.
struct Place {
    /// The SDK's path in the manifest: relative in the clone, so that the clone can be moved; absolute elsewhere.
    sdk: PathBuf,
    /// The clone's workspace takes it in.
    is_member: bool,
    /// Within the clone, and not taken in: cargo refuses that unless the manifest says so.
    is_stray: bool,
}

impl Place {
    /// Of a plugin in the folder `dir`; both paths are canonical.
    fn of(dir: &Path, sdk: &Path) -> Self {
        let root = sdk.parent().unwrap_or(sdk);
        let is_member = dir == root.join("plugins");
        let sdk = if is_member { Path::new("../..").join(sdk.file_name().unwrap_or_default()) } else { sdk.to_owned() };
        Self { sdk, is_member, is_stray: !is_member && dir.starts_with(root) }
    }
}

//! Folders that others could change: refused by servers and workers, at the start and later; told by `plugsocket dev`.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::*;

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn servers_and_workers_do_not_start_on_folders_that_others_can_write() {
    let config = Config::chat("redis://127.0.0.1:1");
    plugin::install(&plugin::chat(), &config.plugins_dir(), "chat");
    for (folder, mode) in [(config.plugins_dir(), 0o777), (config.plugins_dir(), 0o1777), (config.state_dir(), 0o775)] {
        chmod(&folder, mode);
        let words = format!("{} can be written by others (mode {mode:04o}, owner ", folder.display());
        let remedy = format!("chmod go-w {}", folder.display());
        for mut process in [Process::server(&config), Process::worker(&config)] {
            assert_eq!(process.wait_exit(START_PATIENCE).code(), Some(1));
            assert!(process.lines().iter().any(|line| line.contains(&words) && line.ends_with(&remedy)), "{:?}", process.lines());
        }
        chmod(&folder, 0o755);
    }
}

#[test]
fn dev_only_warns() {
    let config = Config::chat("memory");
    plugin::install(&plugin::chat(), &config.plugins_dir(), "chat");
    chmod(&config.plugins_dir(), 0o777);
    let dev = Process::dev(&config);
    dev.wait_line("can be written by others (mode 0777", START_PATIENCE);
    dev.ws_url();
    assert!(version(&config).is_some());
}

#[tokio::test]
async fn a_folder_opened_to_others_while_running_brings_nothing_in() {
    let app = App::start(1, 1);
    let before = version(&app.config).unwrap();
    chmod(&app.config.plugins_dir(), 0o777);
    another_build(&app.config, "second");
    let words = format!("{} can be written by others (mode 0777", app.config.plugins_dir().display());
    eventually("the refusal", PATIENCE, async || all_refuse(&app.config, &words)).await;
    assert_eq!(version(&app.config).as_ref(), Some(&before));
    serves(&app, "ada").await;
    chmod(&app.config.plugins_dir(), 0o755);
    plugins(&app.config, "reload").ok();
    assert!(version(&app.config).is_some_and(|now| now != before), "what has been mended is tried when it is asked for");
}

#[tokio::test]
async fn a_library_that_others_can_write_is_refused_alone() {
    let app = App::start(1, 1);
    let before = version(&app.config).unwrap();
    another_build(&app.config, "second");
    let library = app.config.plugins_dir().join(plugin::library_name("chat"));
    eventually("the second build", PATIENCE, async || version(&app.config).is_some_and(|now| now != before)).await;
    let second = version(&app.config);
    let draft = app.config.plugins_dir().join(".draft");
    fs::copy(plugin::chat(), &draft).unwrap();
    chmod(&draft, 0o666);
    fs::rename(draft, &library).unwrap();
    eventually("the refusal", PATIENCE, async || all_refuse(&app.config, "can be written by others (mode 0666")).await;
    assert_eq!(version(&app.config), second);
    serves(&app, "ada").await;
}

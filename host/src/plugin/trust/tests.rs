//! Owners and modes, of files, folders and what is above them.

use std::os::unix::fs::symlink;

use super::*;

fn folder_with(mode: u32, place: &Path) -> std::path::PathBuf {
    fs::create_dir(place).unwrap();
    fs::set_permissions(place, Permissions::from_mode(mode)).unwrap();
    place.to_owned()
}

#[track_caller]
fn distrust<T: std::fmt::Debug>(result: Result<T, PluginError>) -> String {
    match result.unwrap_err() {
        PluginError::Untrusted(text) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_folder_others_can_write_is_refused_with_its_remedy() {
    let base = tempfile::tempdir().unwrap();
    for (mode, shown) in [(0o777, "mode 0777"), (0o775, "mode 0775"), (0o1777, "mode 1777")] {
        let folder = folder_with(mode, &base.path().join(format!("f{mode:o}")));
        let text = distrust(check_folder(&folder));
        assert!(text.contains(shown) && text.ends_with(&format!("chmod go-w {}", folder.display())), "{text}");
    }
    check_folder(&folder_with(0o755, &base.path().join("good"))).unwrap();
}

#[test]
fn the_parents_of_the_real_path_count_and_sticky_ones_are_fine() {
    let base = tempfile::tempdir().unwrap();
    let shared = folder_with(0o1777, &base.path().join("shared"));
    let inner = folder_with(0o755, &shared.join("inner"));
    check_folder(&inner).unwrap();
    fs::set_permissions(&shared, Permissions::from_mode(0o777)).unwrap();
    assert!(distrust(check_folder(&inner)).contains(&format!("{} can be written", shared.display())));
    let link = base.path().join("link");
    symlink(&inner, &link).unwrap();
    assert!(distrust(check_folder(&link)).contains("shared can be written"));
    fs::set_permissions(&shared, Permissions::from_mode(0o755)).unwrap();
    check_folder(&link).unwrap();
}

#[test]
fn owners_are_we_or_root() {
    let base = tempfile::tempdir().unwrap();
    let metadata = base.path().metadata().unwrap();
    let (us, stranger) = (metadata.uid(), metadata.uid() + 1);
    judge_as(us, base.path(), &metadata, Kind::Folder).unwrap();
    if us != ROOT {
        assert!(distrust(judge_as(stranger, base.path(), &metadata, Kind::Folder)).contains(&format!("belongs to user {us}")));
    }
    let root = Path::new("/");
    let metadata = root.metadata().unwrap();
    if metadata.uid() == ROOT {
        judge_as(stranger, root, &metadata, Kind::Parent).unwrap();
        let text = distrust(judge_as(stranger, root, &metadata, Kind::OwnFolder));
        assert!(text.contains("belongs to user 0") && text.ends_with(&format!("chown {stranger} /")), "{text}");
    }
}

#[test]
fn a_library_is_opened_only_when_it_and_its_way_are_sound() {
    let base = tempfile::tempdir().unwrap();
    let plugins = folder_with(0o755, &base.path().join("plugins"));
    let file = plugins.join("libx.so");
    fs::write(&file, "x").unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o664)).unwrap();
    assert!(distrust(Trust::Enforced.open(&file)).contains("libx.so can be written by others (mode 0664"));
    Trust::Warned.open(&file).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    Trust::Enforced.open(&file).unwrap();

    let releases = folder_with(0o777, &base.path().join("releases"));
    fs::copy(&file, releases.join("libx.so")).unwrap();
    let link = plugins.join("liby.so");
    symlink(releases.join("libx.so"), &link).unwrap();
    assert!(distrust(Trust::Enforced.open(&link)).contains("releases can be written"));
    fs::set_permissions(&releases, Permissions::from_mode(0o755)).unwrap();
    Trust::Enforced.open(&link).unwrap();
    fs::set_permissions(&plugins, Permissions::from_mode(0o777)).unwrap();
    assert!(distrust(Trust::Enforced.open(&link)).contains("plugins can be written"));
}

#[test]
fn a_pipe_by_a_librarys_name_holds_nobody_up() {
    let base = tempfile::tempdir().unwrap();
    let pipe = base.path().join("libx.so");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert!(matches!(Trust::Enforced.open(&pipe), Err(PluginError::NotLoadable(_))));
}

#[test]
fn what_is_absent_is_made_and_what_is_there_is_not_changed() {
    let base = tempfile::tempdir().unwrap();
    let (plugins, state) = (base.path().join("a/plugins"), base.path().join("b/var"));
    Trust::Enforced.check_folders(&plugins, &state).unwrap();
    let mode = |path: &Path| path.metadata().unwrap().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    assert_eq!(mode(&plugins) & WRITABLE_BY_OTHERS, 0);
    fs::set_permissions(&state, Permissions::from_mode(0o770)).unwrap();
    assert!(distrust(Trust::Enforced.check_folders(&plugins, &state)).contains("chmod go-w"));
    Trust::Warned.check_folders(&plugins, &state).unwrap();
    assert_eq!(mode(&state), 0o770);
}

#[test]
fn a_private_folder_is_closed_and_is_no_link() {
    let base = tempfile::tempdir().unwrap();
    let folder = folder_with(0o777, &base.path().join("control"));
    private_folder(&folder).unwrap();
    assert_eq!(folder.metadata().unwrap().mode() & 0o7777, 0o700);
    let link = base.path().join("link");
    symlink(&folder, &link).unwrap();
    assert!(distrust(private_folder(&link)).contains("must be a folder"));
}

#[test]
fn a_file_named_without_its_folder_is_in_this_one() {
    Trust::Warned.open(Path::new("Cargo.toml")).unwrap(); // Tests run in their crate's folder.
}

#[test]
fn the_folder_of_plugins_is_not_one_that_we_keep_files_of_our_own_in() {
    let base = tempfile::tempdir().unwrap();
    let state = base.path().join("state");
    let text = distrust(Trust::Warned.check_folders(&state.join("../state/plugins"), &state));
    assert!(text.contains("choose another state_dir"), "{text}");
    Trust::Warned.check_folders(&base.path().join("plugins"), &state).unwrap();
    Trust::Warned.check_folders(&state, &state).unwrap();
}

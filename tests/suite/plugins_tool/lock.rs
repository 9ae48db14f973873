//! `plugins.lock`: what it lists is loaded, and nothing else.

use super::*;

#[tokio::test]
async fn an_unlisted_build_is_refused_until_it_is_listed() {
    let app = App::start(1, 1);
    let lock = Path::new(app.config.path()).with_file_name("plugins.lock");
    let written = plugins(&app.config, "lock").ok().says(&format!("{}: written", lock.display()));
    let first = fs::read_to_string(&lock).unwrap();
    let listed: Vec<_> = written.lines.iter().filter_map(|line| line.strip_prefix("chat: ")).collect();
    assert!(listed.len() == 1 && first.contains(listed[0]), "{first}");

    let before = version(&app.config).unwrap();
    another_build(&app.config, "second");
    eventually("the refusal", PATIENCE, async || all_refuse(&app.config, "plugsocket plugins lock --add")).await;
    assert_eq!(version(&app.config).as_ref(), Some(&before));
    serves(&app, "ada").await;

    plugins(&app.config, "lock --add").ok();
    let both = fs::read_to_string(&lock).unwrap();
    assert!(both.contains(listed[0]) && both.len() > first.len(), "{both}");
    plugins(&app.config, "reload").ok();
    eventually("the listed build", PATIENCE, async || version(&app.config).is_some_and(|now| now != before)).await;

    // Whatever is wrong with the list, it lets nothing pass.
    let now = version(&app.config);
    fs::write(&lock, "[plugins").unwrap();
    another_build(&app.config, "third");
    eventually("the refusal", PATIENCE, async || all_refuse(&app.config, "can't be read, so nothing is loaded")).await;
    assert_eq!(version(&app.config), now);
    serves(&app, "bob").await;
}

#[test]
fn a_library_that_would_be_refused_is_not_listed() {
    let config = Config::chat("memory");
    let lock = Path::new(config.path()).with_file_name("plugins.lock");
    plugins(&config, "lock").code_is(1).says("chat: not listed: there is no file").says("was not written");
    plugin::install_bytes(&plugin::broken(plugin::Broken::Truncated), &config.plugins_dir(), "chat");
    plugins(&config, "lock").code_is(1).says("chat: refused").says("1 would be refused");
    assert!(!lock.exists());
    plugin::install(&plugin::chat(), &config.plugins_dir(), "chat");
    plugins(&config, "lock").ok();
    tool::run(&config, "check").ok();
    another_build(&config, "second");
    tool::run(&config, "check").code_is(1).says("does not list this build of `chat`");
    fs::write(&lock, "nonsense").unwrap();
    plugins(&config, "lock --add").code_is(1).says("can't be read");
    assert_eq!(fs::read_to_string(&lock).unwrap(), "nonsense");
    plugins(&config, "lock").ok();
}

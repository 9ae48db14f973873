//! `reload`, `rollback` and `retry`, in every process that runs.

use super::*;

#[tokio::test]
async fn a_build_waits_for_reload_when_that_is_manual() {
    let app = App::start_with(1, 1, |config| config.with("reload", "manual"));
    let before = version(&app.config).unwrap();
    another_build(&app.config, "second");
    let is_told = || chats(&app.config).iter().all(|chat| chat["waiting"].is_string());
    eventually("the build to be told as waiting", PATIENCE, async || is_told()).await;
    assert_eq!(version(&app.config).as_ref(), Some(&before));
    plugins(&app.config, "list").ok().says("plugsocket plugins reload");
    plugins(&app.config, "reload").ok().says("server-").says("worker-");
    assert_ne!(version(&app.config).unwrap(), before, "it is live when the command ends");
    assert!(!is_told());
    serves(&app, "ada").await;
}

#[test]
fn reload_that_is_off_is_refused() {
    let app = App::start_with(0, 1, |config| config.with("reload", "off"));
    plugins(&app.config, "reload").code_is(1).says("failed: reload = \"off\"").says("1 of 1 processes failed");
}

#[tokio::test]
async fn a_build_is_taken_back_and_tried_again() {
    // A build is good from its first moment on: nothing here is about its probation.
    let app = App::start_with(1, 1, |config| config.with("probation.time", "0s").with("probation.calls", 0));
    let first = version(&app.config).unwrap();
    let is_good = |chat: &Value| chat["versions"][0]["state"] == "current";
    eventually("the first build to be good", PATIENCE, async || chats(&app.config).iter().all(is_good)).await;
    another_build(&app.config, "second");
    eventually("the second build", PATIENCE, async || version(&app.config).is_some_and(|now| now != first)).await;
    let second = sha256(&app.config.plugins_dir().join(plugin::library_name("chat")));
    let names = [format!("server-{}: ", app.servers[0].pid()), format!("worker-{}: ", app.workers[0].pid())];
    plugins(&app.config, "rollback chat").ok().says(&names[0]).says(&names[1]);
    eventually("the first build", PATIENCE, async || version(&app.config).as_ref() == Some(&first)).await;
    serves(&app, "ada").await;
    let shown = &second[..12];
    plugins(&app.config, "list").ok().says(shown);
    plugins(&app.config, &format!("retry {shown}")).ok().says(&names[0]).says(&names[1]);
    eventually("the second build", PATIENCE, async || version(&app.config).is_some_and(|now| now != first)).await;
    plugins(&app.config, &format!("retry {shown}")).ok().says("serves it already");
    serves(&app, "bob").await;
}

//! Constructors that fail, crash or hang: as a candidate they change nothing; in a runner that starts again and again they park the plugin.

use std::fs;

use serde_json::{Value, json};

use super::{PATIENCE, PLUGIN, SOURCE, app, enter, settled};
use crate::harness::app::App;
use crate::harness::client::Client;
use crate::harness::{eventually, http, plugin, procfs};

/// What the constructor does, and what the refusal says of it.
const BAD: [(&str, &str); 6] = [
    ("fail", "the database is down"),
    ("panic", "as asked"),
    ("segfault", "SIGSEGV"),
    ("abort", "SIGABRT"),
    ("exit", "exit code 3"),
    ("hang", "did not end within"),
];

/// Crashes in a library's first instruction, before anything of the host's can look at it.
const FIRST_INSTRUCTION: &str = r#"
#[used]
#[unsafe(link_section = ".init_array")]
static FIRST: extern "C" fn() = {
    extern "C" fn first() {
        segfault();
    }
    first
};
"#;

async fn process(client: &mut Client) -> Value {
    client.request("act", Value::Null).await["process"].clone()
}

#[tokio::test]
async fn a_candidate_whose_constructor_misbehaves_changes_nothing() {
    let mut app = app(|config| config);
    let (mut client, _) = enter(&app.urls()[0], "ada").await;
    let before = process(&mut client).await;
    for (what, reason) in BAD {
        let mark = app.workers[0].lines().len();
        app.config.set("plugins.villain.config.construct", what);
        let line = app.workers[0].wait_line_after(mark, "rejected", PATIENCE);
        assert!(line.contains(reason) && line.contains(PLUGIN), "{what}: expected {reason:?} in {line}");
        assert_eq!(process(&mut client).await, before, "{what}");
        settled(&app.workers[0], 1).await;
    }
    app.config.unset("plugins.villain.config.construct");
    let mark = app.workers[0].lines().len();
    let crashing = plugin::from_source("villain_at_once", &format!("{SOURCE}{FIRST_INSTRUCTION}"));
    plugin::install_bytes(&crashing, &app.config.plugins_dir(), PLUGIN);
    let line = app.workers[0].wait_line_after(mark, "rejected", PATIENCE);
    assert!(line.contains("SIGSEGV"), "{line}");
    assert_eq!(process(&mut client).await, before);
    settled(&app.workers[0], 1).await;
    assert!(app.workers[0].is_running() && app.servers[0].is_running());
}

fn readiness(app: &App) -> (u16, String) {
    let answer = http::get(&format!("{}readyz", app.workers[0].ops_url()));
    (answer.status, answer.body)
}

#[tokio::test]
async fn a_plugin_that_crashes_at_every_start_is_parked_and_its_messages_wait() {
    let library = plugin::from_source(PLUGIN, SOURCE);
    let mut app = app(|config| {
        let file = config.state_dir().join("crash").to_str().unwrap().to_owned();
        config
            .with("worker.unserved_timeout", "3s")
            .with("plugins.villain.config.construct", "segfault")
            .with("plugins.villain.config.only_if", file)
    });
    let (mut client, _) = enter(&app.urls()[0], "ada").await;
    let runner = procfs::runners(app.workers[0].pid(), PLUGIN);
    process(&mut client).await;
    let mark = app.workers[0].lines().len();
    fs::write(app.config.state_dir().join("crash"), "").unwrap();
    super::kill(runner[0]);
    let asked = client.send_request("act", json!({ "text": "waits" })).await;
    app.workers[0].wait_line_after(mark, "parked", PATIENCE);
    eventually("a readiness that tells of it", PATIENCE, async || readiness(&app).1.contains("parked")).await;
    let (status, body) = readiness(&app);
    assert!(status == 503 && body.contains(PLUGIN), "{status} {body}");
    let answer = client.answer(&asked).await;
    assert_eq!(answer.as_ref().map_err(|error| error["code"].as_str()), Err(Some("unavailable")), "{answer:?}");
    assert_eq!(client.request("echo", json!("the chat goes on")).await["echo"], "the chat goes on");
    settled(&app.workers[0], 0).await;

    fs::remove_file(app.config.state_dir().join("crash")).unwrap();
    let mut mended = library;
    mended.push(0);
    plugin::install_bytes(&mended, &app.config.plugins_dir(), PLUGIN);
    eventually("the mended build", PATIENCE, async || client.try_request("act", json!({ "text": "again" })).await.is_ok()).await;
    settled(&app.workers[0], 1).await;
    assert!(app.workers[0].is_running());
}

#[tokio::test]
async fn a_plugin_that_never_comes_up_leaves_the_rest_at_work() {
    let app = app(|config| config.with("worker.unserved_timeout", "1s").with("plugins.villain.config.construct", "segfault"));
    let (mut client, _) = enter(&app.urls()[0], "ada").await;
    assert_eq!(client.request("echo", json!(1)).await["echo"], 1);
    let answer = client.try_request("act", Value::Null).await;
    assert_eq!(answer.as_ref().map_err(|error| error["code"].as_str()), Err(Some("unavailable")), "{answer:?}");
    let (status, body) = readiness(&app);
    assert!(status == 503 && body.contains("SIGSEGV"), "{status} {body}");
    settled(&app.workers[0], 0).await;
}

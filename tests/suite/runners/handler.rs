//! A server whose handler does everything a plugin must not do: no socket is closed by it.

use std::time::Instant;

use serde_json::{Value, json};

use super::{DELAY_MS, Neighbours, PATIENCE, PLUGIN, app_of, enter, names_one_of, obituaries, obituaries_of, settled};
use crate::harness::app::App;
use crate::harness::client::Client;
use crate::harness::{eventually, procfs};

/// `server.handler_attempts`.
const ATTEMPTS: usize = 2;

/// What ends a runner, how that is called, and the code for a client whose fallback message did it.
const FATAL: [(&str, &[&str], &str); 8] = [
    ("segfault", &["SIGSEGV"], "failed"),
    ("overflow", &["SIGABRT", "SIGSEGV"], "failed"),
    ("abort", &["SIGABRT"], "failed"),
    ("exit", &["exit code 3"], "failed"),
    ("allocate", &["SIGABRT", "SIGKILL"], "failed"),
    ("close", &[], "failed"),
    ("garbage", &[], "failed"),
    ("loop", &[], "timeout"),
];

fn villains_server() -> App {
    app_of(1, 0, |config| {
        let turn = config.state_dir().join("turn").to_str().unwrap().to_owned();
        config
            .with("server.handler", PLUGIN)
            .with("server.handler_attempts", ATTEMPTS as i64)
            .with("server.handler_timeout", "3s")
            .with("plugins.villain.memory_max", "256MiB")
            .with("plugins.villain.config.turn", turn)
    })
}

async fn process(client: &mut Client) -> Value {
    client.request("fallback", Value::Null).await["process"].clone()
}

#[tokio::test]
async fn a_fallback_message_that_ends_the_handlers_runner_costs_itself_and_nothing_else() {
    let mut app = villains_server();
    let url = app.urls().remove(0);
    let mut neighbours = Neighbours::enter(&url).await;
    let (mut bystander, _) = enter(&url, "bystander").await;
    let mut before = process(&mut bystander).await;
    for (what, ends, code) in FATAL {
        let (mut villain, connection) = enter(&url, "villain").await;
        let mark = app.servers[0].lines().len();
        neighbours.ask("fallback").await;
        let started = Instant::now();
        let answer = villain.try_request("fallback", json!({ "do": what, "milliseconds": DELAY_MS })).await;
        assert_eq!(answer.as_ref().map_err(|error| error["code"].as_str()), Err(Some(code)), "{what}: {answer:?}");
        println!("{what}: answered {code:?} after {:.0?}", started.elapsed());
        neighbours.answered(what).await;
        // A runner that is ended for a call past its time has no obituary.
        let ended = obituaries_of(&app.servers[0], mark, if code == "timeout" { 0 } else { ATTEMPTS }).await;
        if !ends.is_empty() {
            let blamed = ended.iter().filter(|line| names_one_of(line, ends) && line.contains(&connection));
            assert_eq!(blamed.count(), ATTEMPTS, "{what}: {ended:?}");
        }
        let after = process(&mut bystander).await;
        assert_ne!(after, before, "{what}: served by the runner that should have ended");
        before = after;
        settled(&app.servers[0], 1).await;
        assert_eq!((villain.closed(), bystander.closed()), (None, None), "{what}");
        assert!(app.servers[0].is_running(), "{what}");
        assert_eq!(villain.request("fallback", json!({ "text": what })).await["text"], what);
    }
}

#[tokio::test]
async fn a_registration_that_ends_the_handlers_runner_is_told_busy_and_may_come_again() {
    let app = villains_server();
    let url = app.urls().remove(0);
    let mut neighbours = Neighbours::enter(&url).await;
    for (what, end) in [("segfault", Some("SIGSEGV")), ("exit", Some("exit code 3")), ("loop", None)] {
        let mark = app.servers[0].lines().len();
        let mut client = Client::connect(&url).await;
        client.set_patience(PATIENCE);
        neighbours.ask("fallback").await;
        let refused = client.try_request("register", json!({ "do": what, "milliseconds": DELAY_MS })).await;
        assert_eq!(refused.as_ref().map_err(|error| error["code"].as_str()), Err(Some("busy")), "{what}: {refused:?}");
        neighbours.answered(what).await;
        if let Some(end) = end {
            let ended = obituaries_of(&app.servers[0], mark, 1).await;
            assert!(ended.len() == 1 && ended[0].contains(end), "{what} is not tried again: {ended:?}");
        }
        // The same socket, and it waits for the replacement if that is not there yet.
        client.register(Value::Null).await;
        assert_eq!(client.request("fallback", json!({ "text": what })).await["text"], what);
    }
    settled(&app.servers[0], 1).await;
}

#[tokio::test]
async fn registrations_wait_for_the_replacement_of_a_runner() {
    let app = villains_server();
    let url = app.urls().remove(0);
    let (mut bystander, _) = enter(&url, "bystander").await;
    let old = process(&mut bystander).await;
    let mut newcomers = Vec::new();
    for _ in 0..8 {
        newcomers.push(Client::connect(&url).await);
    }
    let mark = app.servers[0].lines().len();
    super::kill(u32::try_from(old.as_u64().unwrap()).unwrap());
    let mut asked = Vec::new();
    for (number, client) in newcomers.iter_mut().enumerate() {
        if number == 4 {
            app.servers[0].wait_line_after(mark, "runner ended", PATIENCE); // From here on nobody reaches the old one.
        }
        asked.push(client.send_request("register", Value::Null).await);
    }
    let mut refused = 0;
    for (client, id) in newcomers.iter_mut().zip(&asked) {
        match client.answer(id).await {
            Ok(registered) => assert_ne!(registered["process"], old),
            // Those that had reached the old one already can't be told anything else.
            Err(error) => {
                assert_eq!(error["code"], "busy");
                refused += 1;
            }
        }
        assert_eq!(client.closed(), None);
    }
    println!("registrations around a crash: {} admitted, {refused} told busy", newcomers.len() - refused);
    assert!(refused < newcomers.len(), "nobody waited");
}

#[tokio::test]
async fn a_disconnect_that_ends_the_runner_is_tried_again_and_given_up() {
    let app = villains_server();
    let url = app.urls().remove(0);
    let (mut bystander, _) = enter(&url, "bystander").await;
    let mark = app.servers[0].lines().len();
    let mut leaving = Client::connect(&url).await;
    leaving.set_patience(PATIENCE);
    leaving.register(json!({ "text": "segfault" })).await;
    leaving.close().await;
    eventually("all attempts of the disconnect", PATIENCE, async || obituaries(&app.servers[0], mark).len() >= ATTEMPTS).await;
    assert_eq!(bystander.request("fallback", json!({ "text": "still here" })).await["text"], "still here");
    settled(&app.servers[0], 1).await;
    assert_eq!(obituaries(&app.servers[0], mark).len(), ATTEMPTS, "{:?}", obituaries(&app.servers[0], mark));
    assert!(obituaries(&app.servers[0], mark).iter().all(|line| line.contains("SIGSEGV")));
}

#[tokio::test]
async fn a_turn_of_the_loop_that_ends_the_runner_is_skipped() {
    let app = villains_server();
    let (mut bystander, _) = enter(&app.urls()[0], "bystander").await;
    let before = process(&mut bystander).await;
    for _ in 0..2 {
        let mark = app.servers[0].lines().len();
        std::fs::write(app.config.state_dir().join("turn"), "").unwrap();
        eventually("the loop's crash", PATIENCE, async || !obituaries(&app.servers[0], mark).is_empty()).await;
        assert!(obituaries(&app.servers[0], mark)[0].contains("SIGSEGV"));
        assert_ne!(process(&mut bystander).await, before);
    }
    let last = process(&mut bystander).await;
    settled(&app.servers[0], 1).await;
    assert!(procfs::is_running(u32::try_from(last.as_u64().unwrap()).unwrap()));
}

//! Promise: any process can ask over HTTP who is connected, on whichever server they are.

use serde_json::{Value, json};

use crate::harness::app::App;
use crate::harness::client::Client;
use crate::harness::http::{self, Answer};
use crate::harness::process::Process;
use crate::harness::{PATIENCE, eventually};

fn code(answer: &Answer) -> (u16, String) {
    (answer.status, answer.json()["error"]["code"].as_str().unwrap_or_default().to_owned())
}

/// The ids in a list, sorted.
fn ids(list: &Value) -> Vec<&str> {
    let mut ids: Vec<&str> = list["connections"].as_array().unwrap().iter().map(|one| one["connection_id"].as_str().unwrap()).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn each_server_answers_for_all_of_them() {
    let app = App::start(2, 1);
    let urls = app.urls();
    let [one, other] = [app.servers[0].ops_url(), app.servers[1].ops_url()];
    assert_eq!(http::get(&format!("{one}v1/online")).json(), json!({"connections": 0}));
    let mut first = Client::connect(&urls[0]).await;
    let mut second = Client::connect(&urls[1]).await;
    let first_id = first.register(json!({"nickname": "one", "user_id": 7})).await["connection_id"].as_str().unwrap().to_owned();
    let second_id = second.register(json!({"nickname": "two", "user_id": "a/b é%"})).await["connection_id"].as_str().unwrap().to_owned();
    let _unregistered = Client::connect(&urls[0]).await;
    first.request("join", json!({"room": "a/b é?"})).await;
    second.request("join", json!({"room": "a/b é?"})).await;
    let group = "room:a/b é?";
    let in_group = |ops: &str| http::get(&format!("{ops}v1/groups/room:a%2Fb%20%C3%A9%3F/connections"));
    eventually("both to be in the group", PATIENCE, async || in_group(&one).json()["connections"].as_array().unwrap().len() == 2).await;
    for ops in [&one, &other] {
        assert_eq!(http::get(&format!("{ops}v1/online")).json(), json!({"connections": 2}), "those that are registered");
        let found = http::get(&format!("{ops}v1/connections/{first_id}"));
        let node = first_id.split('.').next().unwrap();
        let first = json!({"connection_id": first_id, "user_id": "7", "node": node, "groups": [group]});
        assert_eq!((found.status, found.json()), (200, first.clone()));
        assert_eq!(http::get(&format!("{ops}v1/users/7/connections")).json(), json!({"connections": [first]}));
        assert_eq!(ids(&http::get(&format!("{ops}v1/users/a%2Fb%20%C3%A9%25/connections")).json()), [&second_id]);
        let members = in_group(ops).json();
        let mut both = [first_id.as_str(), second_id.as_str()];
        both.sort_unstable();
        assert_eq!(ids(&members), both);
        assert_eq!(members.get("truncated"), None);
        assert_eq!(http::get(&format!("{ops}v1/users/8/connections")).json(), json!({"connections": []}));
    }
    second.close().await;
    eventually("one to be left", PATIENCE, async || http::get(&format!("{one}v1/online")).json()["connections"] == 1).await;
    assert_eq!(code(&http::get(&format!("{one}v1/connections/{second_id}"))), (404, "not_found".to_owned()));
}

#[tokio::test]
async fn what_is_asked_wrongly_is_refused_with_a_code() {
    let app = App::start_with(1, 0, |config| config.with("ops.token", "secret"));
    let ops = app.servers[0].ops_url();
    let get = |path: &str, token: &str| http::request("GET", &format!("{ops}{path}"), &[("Authorization", token)], "");
    let paths = ["v1/online", "v1/connections/x", "v1/users/7/connections", "v1/groups/g/connections", "v1/nothing"];
    for path in paths {
        assert_eq!(code(&http::get(&format!("{ops}{path}"))), (401, "unauthorized".to_owned()), "{path}");
        assert_eq!(code(&get(path, "Bearer secre")), (401, "unauthorized".to_owned()), "{path}");
    }
    for (path, status, word) in [
        ("v1/connections/%ff", 400, "bad_request"),
        ("v1/users/%C3%28/connections", 400, "bad_request"),
        ("v1/groups/%ff/connections", 400, "bad_request"),
        ("v1/nothing", 404, "no_such_path"),
        ("v1/users//connections", 400, "bad_request"),
        ("v1/connections/", 404, "no_such_path"),
        ("v1/connections/a/b", 404, "no_such_path"),
        ("v1/connections/nobody", 404, "not_found"),
        ("v1/send", 405, "method"),
    ] {
        assert_eq!(code(&get(path, "Bearer secret")), (status, word.to_owned()), "{path}");
    }
    let long = "x".repeat(4000);
    assert_eq!(get(&format!("v1/users/{long}/connections"), "Bearer secret").json(), json!({"connections": []}));
}

#[tokio::test]
async fn a_process_without_redis_answers_for_itself() {
    let config = crate::harness::config::Config::chat("memory");
    crate::harness::plugin::install(&crate::harness::plugin::chat(), &config.plugins_dir(), "chat");
    let dev = Process::dev(&config);
    let mut client = Client::connect(&dev.ws_url()).await;
    let id = client.register(json!({"nickname": "ada"})).await["connection_id"].as_str().unwrap().to_owned();
    let ops = dev.page_url();
    assert_eq!(http::get(&format!("{ops}v1/online")).json(), json!({"connections": 1}));
    assert_eq!(http::get(&format!("{ops}v1/connections/{id}")).json()["user_id"], "ada");
    assert_eq!(ids(&http::get(&format!("{ops}v1/users/ada/connections")).json()), [id]);
}

#[tokio::test]
async fn questions_are_answered_busy_while_redis_is_away() {
    let app = App::start(1, 0);
    let ops = app.servers[0].ops_url();
    app.redis.freeze();
    for path in ["v1/online", "v1/connections/x", "v1/users/7/connections", "v1/groups/g/connections"] {
        let answer = http::get(&format!("{ops}{path}"));
        assert_eq!(code(&answer), (503, "busy".to_owned()), "{path}");
        assert_eq!(answer.header("Retry-After"), Some("1"), "{path}");
    }
    app.redis.thaw();
    eventually("an answer", PATIENCE, async || http::get(&format!("{ops}v1/online")).status == 200).await;
}

//! Promise: Laravel's channels work against the application's own signature, and presence channels know who is there.

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::harness::app::App;
use crate::harness::client::Client;
use crate::harness::config::Config;
use crate::harness::process::Process;
use crate::harness::{http, plugin};

const SECRET: &str = "what the application and the server know";
const ROOM: &str = "presence-room.1";
const QUIET: Duration = Duration::from_millis(300);

/// What an application's `/broadcasting/auth` answers, made by PHP.
fn authorize(connection: &Value, channel: &str, expires: u64, user: Option<u32>) -> Value {
    let data = user.map(|id| json!({ "user_id": id, "user_info": { "name": format!("user {id}") } }).to_string());
    let code = r"[, $signed, $secret] = $argv; echo hash_hmac('sha256', $signed, $secret);";
    let mut signed = format!("{}:{channel}:{expires}", connection.as_str().unwrap());
    if let Some(data) = &data {
        signed = format!("{signed}:{data}");
    }
    let output = Command::new("php").args(["-r", code, "--", &signed, SECRET]).output().expect("php is needed; scripts/test installs it");
    assert!(output.status.success(), "php: {}", String::from_utf8_lossy(&output.stderr));
    let hex = String::from_utf8(output.stdout).unwrap();
    let mut answer = json!({ "channel": channel, "auth": format!("{expires}:{hex}") });
    if let Some(data) = data {
        answer["channel_data"] = data.into();
    }
    answer
}

fn soon() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 300
}

/// The channels plugin as handler and for its actions.
fn with_channels(config: Config) -> Config {
    plugin::install(&plugin::channels(), &config.plugins_dir(), "channels");
    let secret = config.state_dir().join("broadcasting.secret");
    std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
    config
        .with("server.handler", "channels")
        .with("actions.subscribe", "channels")
        .with("actions.unsubscribe", "channels")
        .with("plugins.channels.config.secret_file", secret.to_str().unwrap())
}

async fn enter(url: &str) -> (Client, Value) {
    let mut client = Client::connect(url).await;
    let connection = client.register(json!({})).await["connection_id"].clone();
    (client, connection)
}

fn broadcast(server: &Process, channel: &str, except: Option<&Value>) {
    let data = json!({ "channel": channel, "event": "Shipped", "data": {} });
    let mut to = json!({ "group": format!("channel:{channel}") });
    if let Some(except) = except {
        to["except"] = except.clone();
    }
    let answer = http::post_json(&format!("{}v1/send", server.ops_url()), &json!({ "to": to, "action": "broadcast", "data": data }), &[]);
    assert_eq!(answer.status, 202);
}

#[tokio::test]
async fn channels_on_two_servers_let_in_whom_the_application_has_signed_for() {
    let app = App::start_with(2, 1, with_channels);
    let (servers, urls) = (&app.servers, app.urls());
    let (mut ada, ada_id) = enter(&urls[0]).await;
    let (mut bob, bob_id) = enter(&urls[1]).await;
    let (mut tab, tab_id) = enter(&urls[0]).await;

    assert_eq!(ada.request("subscribe", json!({ "channel": "news" })).await, json!({ "channel": "news" }));
    let refused = |error: Result<Value, Value>| error.unwrap_err()["code"].clone();
    assert_eq!(refused(ada.try_request("subscribe", json!({ "channel": "private-orders.1" })).await), "bad_auth");
    let of_bob = authorize(&bob_id, "private-orders.1", soon(), None);
    assert_eq!(refused(ada.try_request("subscribe", of_bob.clone()).await), "bad_auth");
    let ended = authorize(&ada_id, "private-orders.1", soon() - 301, None);
    assert_eq!(refused(ada.try_request("subscribe", ended).await), "expired");
    bob.request("subscribe", of_bob).await;
    ada.request("subscribe", authorize(&ada_id, "private-orders.1", soon(), None)).await;
    broadcast(&servers[0], "private-orders.1", Some(&ada_id));
    assert_eq!(bob.next_action("broadcast").await["event"], "Shipped");
    broadcast(&servers[1], "news", None);
    assert_eq!(ada.next_action("broadcast").await["channel"], "news", "nothing of what left it out");

    let member = |id: u32| json!({ "user_id": id, "user_info": { "name": format!("user {id}") } });
    let news = |id: u32| json!({ "channel": ROOM, "user_id": id, "user_info": { "name": format!("user {id}") } });
    let reply = ada.request("subscribe", authorize(&ada_id, ROOM, soon(), Some(7))).await;
    assert_eq!(reply["members"], json!([member(7)]));
    let reply = bob.request("subscribe", authorize(&bob_id, ROOM, soon(), Some(8))).await;
    assert_eq!(reply["members"], json!([member(8), member(7)]));
    assert_eq!(ada.next_action("joining").await, news(8));
    tab.request("subscribe", authorize(&tab_id, ROOM, soon(), Some(8))).await;
    tab.request("unsubscribe", json!({ "channel": ROOM })).await;
    bob.close().await; // Nobody but the handler knows.
    assert_eq!(ada.next_action("leaving").await, news(8));
    let rest = ada.drain(QUIET).await;
    assert!(rest.iter().all(|frame| frame["action"] != "joining" && frame["action"] != "leaving"), "each user is told once: {rest:?}");
}

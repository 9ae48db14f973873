//! What the text of a config says, read back by the loader itself.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::config::{ActionSettings, ListAction, Settings, check_text};
use crate::tool::config::queue_url::place;
use crate::wire::protocol::Protocol;

fn application(websocket: &Value, redis: &Value) -> Application<'static> {
    Application {
        package: Package::read(websocket).unwrap(),
        place: place(redis, "default"),
        source: "config/websocket.php",
        handler: None,
    }
}

fn loaded(application: &Application<'_>) -> Settings {
    let text = application.text();
    check_text(Path::new("made.toml"), &text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn imported(websocket: &Value) -> Settings {
    loaded(&application(websocket, &Value::Null))
}

#[test]
fn every_key_is_where_it_belongs() {
    let websocket = json!({
        "host": "0.0.0.0", "port": "9000", "ssl": false, "handler": "\\Chat\\ChatHandler", "queue_name": "chat",
        "actions": {"chat_text": "\\Chat\\Actions\\ChatText", "typing": "Chat\\Actions\\Typing"},
    });
    let redis = json!({"options": {"prefix": "shop_"}, "default": {"host": "cache", "password": "p@ss", "port": 6380, "database": "1"}});
    let settings = loaded(&application(&websocket, &redis));
    assert_eq!((settings.app.as_str(), settings.queue.as_str()), ("chat", "redis://:p%40ss@cache:6380/1"));
    assert_eq!(settings.server.listen, "0.0.0.0:9000".parse::<SocketAddr>().unwrap());
    assert_eq!((settings.server.protocol, settings.server.handler.as_deref()), (Protocol::Flat, Some("chat_handler")));
    assert_eq!(
        (settings.php.prefix.as_str(), settings.php.lists),
        ("shop_", vec!["queues:chat_out".to_owned(), "queues:{chat_out}".to_owned()])
    );
    let list = |handle: &str| ActionSettings::List(ListAction { list: "queues:chat_in".to_owned(), handle: handle.to_owned() });
    let actions = [("chat_text", "\\Chat\\Actions\\ChatText"), ("typing", "Chat\\Actions\\Typing")];
    assert_eq!(settings.actions, actions.map(|(name, handle)| (name.to_owned(), list(handle))).into());
    assert_eq!(settings.limits, Settings::default().limits, "not silently tightened");
}

#[test]
fn an_almost_empty_config_has_the_packages_own_defaults() {
    let settings = imported(&json!({"ssl": null}));
    assert_eq!((settings.app.as_str(), settings.queue.as_str()), ("plugsocket", "redis://127.0.0.1:6379"));
    assert_eq!(settings.server.listen, "127.0.0.1:8000".parse::<SocketAddr>().unwrap());
    assert_eq!(settings.php.lists[0], "queues:_out", "which is what it uses without a name");
    assert!(settings.actions.is_empty());
}

#[test]
fn odd_names_survive() {
    let odd = ["a.b", "chat text", "Ünïcode", "quo\"te", "back\\slash", "#", "id", "ping", "7", "'"];
    let actions: serde_json::Map<_, _> = odd.iter().map(|name| ((*name).to_owned(), json!("A\\B"))).collect();
    let settings = imported(&json!({"queue_name": "my chat.{1}\"", "actions": actions}));
    for name in odd {
        assert!(settings.actions.contains_key(name), "{name}");
    }
    assert_eq!(settings.app, "my_chat__1__");
    assert_eq!(settings.php.lists[0], "queues:my chat.{1}\"_out");
    assert_eq!(imported(&json!({"queue_name": "ü".repeat(100)})).app, "_".repeat(64));
}

#[test]
fn addresses_are_addresses() {
    for (host, listen, is_meant) in [
        ("localhost", "127.0.0.1:8000", true),
        ("LOCALHOST", "127.0.0.1:8000", true),
        ("", "127.0.0.1:8000", true),
        ("10.1.2.3", "10.1.2.3:8000", true),
        ("::", "[::]:8000", true),
        ("[::1]", "[::1]:8000", true),
        ("ws.example.org", "127.0.0.1:8000", false),
        ("tcp://0.0.0.0", "127.0.0.1:8000", false),
    ] {
        let application = application(&json!({"host": host}), &Value::Null);
        assert_eq!(application.listen(), (listen.parse().unwrap(), is_meant), "{host}");
        assert_eq!(loaded(&application).server.listen, listen.parse::<SocketAddr>().unwrap());
        assert_eq!(application.text().contains("names are not resolved"), !is_meant);
    }
}

#[test]
fn the_ops_listener_makes_room() {
    for port in [8001, 8002] {
        let settings = imported(&json!({"port": port}));
        let taken = [Some(settings.server.listen), settings.ops.listen, settings.ops.worker_listen].map(|address| address.unwrap().port());
        assert!(taken[0] != taken[1] && taken[0] != taken[2] && taken[1] != taken[2], "{taken:?}");
    }
}

#[test]
fn names_of_plugins_are_made_of_classes() {
    for (class, name) in [
        ("\\Chat\\Wshandle", "wshandle"),
        ("\\Chat\\ChatHandler", "chat_handler"),
        ("WSHandler", "ws_handler"),
        ("Chat_Handler2", "chat_handler2"),
        ("_Handler", "handler"),
        ("Ünï", "n_"),
        ("Ü", "handler"),
    ] {
        assert_eq!(plugin_name(class), name, "{class}");
        assert_eq!(imported(&json!({"handler": class})).server.handler.as_deref(), Some(name));
    }
    let mut named = application(&json!({"handler": "A"}), &Value::Null);
    named.handler = Some("door");
    assert_eq!(loaded(&named).server.handler.as_deref(), Some("door"));
}

#[test]
fn what_is_not_taken_over_stays_as_a_comment() {
    let text =
        application(&json!({"ssl": true, "motto": "a\nb", "secret": "s3cret", "app_key": "k3y", "url": "http://x"}), &Value::Null).text();
    for words in ["[server.tls]\n# cert_file", "# motto = \"a\\nb\"", "# app_key = (not shown)", "secret, url stay in PHP's own config"] {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    assert!(!text.contains("s3cret") && !text.contains("k3y") && !text.contains("http://x"), "{text}");
    assert!(!application(&json!({"ssl": false}), &Value::Null).text().contains("[server.tls]"));
}

#[test]
fn no_line_breaks_out_of_its_comment() {
    let source = "config/a\nqueue = \"x\"";
    let text = Application { source, ..application(&json!({"host": "a b", "queue_name": "c", "x\ny": 1}), &Value::Null) }.text();
    assert!(text.lines().all(|line| !line.starts_with("queue = \"x\"") && !line.starts_with('y')), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 200), "{text}");
}

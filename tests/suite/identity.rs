//! Promise: with keys nobody comes in without a good token, whoever has one is known by it, and stays for as long as it is good.

use serde_json::{Value, json};
use toml::Value as Toml;

#[path = "../keys/issuer.rs"]
mod issuer;

use self::issuer::{Issuer, in_seconds};
use crate::harness::client::Client;
use crate::harness::config::Config;
use crate::harness::process::Process;
use crate::harness::redis::Redis;
use crate::harness::{PATIENCE, START_PATIENCE, app, eventually, plugin};

struct Door {
    server: Process,
    config: Config,
    _redis: Redis,
}

impl Door {
    fn open(issuers: &[&Issuer], change: impl FnOnce(Config) -> Config) -> Self {
        let redis = Redis::start();
        let config = change(config(&redis.url(), issuers));
        plugin::install(&plugin::chat(), &config.plugins_dir(), "chat");
        let server = Process::server(&config);
        server.ws_url();
        Self { server, config, _redis: redis }
    }

    fn key_file(&self, algorithm: &str) -> String {
        key_file(&self.config, algorithm)
    }

    fn refusals(&self, cause: &str) -> String {
        app::metric(&self.server, &format!("plugsocket_refusals_total{{cause=\"{cause}\"}}"))
    }
}

fn key_file(config: &Config, algorithm: &str) -> String {
    config.state_dir().with_file_name(algorithm).to_str().unwrap().to_owned()
}

fn config(queue: &str, issuers: &[&Issuer]) -> Config {
    let mut config = Config::chat(queue).with("log_level", "info");
    let keys: Vec<Toml> = issuers
        .iter()
        .map(|issuer| {
            std::fs::write(key_file(&config, issuer.algorithm), &issuer.key_file).unwrap();
            // The file is named after its algorithm, relative to the config.
            let members = ["algorithm", "file"].map(|name| (name.to_owned(), Toml::from(issuer.algorithm)));
            Toml::from(members.into_iter().collect::<toml::Table>())
        })
        .collect();
    config.set("server.token.keys", keys);
    config
}

fn claims(sub: &str, seconds: i64) -> Value {
    json!({"sub": sub, "exp": in_seconds(seconds)})
}

/// Connects with a token in this place and registers; what `registered` says, or how it ended.
async fn enter(url: &str, place: &str, token: &str) -> Result<Value, String> {
    let (query, bearer, offers) = (format!("{url}?token={token}"), format!("Bearer {token}"), format!("bearer, {token}"));
    let mut client = match place {
        "header" => Client::try_connect(url, &[("authorization", &bearer)]).await,
        "query" => Client::try_connect(&query, &[]).await,
        "subprotocol" => Client::try_connect(url, &[("sec-websocket-protocol", &offers)]).await,
        _ => Client::try_connect(url, &[]).await,
    }?;
    let data = if place == "register" { json!({"nickname": "Ada", "token": token}) } else { json!({"nickname": "Ada"}) };
    match client.try_request("register", data).await {
        Ok(data) => Ok(data),
        Err(error) => Err(format!("{} {}", error["code"].as_str().unwrap(), client.wait_closed().await.code)),
    }
}

#[tokio::test]
async fn every_algorithm_in_every_place_and_no_bad_token_in_any() {
    let issuers = Issuer::all();
    let places = ["header:Authorization", "query:token", "subprotocol:bearer", "register:token"];
    let door = Door::open(&issuers.each_ref(), |config| config.with("server.token.from", places.to_vec()));
    let url = door.server.ws_url();
    let everywhere = ["header", "query", "subprotocol", "register"];
    for (number, issuer) in issuers.iter().enumerate() {
        let user = format!("user-{number}");
        for place in everywhere {
            let registered = enter(&url, place, &issuer.token(&claims(&user, 600))).await;
            assert_eq!(registered.unwrap()["user_id"], user, "{} in {place}", issuer.algorithm);
        }
    }
    let good = issuers[3].token(&claims("7", 600));
    let bad = [
        ("token_expired", issuers[1].token(&claims("7", -60))),
        ("token_not_yet", issuers[2].token(&json!({"exp": in_seconds(600), "nbf": in_seconds(300)}))),
        ("token_signature", Issuer::eddsa().token(&claims("7", 600))),
        ("token_malformed", issuers[0].sign(r#"{"alg":"none"}"#, &claims("7", 600).to_string())),
        ("token_signature", Issuer::of_secret(&issuers[1].key_file).token(&claims("7", 600))),
        ("token_times", issuers[0].token(&json!({"sub": "7"}))),
    ];
    for (cause, token) in &bad {
        for place in everywhere {
            let expected = if place == "register" { "refused 4003" } else { "HTTP 401" };
            assert_eq!(enter(&url, place, token).await.unwrap_err(), expected, "{cause} in {place}");
        }
    }
    assert_eq!(enter(&url, "nowhere", "").await.unwrap_err(), "refused 4003");
    assert_eq!(enter(&url, "header", &good).await.unwrap()["user_id"], "7", "a good one comes in after all of them");
    for (cause, count) in
        [("token_expired", "4"), ("token_not_yet", "4"), ("token_signature", "8"), ("token_malformed", "4"), ("token_missing", "1")]
    {
        assert_eq!(door.refusals(cause), count, "{cause}");
    }
    let log = door.server.lines();
    assert_eq!(log.iter().filter(|line| line.contains("refused: the token has expired")).count(), 1, "{log:?}");
    assert!(!log.iter().any(|line| line.contains("eyJ")), "a token is in the log");
}

#[tokio::test]
async fn a_key_file_is_replaced_while_the_server_runs() {
    let (old, new) = (Issuer::es256(), Issuer::es256());
    let door = Door::open(&[&old], |config| config);
    let (url, file) = (door.server.ws_url(), door.key_file("ES256"));
    enter(&url, "header", &old.token(&claims("7", 600))).await.unwrap();
    std::fs::write(&file, "half a key").unwrap();
    door.server.wait_line("the old one stays in force", PATIENCE);
    enter(&url, "header", &old.token(&claims("7", 600))).await.unwrap();
    std::fs::write(format!("{file}.new"), &new.key_file).unwrap();
    std::fs::rename(format!("{file}.new"), &file).unwrap();
    let enters = async || enter(&url, "header", &new.token(&claims("8", 600))).await.is_ok();
    eventually("the new key counts", PATIENCE, enters).await;
    assert_eq!(enter(&url, "header", &old.token(&claims("7", 600))).await.unwrap_err(), "HTTP 401");
}

#[tokio::test]
async fn a_session_ends_with_its_token_unless_a_fresh_one_comes() {
    let issuer = Issuer::hs256();
    let door = Door::open(&[&issuer], |config| {
        config.with("server.connect_on", "upgrade").with("server.token.leeway", "0s").with("server.token.expiry_warning", "1h")
    });
    let (url, bearer) = (door.server.ws_url(), format!("Bearer {}", issuer.token(&claims("7", 30))));
    let mut client = Client::try_connect(&url, &[("authorization", &bearer)]).await.unwrap();
    client.set_patience(START_PATIENCE);
    assert_eq!(client.next_action("registered").await["user_id"], "7");
    assert!(client.next_action("expiring").await["expires_in_ms"].as_u64().unwrap() <= 30_000);
    client.register(json!({"token": issuer.token(&claims("7", 100))})).await;
    assert!(client.next_action("expiring").await["expires_in_ms"].as_u64().unwrap() > 30_000, "the fresh one counts");
    assert_eq!(client.try_request("register", json!({"token": "x"})).await.unwrap_err()["code"], "refused");
    client.register(json!({"token": issuer.token(&claims("7", 2))})).await;
    assert_eq!(client.wait_closed().await.code, 4010);
    assert_eq!(Client::try_connect(&url, &[]).await.err().unwrap(), "HTTP 401");
    let bearer = format!("Bearer {}", issuer.token(&claims("8", 600)));
    let mut client = Client::try_connect(&url, &[("authorization", &bearer)]).await.unwrap();
    assert_eq!(client.next_action("registered").await["user_id"], "8");
}

#[test]
fn a_bad_key_or_place_is_an_error_at_the_start() {
    let issuer = Issuer::hs256();
    let short = config("redis://127.0.0.1:1", &[&issuer]);
    std::fs::write(key_file(&short, "HS256"), "short").unwrap();
    plugin::install(&plugin::chat(), &short.plugins_dir(), "chat");
    let mut server = Process::server(&short);
    let line = server.wait_line("can't be used", START_PATIENCE);
    assert!(line.contains("HS256") && line.contains("openssl rand -hex 32"), "{line}");
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(1));
    for (key, value, named) in [
        ("server.token.from", vec!["cookie:x"], "write header:NAME"),
        ("server.token.from", vec!["header:"], "needs a name"),
        ("server.token.from", vec!["header:a b"], "HTTP does not allow"),
        ("server.token.from", vec!["query:a", "query:a"], "there twice"),
        ("server.token.from", vec!["register:a", "register:b"], "one register:MEMBER"),
        ("server.token.from", vec![], "must say where"),
    ] {
        let config = config("redis://127.0.0.1:1", &[&issuer]).with(key, value);
        let mut server = Process::server(&config);
        let line = server.wait_line(key, START_PATIENCE);
        assert!(line.contains(named), "{line}");
        assert_eq!(server.wait_exit(PATIENCE).code(), Some(2));
    }
    let late =
        config("redis://127.0.0.1:1", &[&issuer]).with("server.token.from", vec!["register:token"]).with("server.connect_on", "upgrade");
    let mut server = Process::server(&late);
    server.wait_line("too late for connect_on", START_PATIENCE);
    assert_eq!(server.wait_exit(PATIENCE).code(), Some(2));
}

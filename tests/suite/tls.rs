//! Promise: Redis is reached over TLS, with an ACL user, in any database; and when it is not, the reason says what to do.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::authority::Authority;
use crate::harness::client::Client;
use crate::harness::config::Config;
use crate::harness::process::Process;
use crate::harness::redis::Redis;
use crate::harness::{PATIENCE, START_PATIENCE, http, plugin};

const PASSWORD: &str = "hunter2";
const LOOK: Duration = Duration::from_millis(20);
const PORTS_TRIED: usize = 20;
/// From the first answer of the ops listener on: the deadline of a connection is 3 s, the rest is for a slow machine.
const SOON: Duration = Duration::from_secs(6);

/// A Redis with a port for TLS beside its plain one, and the user `app` with the rights that the documentation lists.
struct Secured {
    redis: Redis,
    authority: Authority,
    tls_port: u16,
}

impl Secured {
    fn start() -> Self {
        Self::start_in(&[])
    }

    fn start_in(more: &[&str]) -> Self {
        let authority = Authority::new();
        authority.sign("redis", "127.0.0.1");
        authority.sign("client", "client");
        let files = ["redis.pem", "redis.key", "ca.pem"].map(|name| authority.path(name));
        let mut options = vec!["--tls-cert-file", &files[0], "--tls-key-file", &files[1], "--tls-ca-cert-file", &files[2]];
        options.extend(["--tls-auth-clients", "no"]);
        options.extend(more);
        let redis = Redis::start_with(&options);
        let rights = rights();
        let mut user = vec!["ACL", "SETUSER", "app", "on", ">hunter2"];
        user.extend(rights.split_whitespace());
        assert_eq!(redis.cli(&user), "OK");
        let listens = |port: &u16| redis.cli(&["CONFIG", "SET", "tls-port", &port.to_string()]) == "OK";
        let tls_port = (0..PORTS_TRIED).map(|_| free_port()).find(listens).expect("a port for TLS");
        Self { redis, authority, tls_port }
    }

    fn url(&self) -> String {
        format!("rediss://app:{PASSWORD}@127.0.0.1:{}/3", self.tls_port)
    }

    fn config(&self) -> Config {
        self.config_of(&self.url()).with("queue_options.tls_ca_file", self.authority.path("ca.pem"))
    }

    fn config_of(&self, url: &str) -> Config {
        let config = Config::chat(url).with("log_level", "info").with("queue_options.lease", "2s");
        plugin::install(&plugin::chat(), &config.plugins_dir(), "chat");
        let of_php = [("list", "queues:app_in"), ("handle", "\\X")].map(|(name, value)| (name.to_owned(), value.into()));
        config.with("actions.legacy", toml::Table::from_iter(of_php))
    }

    /// What Redis refused the user; empty when its rights are enough.
    fn refusals(&self) -> String {
        self.redis.cli(&["ACL", "LOG"])
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// The rights that docs/operations.md tells the operator to grant.
fn rights() -> String {
    let page = std::fs::read_to_string(plugin::workspace().join("docs/operations.md")).unwrap();
    let row = page.lines().find(|line| line.starts_with("| ACL |")).expect("the row on the ACL");
    row.split('`').nth(1).unwrap().replace("\\|", "|").replace("{APP", "{plugsocket")
}

/// A message goes to a worker and its answer comes back; the tool sends; the lists are served, both ways; a killed worker's work passes on.
async fn serves(config: &Config, redis: &Redis) {
    let server = Process::server(config);
    let mut worker = Process::worker(config);
    worker.wait_worker_ready();
    let mut client = Client::enter(&server.ws_url(), "seven").await;
    client.set_patience(START_PATIENCE);
    assert_eq!(client.request("echo", json!({"n": 1})).await["echo"], json!({"n": 1}));
    let mut send = Process::tool(&["send", "--config", config.path(), "--all", "notice", r#"{"n":2}"#]);
    assert!(send.wait_exit(PATIENCE).success(), "{:?}", send.lines());
    assert_eq!(client.next_action("notice").await, json!({"n": 2}));
    redis.cli(&["-n", "3", "RPUSH", "queues:plugsocket_out", r#"{"to":{"broadcast":true},"action":"notice","data":{"n":3}}"#]);
    assert_eq!(client.next_action("notice").await, json!({"n": 3}));
    client.request("legacy", json!(1)).await;
    assert!(redis.cli(&["-n", "3", "LPOP", "queues:app_in"]).starts_with(r#"{"connection_id":"#));
    for arguments in [&["queue", "status"][..], &["queue", "dead", "list"], &["queue", "peek"]] {
        let mut tool = Process::tool(&[arguments, &["--config", config.path()]].concat());
        assert!(tool.wait_exit(PATIENCE).success(), "{arguments:?}: {:?}", tool.lines());
    }
    // Made anew, each connection closes its predecessor at Redis: that takes rights of its own.
    redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
    assert_eq!(client.request("echo", json!({"n": 3})).await["echo"], json!({"n": 3}));
    worker.kill();
    let heir = Process::worker(config);
    heir.wait_worker_ready();
    assert_eq!(client.request("echo", json!({"n": 4})).await["echo"], json!({"n": 4}));
    for process in [&server, &worker, &heir] {
        let told = process.lines().into_iter().find(|line| line.contains("ACL") || line.contains(PASSWORD));
        assert_eq!(told, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_over_tls_with_the_documented_rights_alone() {
    let secured = Secured::start();
    serves(&secured.config(), &secured.redis).await;
    assert_eq!(secured.refusals(), "");
    assert_eq!(secured.redis.cli(&["-n", "0", "DBSIZE"]), "0", "all is in database 3");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_works_over_a_unix_socket_with_a_user_and_a_database() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("redis.sock").to_str().unwrap().to_owned();
    let secured = Secured::start_in(&["--unixsocket", &socket]);
    let config = secured.config_of(&format!("unix://{socket}?db=3&user=app&pass={PASSWORD}"));
    serves(&config, &secured.redis).await;
    assert_eq!(secured.refusals(), "");
    assert_eq!(secured.redis.cli(&["-n", "0", "DBSIZE"]), "0", "all is in database 3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_shown_where_it_is_demanded() {
    let secured = Secured::start();
    assert_eq!(secured.redis.cli(&["CONFIG", "SET", "tls-auth-clients", "yes"]), "OK");
    let without = secured.config();
    is_told(&without, &["client certificate", "set queue_options.tls_cert_file and tls_key_file"]);
    let with = secured
        .config()
        .with("queue_options.tls_cert_file", secured.authority.path("client.pem"))
        .with("queue_options.tls_key_file", secured.authority.path("client.key"));
    serves(&with, &secured.redis).await;
}

/// The process is up, is not ready, and says why, soon: at `/readyz` and in its log, without the password.
fn is_told(config: &Config, words: &[&str]) {
    for process in [Process::server(config), Process::worker(config)] {
        let ready = format!("{}readyz", process.ops_url());
        let end = Instant::now() + SOON;
        let body = loop {
            let answer = http::get(&ready);
            if answer.status == 503 && words.iter().all(|word| answer.body.contains(word)) {
                break answer.body;
            }
            assert!(Instant::now() < end, "no reason with {words:?}: {}", answer.body);
            thread::sleep(LOOK);
        };
        let line = process.wait_line("tried again", PATIENCE);
        assert!(words.iter().all(|word| line.contains(word)), "{line}");
        assert!(!body.contains("queue is unreachable: queue is unreachable"), "{body}");
        assert!(!body.contains(PASSWORD) && !process.lines().iter().any(|line| line.contains(PASSWORD)), "{body}");
    }
    let mut send = Process::tool(&["send", "--config", config.path(), "--all", "notice", "{}"]);
    assert_eq!(send.wait_exit(PATIENCE).code(), Some(1));
    let said = send.lines().join("\n");
    assert!(words.iter().all(|word| said.contains(word)) && !said.contains(PASSWORD), "{said}");
}

#[test]
fn a_wrong_address_or_certificate_is_told_with_its_remedy() {
    let secured = Secured::start();
    let stranger = Authority::new();
    let (plain, tls, ca) = (secured.redis.port(), secured.tls_port, secured.authority.path("ca.pem"));
    let cases = [
        (secured.url(), Some(stranger.path("ca.pem")), vec!["is not signed by the CA in", "set queue_options.tls_ca_file"]),
        (secured.url(), None, vec!["not signed by a public CA", "queue_options.tls_ca_file"]),
        (secured.url().replace("127.0.0.1", "localhost"), Some(ca.clone()), vec!["use a host name in `queue` that its certificate has"]),
        (format!("rediss://app:{PASSWORD}@127.0.0.1:{plain}"), Some(ca.clone()), vec!["does not speak TLS at this port", "or redis://"]),
        (format!("redis://app:{PASSWORD}@127.0.0.1:{tls}"), None, vec!["is this its port for TLS? then it is rediss://"]),
        (secured.url().replace("app:", "somebody:"), Some(ca.clone()), vec!["authentication failed", "set the user and password"]),
        (secured.url().replace("/3", "/99"), Some(ca), vec!["use a database that it has", "redis.conf"]),
    ];
    thread::scope(|scope| {
        for (url, ca, words) in &cases {
            let config = secured.config_of(url);
            let config = match ca {
                Some(ca) => config.with("queue_options.tls_ca_file", ca.as_str()),
                None => config,
            };
            scope.spawn(move || is_told(&config, words));
        }
    });
}

#[test]
fn a_file_or_an_address_that_can_not_be_meant_ends_the_start() {
    let gone = Path::new("/nowhere/ca.pem").to_str().unwrap();
    for (url, ca, word) in [
        (format!("rediss://app:{PASSWORD}@127.0.0.1:1#insecure"), None, "#insecure, which would let anybody play Redis"),
        (format!("rediss://app:{PASSWORD}@127.0.0.1:1"), Some(gone), "queue_options.tls_ca_file: /nowhere/ca.pem"),
        (format!("redis://app:{PASSWORD}@127.0.0.1:1?db=3"), None, "takes no `?`"),
    ] {
        let config = Config::chat(&url);
        let config = if let Some(ca) = ca { config.with("queue_options.tls_ca_file", ca) } else { config };
        for mut process in [Process::server(&config), Process::worker(&config)] {
            assert_eq!(process.wait_exit(PATIENCE).code(), Some(2), "{url}");
            let said = process.lines().join("\n");
            assert!(said.contains(word) && !said.contains(PASSWORD), "{said}");
        }
    }
}

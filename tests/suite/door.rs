//! Promise: the server speaks TLS, takes up a renewed certificate without losing a socket, and says to each it refuses, and to its operator, why.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;

use crate::harness::authority::Authority;
use crate::harness::client::Client;
use crate::harness::config::Config;
use crate::harness::process::Process;
use crate::harness::{PATIENCE, START_PATIENCE, eventually, http, plugin, procfs};

const HEAD: &str = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const CROWD: usize = 40;

fn config() -> Config {
    let config = Config::chat("memory");
    plugin::install(&plugin::chat(), &config.plugins_dir(), "chat");
    config
}

/// With the certificate `served` of the authority, whose files may be written over.
fn secured(authority: &Authority) -> Config {
    config().with("server.tls.cert_file", authority.path("served.pem")).with("server.tls.key_file", authority.path("served.key"))
}

fn address(url: &str) -> &str {
    url.split("://").last().unwrap().trim_end_matches('/')
}

/// Sends `request` and reads to the end.
fn exchange(address: &str, request: &[u8]) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(request).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn metric(process: &Process, name: &str) -> f64 {
    let text = http::get(&format!("{}metrics", process.ops_url())).body;
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    line.and_then(|line| line.split(' ').next_back()).map_or(0.0, |value| value.parse().unwrap())
}

fn refused(process: &Process, cause: &str) -> f64 {
    metric(process, &format!("plugsocket_refusals_total{{cause=\"{cause}\"}}"))
}

/// The certificate that a new connection is shown.
async fn shown(authority: &Authority, address: &str) -> CertificateDer<'static> {
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let stream = tokio::time::timeout(PATIENCE, authority.connect(socket, &[])).await.expect("an answer").unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

#[tokio::test]
async fn a_renewed_certificate_is_taken_up_under_load() {
    let authority = Authority::new();
    authority.sign_for("served", "127.0.0.1", 2000, 3000);
    authority.sign("renewed", "127.0.0.1");
    let config = secured(&authority);
    let process = Process::dev(&config);
    let url = process.wss_url();
    let mut clients = Vec::new();
    for number in 0..CROWD {
        let mut client = Client::try_connect_tls(&url, &authority).await.unwrap();
        client.register(json!({ "nickname": format!("n{number}") })).await;
        clients.push(client);
    }
    let echo = async |clients: &mut Vec<Client>, round: u64| {
        for client in clients {
            assert_eq!(client.request("echo", json!(round)).await["echo"], json!(round));
        }
    };
    echo(&mut clients, 0).await;
    let pem = |name: &str| CertificateDer::from_pem_file(authority.file(name)).unwrap();
    let (old, new) = (pem("served.pem"), pem("renewed.pem"));
    assert_eq!(shown(&authority, address(&url)).await, old);
    let ends = metric(&process, "plugsocket_certificate_expires_seconds");

    std::fs::copy(authority.file("renewed.key"), authority.file("served.key")).unwrap();
    let mark = process.lines().len();
    process.wait_line_after(mark, "does not belong to the certificate", START_PATIENCE);
    echo(&mut clients, 1).await;
    assert_eq!(shown(&authority, address(&url)).await, old, "half a pair is not taken");

    std::fs::copy(authority.file("renewed.pem"), authority.file("served.pem")).unwrap();
    let line = loop {
        echo(&mut clients, 2).await;
        if let Ok(line) = process.try_wait_line(mark, "certificate replaced", Duration::from_millis(1)) {
            break line;
        }
    };
    assert!(line.contains("127.0.0.1") && line.contains("4000-01-01"), "{line}");
    assert_eq!(shown(&authority, address(&url)).await, new);
    assert!(metric(&process, "plugsocket_certificate_expires_seconds") > ends);
    echo(&mut clients, 3).await;
    assert!(clients.iter().all(|client| client.closed().is_none()));

    let mark = process.lines().len();
    std::fs::write(authority.file("served.pem"), "-----BEGIN CERT").unwrap();
    process.wait_line_after(mark, "the old certificate stays", START_PATIENCE);
    assert_eq!(shown(&authority, address(&url)).await, new);
    authority.sign_for("served", "127.0.0.1", 2000, 2001);
    process.wait_line_after(mark, "renew it", START_PATIENCE);
    assert_eq!(shown(&authority, address(&url)).await, new, "one that has ended is not taken");
    echo(&mut clients, 4).await;
    for client in clients {
        client.close().await;
    }
}

#[test]
fn a_certificate_that_can_not_be_served_ends_the_start() {
    let authority = Authority::new();
    authority.sign("good", "127.0.0.1");
    authority.sign("other", "127.0.0.1");
    authority.sign_for("old", "127.0.0.1", 2000, 2001);
    authority.sign_for("coming", "127.0.0.1", 3000, 3001);
    std::fs::write(authority.file("encrypted.key"), "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
        .unwrap();
    for (cert, key, words) in [
        ("gone.pem", "good.key", "gone.pem can't be read"),
        ("good.pem", "other.key", "does not belong to the certificate"),
        ("good.key", "good.key", "has no certificate"),
        ("good.pem", "encrypted.key", "store it without a password"),
        ("old.pem", "old.key", "renew it"),
        ("coming.pem", "coming.key", "check this machine's clock"),
    ] {
        let config = config().with("server.tls.cert_file", authority.path(cert)).with("server.tls.key_file", authority.path(key));
        let mut process = Process::dev(&config);
        let code = process.wait_exit(START_PATIENCE).code();
        let said = process.lines().join("\n");
        assert!(code == Some(1) && said.contains(words), "{code:?}: {said}");
    }
}

#[tokio::test]
async fn plain_to_tls_and_tls_to_plain_are_told_apart() {
    let authority = Authority::new();
    authority.sign_for("served", "127.0.0.1", 2000, 2050);
    let config = secured(&authority);
    let process = Process::dev(&config);
    let url = process.wss_url();
    let answer = exchange(address(&url), format!("{HEAD}\r\n").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("connect with wss://"), "{answer}");
    assert!(refused(&process, "not_tls") > 0.0);
    process.wait_line("cause=\"not_tls\"", PATIENCE);
    let socket = tokio::net::TcpStream::connect(address(&url)).await.unwrap();
    let error = authority.connect(socket, &["h2"]).await.unwrap_err().to_string();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
    eventually("it is counted", PATIENCE, async || refused(&process, "tls") > 0.0).await;

    let config = self::config();
    let plain = Process::dev(&config);
    let url = plain.ws_url();
    let socket = tokio::net::TcpStream::connect(address(&url)).await.unwrap();
    authority.connect(socket, &[]).await.unwrap_err();
    eventually("it is counted", PATIENCE, async || refused(&plain, "not_http") > 0.0).await;
    plain.wait_line("without TLS", PATIENCE);
}

/// What the client sees, the metric, and the log line.
fn is_refused(process: &Process, request: &str, status: &str, cause: &str) -> String {
    let before = refused(process, cause);
    let url = process.ws_url();
    let answer = exchange(address(&url), request.as_bytes());
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{cause}: {answer}");
    assert!(refused(process, cause) > before, "{cause}");
    process.wait_line(&format!("cause=\"{cause}\""), PATIENCE);
    answer
}

#[tokio::test]
async fn each_limit_of_the_door_is_told_to_both_sides() {
    let config = config().with("limits.handshake_timeout", "300ms");
    let process = Process::dev(&config);
    is_refused(&process, "GET / HTTP/1.1\r\n", "408", "timeout");
    is_refused(&process, &format!("{HEAD}X: {}\r\n\r\n", "x".repeat(9_000)), "431", "too_large");
    is_refused(&process, &format!("{}\r\n", HEAD.replacen("GET / ", "GET /etc ", 1)), "404", "path");
    is_refused(&process, &format!("{}\r\n", HEAD.replacen("GET / ", "POST / ", 1)), "405", "method");
    is_refused(&process, &format!("{}\r\n", HEAD.replacen("HTTP/1.1", "HTTP/1.0", 1)), "505", "http_version");
    is_refused(&process, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505", "http_version");
    is_refused(&process, &format!("{}\r\n", HEAD.replacen("GET / ", "GET http://a/ ", 1)), "400", "target");
    is_refused(&process, &format!("{HEAD}Origin: https://evil.example\r\n\r\n"), "403", "origin");
    let _client = Client::connect(&process.ws_url()).await;
    eventually("the handshake's time", PATIENCE, async || metric(&process, "plugsocket_handshake_seconds_count") >= 1.0).await;

    let mut config = self::config().with("limits.connections_max", 1);
    let process = Process::dev(&config);
    let held = Client::connect(&process.ws_url()).await;
    is_refused(&process, "", "503", "connections");
    config.set("limits.connections_per_ip_max", 1);
    config.set("limits.connections_max", 9);
    // Untrusted: the header changes nothing, its sender is still this address.
    let spoofed = format!("{HEAD}X-Forwarded-For: 192.0.2.1\r\n\r\n");
    let url = process.ws_url();
    eventually("the edit", PATIENCE, async || exchange(address(&url), spoofed.as_bytes()).starts_with("HTTP/1.1 429 ")).await;
    let answer = is_refused(&process, &spoofed, "429", "connections_per_ip");
    assert!(answer.contains("Retry-After: "), "{answer}");
    held.close().await;
}

#[tokio::test]
async fn a_storm_of_newcomers_is_refused_before_it_costs_anything_and_spread_out() {
    let config = config().with("limits.accepts_per_second", 1).with("limits.accepts_burst", 5);
    let process = Process::dev(&config);
    let url = process.ws_url();
    let answers: Vec<_> = (0..30).map(|_| exchange(address(&url), b"GET / HTTP/1.1\r\n\r\n")).collect();
    let waits: Vec<u32> =
        answers.iter().filter_map(|answer| answer.lines().find_map(|line| line.strip_prefix("Retry-After: "))?.parse().ok()).collect();
    assert!(waits.len() >= 20 && answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 503 ")).count() == waits.len(), "{answers:?}");
    assert!(answers.iter().all(|answer| answer.starts_with("HTTP/1.1 503 ") || answer.starts_with("HTTP/1.1 400 ")), "{answers:?}");
    assert!(waits[waits.len() - 1] > waits[0] + 5, "each behind those before it: {waits:?}");
    assert!(refused(&process, "accept_rate") >= 20.0);
    process.wait_line("cause=\"accept_rate\"", PATIENCE);
    let mut admitted = None;
    eventually("a place in the next second", PATIENCE, async || {
        admitted = Client::try_connect(&url, &[]).await.inspect_err(|why| assert_eq!(why, "HTTP 503")).ok();
        admitted.is_some()
    })
    .await;
    let mut client = admitted.unwrap();
    client.register(json!({ "nickname": "patient" })).await;
}

#[tokio::test]
async fn an_idle_session_over_tls_costs_little_more() {
    const SESSIONS: usize = 300;
    let authority = Authority::new();
    authority.sign("served", "127.0.0.1");
    let configs = (config(), secured(&authority));
    let (plain, tls) = (Process::dev(&configs.0), Process::dev(&configs.1));
    let mut clients = Vec::new();
    let mut bytes = Vec::new();
    for (process, is_tls) in [(&plain, false), (&tls, true)] {
        let url = if is_tls { process.wss_url() } else { process.ws_url() };
        let connect = async || if is_tls { Client::try_connect_tls(&url, &authority).await.unwrap() } else { Client::connect(&url).await };
        for _ in 0..50 {
            clients.push(connect().await);
        }
        let before = procfs::resident_kib(process.pid());
        for _ in 0..SESSIONS {
            clients.push(connect().await);
        }
        bytes.push((procfs::resident_kib(process.pid()) - before) as f64 / SESSIONS as f64);
    }
    println!("an idle session: {:.1} KiB plain, {:.1} KiB over TLS", bytes[0], bytes[1]);
    assert!(bytes[1] < bytes[0] + 16.0, "{bytes:?} KiB for a session, plain and over TLS");
}

#[test]
fn a_proxy_that_is_not_declared_is_told_of() {
    let config = config().with("limits.handshake_timeout", "60s");
    let process = Process::dev(&config);
    let url = process.ws_url();
    let connect = || TcpStream::connect(address(&url)).unwrap();
    let mut sockets: Vec<_> = (0..199).map(|_| connect()).collect();
    let is_told = || process.lines().iter().any(|line| line.contains("one address holds most connections"));
    assert!(!is_told());
    sockets.extend((0..9).map(|_| connect()));
    let line = process.wait_line("one address holds most connections", PATIENCE);
    assert!(line.contains("connections=200") && line.contains("server.trusted_proxies"), "{line}");
    drop(sockets);
}

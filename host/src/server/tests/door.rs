//! Who comes in, and as whom: rates, proxies, subprotocols, TLS.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

use super::harness::{Client, House, PATIENCE};
use super::http::{HEAD, answer};
use crate::config::Settings;

fn behind_proxy(settings: &mut Settings) {
    settings.server.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
}

async fn client_with(house: &House, header: (&'static str, &'static str)) -> Client {
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;
    let mut request = format!("ws://{}/ws", house.address).into_client_request().unwrap();
    request.headers_mut().insert(header.0, header.1.parse().unwrap());
    let socket = TcpStream::connect(house.address).await.unwrap();
    let (stream, _) = timeout(PATIENCE, client_async(request, socket)).await.unwrap().unwrap();
    Client { stream }
}

async fn ip_told(house: &mut House, header: (&'static str, &'static str)) -> String {
    let mut client = client_with(house, header).await;
    client.send(json!({"action": "register", "data": {}})).await;
    assert_eq!(client.next().await["action"], "registered");
    loop {
        let (_, call) = house.call().await;
        if let Some(ip) = call["ip"].as_str() {
            return ip.to_owned();
        }
    }
}

#[tokio::test]
async fn the_answer_names_the_subprotocol_that_both_have() {
    let house = House::open(|settings| settings.server.subprotocols = vec!["v2".to_owned(), "v1".to_owned()]).await;
    for (offer, chosen) in [("v1, v2", Some("v2")), ("v1", Some("v1")), ("v3", None)] {
        let mut socket = TcpStream::connect(house.address).await.unwrap();
        socket.write_all(format!("{HEAD}Sec-WebSocket-Protocol: {offer}\r\n\r\n").as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            assert_ne!(timeout(PATIENCE, socket.read_buf(&mut seen)).await.unwrap().unwrap(), 0);
        }
        let answer = String::from_utf8(seen).unwrap();
        let line = answer.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Protocol: "));
        assert_eq!((answer.starts_with("HTTP/1.1 101 "), line), (true, chosen), "{answer}");
    }
}

#[tokio::test]
async fn the_handler_is_told_the_clients_address_by_a_trusted_proxy_only() {
    let mut house = House::open(behind_proxy).await;
    assert_eq!(ip_told(&mut house, ("x-forwarded-for", "203.0.113.5, 192.0.2.1")).await, "192.0.2.1");
    assert_eq!(ip_told(&mut house, ("forwarded", "for=\"[2001:db8::7]:1\"")).await, "2001:db8::7");
    let refused = answer(&house, &format!("{HEAD}X-Forwarded-For: somebody\r\n\r\n")).await;
    assert!(refused.starts_with("HTTP/1.1 400 ") && refused.contains("`somebody` is no address"), "{refused}");

    let mut house = House::open(|_| {}).await;
    assert_eq!(ip_told(&mut house, ("x-forwarded-for", "192.0.2.1")).await, "127.0.0.1");
    assert_eq!(ip_told(&mut house, ("forwarded", "for=192.0.2.1")).await, "127.0.0.1");
}

#[tokio::test]
async fn behind_a_proxy_each_client_has_its_own_limit() {
    let house = House::open(|settings| {
        behind_proxy(settings);
        settings.limits.connections_per_ip_max = 1;
    })
    .await;
    let one = client_with(&house, ("x-forwarded-for", "192.0.2.1")).await;
    let _other = client_with(&house, ("x-forwarded-for", "192.0.2.2")).await;
    let again = format!("{HEAD}X-Forwarded-For: 192.0.2.1\r\n\r\n");
    assert!(answer(&house, &again).await.starts_with("HTTP/1.1 429 "));
    drop(one);
    super::harness::until("the place is free again", || house.sessions.open() == 1).await;
    let _back = client_with(&house, ("x-forwarded-for", "192.0.2.1")).await;
}

#[tokio::test]
async fn newcomers_beyond_the_rate_are_told_when_to_come_again() {
    let house = House::open(|settings| (settings.limits.accepts_per_second, settings.limits.accepts_burst) = (1, 1)).await;
    let _first = house.client().await;
    let (mut waits, mut refusals) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        refusals.push(answer(&house, "").await);
    }
    for refusal in &refusals {
        assert!(refusal.starts_with("HTTP/1.1 503 "), "{refusal}");
        let wait = refusal.lines().find_map(|line| line.strip_prefix("Retry-After: ")).unwrap();
        waits.push(wait.parse::<u32>().unwrap());
    }
    assert!(waits[0] == 1 && waits[3] > waits[0], "each behind those before: {waits:?}");
}

#[tokio::test]
async fn an_address_that_is_full_uses_up_nobody_elses_rate() {
    let house = House::open(|settings| {
        settings.limits.connections_per_ip_max = 1;
        (settings.limits.accepts_per_second, settings.limits.accepts_burst) = (1, 2);
    })
    .await;
    let _first = house.client().await;
    for _ in 0..4 {
        let refused = answer(&house, "").await;
        assert!(refused.starts_with("HTTP/1.1 429 "), "{refused}");
    }
}

/// Writes a fresh certificate and its key; answers a store that trusts it.
fn certificate(dir: &Path) -> RootCertStore {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
    std::fs::write(dir.join("cert.pem"), certificate.pem()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate.pem().as_bytes()).unwrap()).unwrap();
    roots
}

struct Secured {
    house: House,
    roots: RootCertStore,
    _dir: tempfile::TempDir,
}

async fn secured(change: impl FnOnce(&mut Settings)) -> Secured {
    let dir = tempfile::tempdir().unwrap();
    let roots = certificate(dir.path());
    let house = House::open(|settings| {
        settings.server.tls.cert_file = Some(dir.path().join("cert.pem"));
        settings.server.tls.key_file = Some(dir.path().join("key.pem"));
        change(settings);
    })
    .await;
    Secured { house, roots, _dir: dir }
}

impl Secured {
    async fn connect(&self, alpn: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        self.connect_with(alpn, &rustls::version::TLS13).await
    }

    async fn connect_with(&self, alpn: &[&str], version: &'static SupportedProtocolVersion) -> std::io::Result<TlsStream<TcpStream>> {
        let socket = TcpStream::connect(self.house.address).await.unwrap();
        self.shake(socket, alpn, version).await
    }

    async fn shake(
        &self,
        socket: TcpStream,
        alpn: &[&str],
        version: &'static SupportedProtocolVersion,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
        let mut config = config.with_root_certificates(self.roots.clone()).with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        timeout(PATIENCE, TlsConnector::from(Arc::new(config)).connect(name, socket)).await.expect("an answer")
    }
}

#[tokio::test]
async fn a_session_runs_over_tls() {
    use futures_util::{SinkExt, StreamExt};
    let secured = secured(|_| {}).await;
    for (alpn, version) in [(&[][..], &rustls::version::TLS12), (&["h2", "http/1.1"], &rustls::version::TLS13)] {
        let stream = secured.connect_with(alpn, version).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(version.version));
        let (mut client, _) = client_async(format!("wss://{}/", secured.house.address), stream).await.unwrap();
        client.send(Message::text(r#"{"action":"ping"}"#)).await.unwrap();
        let pong = timeout(PATIENCE, client.next()).await.unwrap().unwrap().unwrap();
        assert_eq!(pong, Message::text(r#"{"action":"pong"}"#));
    }
    let mut stream = secured.connect(&[]).await.unwrap();
    stream.write_all(b"GET /etc HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    let mut stream = secured.connect(&[]).await.unwrap();
    stream.write_all(b"\x16 no HTTP\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && !answer.contains("without TLS"), "{answer}");
}

#[tokio::test]
async fn http_2_only_gets_an_alert_and_plain_http_a_sentence() {
    let secured = secured(|_| {}).await;
    let error = secured.connect(&["h2"]).await.unwrap_err().to_string();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
    let answer = answer(&secured.house, &format!("{HEAD}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("connect with wss://"), "{answer}");
}

#[tokio::test]
async fn tls_handshake_and_head_share_one_deadline() {
    let limit = Duration::from_millis(1500);
    let secured = secured(|settings| settings.limits.handshake_timeout = limit).await;
    let mut silent = TcpStream::connect(secured.house.address).await.unwrap();
    assert_eq!(timeout(PATIENCE, silent.read(&mut [0; 64])).await.expect("it is closed").unwrap_or(0), 0);
    let socket = TcpStream::connect(secured.house.address).await.unwrap();
    tokio::time::sleep(limit * 2 / 3).await;
    let mut stream = secured.shake(socket, &[], &rustls::version::TLS13).await.unwrap();
    let shaken = std::time::Instant::now();
    stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("an answer").unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(shaken.elapsed() < limit * 2 / 3, "the head has what the TLS handshake has left: {:?}", shaken.elapsed());
}

#[tokio::test]
async fn those_refused_before_tls_get_an_alert() {
    let secured = secured(|settings| settings.limits.connections_per_ip_max = 1).await;
    let _held = secured.connect(&[]).await.unwrap();
    let error = secured.connect(&[]).await.unwrap_err().to_string();
    assert!(error.contains("InternalError"), "{error}");
}

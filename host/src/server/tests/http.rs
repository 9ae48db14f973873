//! What happens before a socket is a WebSocket.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::harness::{House, PATIENCE};

pub(super) const HEAD: &str = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

pub(super) async fn answer(house: &House, request: &str) -> String {
    let mut socket = TcpStream::connect(house.address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

#[tokio::test]
async fn faults_are_answered_in_http() {
    let house = House::open(|_| {}).await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "426"),
        (format!("{HEAD}Origin: https://evil.example\r\n\r\n"), "403"),
        (format!("{HEAD}X: {}\r\n\r\n", "x".repeat(9_000)), "431"),
        ("\u{16}\u{3}\u{1}hello".to_owned(), "400"),
        (HEAD.replacen("GET / ", "GET /etc ", 1) + "\r\n", "404"),
    ] {
        let answer = answer(&house, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer}");
        assert!(answer.contains("\r\n\r\n"), "a body says why: {answer}");
    }
}

#[tokio::test]
async fn a_head_that_trickles_in_times_out() {
    let house = House::open(|settings| settings.limits.handshake_timeout = Duration::from_millis(200)).await;
    assert!(answer(&house, "GET / HTTP/1.1\r\nHos").await.starts_with("HTTP/1.1 408 "));
}

#[tokio::test]
async fn a_frame_behind_the_head_is_not_lost() {
    let house = House::open(|_| {}).await;
    let mut socket = TcpStream::connect(house.address).await.unwrap();
    let mut request = format!("{HEAD}\r\n").into_bytes();
    let text = b"{\"action\":\"ping\"}";
    request.extend([0x81, 0x80 | u8::try_from(text.len()).unwrap(), 0, 0, 0, 0]);
    request.extend(text);
    socket.write_all(&request).await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"{\"action\":\"pong\"}") {
        assert_ne!(timeout(PATIENCE, socket.read_buf(&mut seen)).await.expect("a pong").unwrap(), 0);
    }
    assert!(seen.starts_with(b"HTTP/1.1 101 "));
}

#[tokio::test]
async fn connections_over_the_limits_are_refused() {
    let house = House::open(|settings| settings.limits.connections_per_ip_max = 1).await;
    let first = house.client().await;
    assert!(answer(&house, "").await.starts_with("HTTP/1.1 429 "));
    drop(first);
    super::harness::until("the place is free again", || house.sessions.open() == 0).await;
    let house = House::open(|settings| settings.limits.connections_max = 0).await;
    assert!(answer(&house, "").await.starts_with("HTTP/1.1 503 "));
}

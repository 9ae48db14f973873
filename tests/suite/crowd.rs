//! Promise: a crowd that is cut off comes back, and one who does not read holds up nobody. Sizes by the environment, for measuring.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::harness::app::{self, App};
use crate::harness::client::Client;
use crate::harness::{START_PATIENCE, number, procfs};

/// Connections of the storm, unless `PLUGSOCKET_STORM` says how many.
const STORM: u64 = 200;
/// Listeners of the broadcast, unless `PLUGSOCKET_LISTENERS` says how many.
const LISTENERS: u64 = 50;
const BROADCASTS: usize = 100;
/// A text of 8 000 bytes: a round is more than may wait for one connection.
const TEXT: &str = "\u{1F600}";
const TEXT_CHARS: usize = 1_900;
/// From each of the addresses 127.0.0.2 and on.
const PER_ADDRESS: u64 = 500;
/// Attempts of one client; each waits as `Retry-After` says, at least this long at first and doubling.
const ATTEMPTS_MAX: u32 = 60;
const BACKOFF: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);

const DROPPED: &str = "plugsocket_frames_dropped_total{reason=\"slow_consumer\"}";
/// Answers that fill the sockets of one who does not read before the others speak.
const UNREAD: usize = 60;
const UNREAD_BYTES: usize = 60_000;

type Socket = WebSocketStream<TcpStream>;

/// Connects and registers from an address of its own; answers how often it was refused before.
async fn come(url: String, index: u64) -> (Socket, u64) {
    let address: SocketAddr = crate::harness::frames::address(&url).parse().unwrap();
    let ip = Ipv4Addr::new(127, 0, 0, u8::try_from(2 + index / PER_ADDRESS).unwrap());
    for attempt in 0..ATTEMPTS_MAX {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((ip, 0).into()).unwrap();
        let mut pause = (BACKOFF * 2u32.pow(attempt.min(6))).min(BACKOFF_MAX);
        if let Ok(Ok(stream)) = timeout(START_PATIENCE, socket.connect(address)).await {
            match timeout(START_PATIENCE, client_async(&url, stream)).await.expect("an answer to the upgrade") {
                Ok((mut socket, _)) => {
                    let register = json!({"action": "register", "id": 1, "data": {"nickname": format!("crowd-{index}")}});
                    if socket.send(Message::text(register.to_string())).await.is_ok() && next(&mut socket, "registered").await {
                        return (socket, u64::from(attempt));
                    }
                }
                Err(Error::Http(answer)) => {
                    let after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
                    pause = pause.max(Duration::from_secs(after.unwrap_or(0)));
                }
                Err(_) => {}
            }
        }
        // Each a little different, so that they do not come back in step.
        tokio::time::sleep(pause + Duration::from_millis(index % 100)).await;
    }
    panic!("client {index} is not back after {ATTEMPTS_MAX} attempts");
}

/// Whether a frame of this action comes before an error or the end.
async fn next(socket: &mut Socket, action: &str) -> bool {
    while let Ok(Some(Ok(message))) = timeout(START_PATIENCE, socket.next()).await {
        let frame: Value = message.to_text().ok().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        if frame["action"] == action || frame["action"] == "error" {
            return frame["action"] == action;
        }
    }
    false
}

async fn all(url: &str, count: u64) -> (Vec<Socket>, u64) {
    let mut coming = JoinSet::new();
    (0..count).for_each(|index| drop(coming.spawn(come(url.to_owned(), index))));
    let came = coming.join_all().await;
    let refused = came.iter().map(|(_, refused)| refused).sum();
    (came.into_iter().map(|(socket, _)| socket).collect(), refused)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_reconnects() {
    let count = number("PLUGSOCKET_STORM").unwrap_or(STORM);
    let app = App::start_with(1, 1, |config| config.with("server.handler_calls_max", 1024));
    let (url, pid) = (app.urls().remove(0), app.servers[0].pid());
    let (sockets, _) = all(&url, count).await;
    for socket in sockets {
        // A reset, as when a network is gone: no close frame, no FIN.
        rustix::net::sockopt::set_socket_linger(socket.get_ref(), Some(Duration::ZERO)).unwrap();
    }
    let (begin, cpu) = (Instant::now(), procfs::cpu_us(pid));
    let (sockets, refused) = all(&url, count).await;
    let cpu = (procfs::cpu_us(pid) - cpu) / count;
    println!("{count} back after {:?}, {refused} refusals, {cpu} µs of the server's CPU for each", begin.elapsed());
    assert_eq!(sockets.len() as u64, count);
    let mut sockets = sockets;
    for socket in &mut sockets {
        socket.send(Message::text(r#"{"action":"ping"}"#)).await.unwrap();
        assert!(next(socket, "pong").await, "everybody is served");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_does_not_read_holds_up_nobody() {
    let count = usize::try_from(number("PLUGSOCKET_LISTENERS").unwrap_or(LISTENERS)).unwrap();
    let app = App::start_with(1, 1, |config| {
        config
            .with("limits.messages_per_second", 0)
            .with("limits.connections_per_ip_max", 10_000)
            .with("limits.slow_consumer", "drop_oldest")
    });
    let url = app.urls().remove(0);
    let mut without = round(&url, count).await;
    let slow = deaf(&url).await;
    let mut with = round(&url, count).await;
    for (name, times) in [("without", &mut without), ("with", &mut with)] {
        times.sort();
        let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
        println!("{count} listeners, {name} one who does not read: p50 {p50:?}, p99 {p99:?}");
        assert_eq!(times.len(), count * BROADCASTS, "everybody else gets everything");
    }
    let dropped: u64 = app::metric(&app.servers[0], DROPPED).parse().unwrap_or(0);
    assert!(dropped > 0, "frames of the one who does not read had to be dropped");
    drop(slow);
}

/// Enters the room with a small receive buffer and reads nothing more.
async fn deaf(url: &str) -> Socket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(crate::harness::frames::address(url).parse().unwrap()).await.unwrap();
    let (mut socket, _) = client_async(url, stream).await.unwrap();
    for (action, data, answer) in [("register", json!({"nickname": "deaf"}), "registered"), ("join", json!({"room": "crowd"}), "join")] {
        socket.send(Message::text(json!({"action": action, "id": 1, "data": data}).to_string())).await.unwrap();
        assert!(next(&mut socket, answer).await, "{action}");
    }
    for id in 0..UNREAD {
        let echo = json!({"action": "echo", "id": id + 2, "data": "x".repeat(UNREAD_BYTES)});
        timeout(START_PATIENCE, socket.send(Message::text(echo.to_string()))).await.expect("the server reads").unwrap();
    }
    socket
}

/// One speaks, all others hear: how long each copy took.
async fn round(url: &str, count: usize) -> Vec<Duration> {
    let mut listening = JoinSet::new();
    let begin = Instant::now();
    for index in 0..count {
        let mut client = Client::enter(url, &format!("listener-{index}")).await;
        client.request("join", json!({"room": "crowd"})).await;
        listening.spawn(async move {
            client.set_patience(START_PATIENCE);
            let mut times = Vec::new();
            while times.len() < BROADCASTS {
                let heard = client.next_action("chat_text").await;
                let text = heard["text"].as_str().unwrap();
                let sent: u64 = text.split(' ').next().unwrap().parse().unwrap();
                times.push(begin.elapsed() - Duration::from_nanos(sent));
            }
            times
        });
    }
    let mut speaker = Client::enter(url, "speaker").await;
    speaker.request("join", json!({"room": "crowd"})).await;
    for _ in 0..BROADCASTS {
        let text = format!("{} {}", begin.elapsed().as_nanos(), TEXT.repeat(TEXT_CHARS));
        speaker.request("chat_text", json!({"room": "crowd", "text": text})).await;
    }
    listening.join_all().await.into_iter().flatten().collect()
}

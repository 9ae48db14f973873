//! Promise: a flood on one connection, and a crowd that never says what it wants, cost the server little and others nothing.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::PATIENCE;
use crate::harness::calm::Calm;
use crate::harness::frames::{CONTINUE, FIN, PING, PONG, Raw, TEXT, address, frame};

/// Frames of a flood.
const FLOOD: usize = 100_000;
/// CPU that a flood may cost in a debug build, beside everything else the server does meanwhile.
const CPU_US_MAX: u64 = 2_000_000;
/// What one of them may cost.
const HALF_OPEN_KIB_MAX: u64 = 6;
/// Connections that never finish their handshake; fewer when the system allows fewer descriptors, and then the test says so.
const HALF_OPEN: u64 = 10_000;
/// From each of the addresses 127.0.0.2 and on.
const PER_ADDRESS: u64 = 500;

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_frames_is_ended() {
    let mut calm = Calm::start(|config| config).await;
    let ping = frame(FIN | 1, br#"{"action":"ping"}"#);
    let floods = [
        ("empty fragments", frame(TEXT, b""), frame(CONTINUE, b"")),
        ("fragments of a byte", frame(TEXT, b"x"), frame(CONTINUE, b"x")),
        ("pings", Vec::new(), frame(FIN | PING, &[7; 125])),
        ("pongs", Vec::new(), frame(FIN | PONG, b"")),
        ("messages", Vec::new(), ping),
    ];
    for (name, first, again) in floods {
        let cpu = calm.cpu_us();
        let mut raw = Raw::open(&calm.url);
        // Nothing is read while it runs: pongs and answers pile up.
        raw.send(&[first, again.repeat(FLOOD)].concat(), usize::MAX);
        let code = raw.hear_code();
        assert!(matches!(code, Some(4008 | 4103) | None), "{name}: {code:?}");
        let cpu = calm.cpu_us() - cpu;
        assert!(cpu < CPU_US_MAX, "{name}: {cpu} µs of CPU");
        println!("{FLOOD} {name}: closed with {code:?}, {cpu} µs of CPU");
        calm.check(name).await;
    }
    // Told, and no more than once a second: whoever sends so much must not fill the log as well.
    let server = &calm.app.servers[0];
    for cause in ["policy", "rate_limited"] {
        server.wait_line(&format!("cause=\"{cause}\""), PATIENCE);
    }
    let told = server.lines().iter().filter(|line| line.contains("refused: ")).count();
    assert!(told < 200, "{told} lines about refusals");
}

#[tokio::test(flavor = "multi_thread")]
async fn pongs_that_nobody_reads_are_not_kept() {
    let mut calm = Calm::start(|config| config.with("limits.messages_per_second", 0)).await;
    let mut raw = Raw::open(&calm.url);
    // Their pongs are 50 MiB; what the sockets hold of them is the kernel's.
    raw.send(&frame(FIN | PING, &[7; 125]).repeat(FLOOD * 4), usize::MAX);
    calm.check("pings without end").await;
    assert_eq!(raw.read_frame(), Some((FIN | PONG, vec![7; 125])), "the connection is still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_in_many_fragments_is_a_message() {
    let mut calm = Calm::start(|config| config).await;
    let mut raw = Raw::open(&calm.url);
    let text = format!(r#"{{"action":"ping","id":"{}"}}"#, "i".repeat(60));
    for _ in 0..20 {
        let mut sent = crate::harness::frames::fragments(TEXT, text.as_bytes(), 1);
        sent.extend(frame(FIN | PONG, b""));
        raw.send(&sent, usize::MAX);
        assert!(raw.read_frame().is_some_and(|(_, answer)| answer.starts_with(b"{\"action\":\"pong\"")));
    }
    calm.check("many fragments").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_half_open_connections() {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    // This process holds other tests' descriptors too.
    let count = HALF_OPEN.min(most.saturating_sub(1024).max(100));
    let mut calm = Calm::start(|config| {
        config.with("limits.handshake_timeout", "4s").with("limits.accepts_per_second", 0).with("limits.connections_per_ip_max", 500)
    })
    .await;
    let growth_max_kib = count * HALF_OPEN_KIB_MAX;
    // What the second flood needs is what the first has left behind: an allocator keeps it, and nothing else does.
    for round in ["first", "second"] {
        let open = half_open(&calm.url, count).await;
        println!("{} half-open connections of {HALF_OPEN} (descriptors: {most})", open.len());
        calm.check_within(&format!("half-open connections, {round} time"), growth_max_kib).await;
        let mut answer = [0; 32];
        let last = open.last().unwrap();
        tokio::time::timeout(Duration::from_secs(20), last.readable()).await.expect("an answer to half a head").unwrap();
        let bytes = last.try_read(&mut answer).unwrap();
        assert!(answer[..bytes].starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&answer[..bytes]));
        drop(open);
        calm.check_within("their end", growth_max_kib).await;
    }
}

async fn half_open(url: &str, count: u64) -> Vec<TcpStream> {
    let mut open = Vec::new();
    for index in 0..count {
        let last = u8::try_from(2 + index / PER_ADDRESS).unwrap();
        let stream = connect_from(Ipv4Addr::new(127, 0, 0, last), address(url)).await;
        stream.try_write(b"GET / HTTP/1.1\r\nHost: a\r\n").unwrap();
        open.push(stream);
    }
    open
}

async fn connect_from(ip: Ipv4Addr, to: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((ip, 0))).unwrap();
    tokio::time::timeout(PATIENCE, socket.connect(to.parse().unwrap())).await.expect("a connection in time").unwrap()
}

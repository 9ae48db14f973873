//! Promise: bytes that are no WebSocket, or break its rules, end that connection with the right words, and nobody else notices.

use std::io::Read;
use std::thread::sleep;
use std::time::Duration;

use serde_json::Value;

use crate::harness::calm::Calm;
use crate::harness::frames::{BINARY, CLOSE, CONTINUE, FIN, PING, Raw, TEXT, close, frame, unmasked, upgrade};

/// Pause between the bytes of a client that dawdles.
const PAUSE: Duration = Duration::from_millis(20);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_upgrade_is_refused_in_http() {
    let mut calm = Calm::start(|config| config.with("limits.handshake_timeout", "1s")).await;
    let requests = [
        ("POST", upgrade().replacen("GET", "POST", 1), "405"),
        ("another path", upgrade().replacen("GET /", "GET /etc/passwd", 1), "404"),
        ("an HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), "505"),
        ("a long header", upgrade().replacen("Host", &format!("X: {}\r\nHost", "x".repeat(100_000)), 1), "431"),
        ("many headers", upgrade().replacen("Host", &format!("{}Host", "X: y\r\n".repeat(500)), 1), "431"),
        ("no HTTP", "\u{16}\u{3}\u{1}".to_owned(), "400"),
        ("half a head", "GET / HTTP/1.1\r\nHos".to_owned(), "408"),
    ];
    for (name, request, status) in requests {
        let mut raw = Raw::connect(&calm.url);
        raw.send(request.as_bytes(), usize::MAX);
        let answer = raw.read_head();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{name}: {answer}");
        calm.check(name).await;
    }
    // Byte by byte, slower than the limit: however often something comes, the whole has one time.
    let mut raw = Raw::connect(&calm.url);
    for byte in upgrade().as_bytes().chunks(1) {
        raw.send(byte, 1);
        sleep(PAUSE);
    }
    assert!(raw.read_head().starts_with("HTTP/1.1 408 "), "a head that trickles in");
    calm.check("a head that trickles in").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_the_framing_is_closed_with_its_code() {
    let mut calm = Calm::start(|config| config).await;
    let long = |bytes: u64| [&[FIN | TEXT, 0xff][..], &bytes.to_be_bytes(), &[1, 2, 3, 4, 5]].concat();
    let faults = [
        ("an unmasked frame", unmasked(FIN | TEXT, b"{}"), 1002),
        ("reserved bits", frame(FIN | 0x70 | TEXT, b"{}"), 1002),
        ("a reserved opcode", frame(FIN | 3, b"{}"), 1002),
        ("a reserved control opcode", frame(FIN | 11, b""), 1002),
        ("a fragmented ping", frame(PING, b""), 1002),
        ("a long ping", frame(FIN | PING, &[0; 126]), 1002),
        ("nothing to continue", frame(FIN | CONTINUE, b"{}"), 1002),
        ("two starts", [frame(TEXT, b"{"), frame(FIN | TEXT, b"}")].concat(), 1002),
        ("bytes", frame(FIN | BINARY, b"{}"), 1003),
        ("half a character", [frame(TEXT, b"\"\xc3"), frame(FIN | CONTINUE, b"\"")].concat(), 1007),
        ("a surrogate over fragments", [frame(TEXT, b"\xed"), frame(CONTINUE, b"\xa0")].concat(), 1007),
        ("a close code that is none", close(1005, b""), 1002),
        ("half a close code", frame(FIN | CLOSE, &[3]), 1002),
        ("a close reason that is not UTF-8", close(1000, b"\xff"), 1007),
        ("a frame of 65 KiB", long(65 * 1024 + 1), 1009),
        ("a frame of 2^63 bytes", long(1 << 63), 1009),
        ("a frame of 2^64 bytes", long(u64::MAX), 1009),
        ("fragments over the limit", [frame(TEXT, &[b' '; 40_000]), frame(CONTINUE, &[b' '; 40_000])].concat(), 1009),
        ("JSON 200 000 deep", frame(FIN | TEXT, "[".repeat(200_000).as_bytes()), 1009),
    ];
    for (name, sent, code) in faults {
        let mut raw = Raw::open(&calm.url);
        raw.send(&sent, usize::MAX);
        assert_eq!(raw.hear().code, Some(Some(code)), "{name}");
        calm.check(name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_json_is_answered() {
    let mut calm = Calm::start(|config| config.with("limits.frame_in_max", "1MiB")).await;
    let mut raw = Raw::open(&calm.url);
    let deep = format!(r#"{{"action":"x","data":{}"#, "[".repeat(200_000));
    let closed = format!(r#"{{"action":"x","data":{}{}}}"#, "[".repeat(200_000), "]".repeat(200_000));
    let objects = format!(r#"{{"action":"x","data":{}"#, r#"{"a":"#.repeat(100_000));
    for (name, text) in [
        ("deep", deep.as_str()),
        ("deep and whole", &closed),
        ("deep objects", &objects),
        ("a key twice", r#"{"action":"ping","action":"ping"}"#),
        ("an id twice", r#"{"action":"ping","id":"1","id":"2"}"#),
        ("an action with a newline", r#"{"action":"a\nb"}"#),
        ("an action with a NUL", "{\"action\":\"a\\u0000b\"}"),
        ("a raw NUL", "{\"action\":\"a\u{0}b\"}"),
        ("half a surrogate", r#"{"action":"\ud800"}"#),
    ] {
        raw.send(&frame(FIN | TEXT, text.as_bytes()), usize::MAX);
        let (_, answer) = raw.read_frame().expect("an answer");
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer["data"]["code"], "bad_frame", "{name}: {answer}");
    }
    for id in ["a\nb", "a\u{0}b", "\u{7f}\u{1b}[2J"] {
        let ping = serde_json::json!({"action": "ping", "id": id}).to_string();
        // It comes in single bytes, each a write of its own.
        raw.send(&frame(FIN | TEXT, ping.as_bytes()), 1);
        let (_, answer) = raw.read_frame().expect("an answer");
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!((answer["action"].as_str(), answer["id"].as_str()), (Some("pong"), Some(id)));
    }
    calm.check("odd JSON").await;
    drop(raw);
    // A frame that never ends holds nothing but itself.
    let mut dawdler = Raw::open(&calm.url);
    dawdler.send(&frame(FIN | TEXT, &[b'x'; 1000])[..500], usize::MAX);
    calm.check("half a frame").await;
    dawdler.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(dawdler.stream.read_to_end(&mut Vec::new()).is_ok(), "it is let go");
}

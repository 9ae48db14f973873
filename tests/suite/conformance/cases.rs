//! The cases: what is sent, what comes back, and how the connection may end.

use crate::harness::frames::{BINARY, CLOSE, CONTINUE, FIN, PING, PONG, TEXT, close, fragments, frame};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const BAD: &[Option<u16>] = &[Some(1002)];
const NOT_UTF8: &[Option<u16>] = &[Some(1007)];

pub struct Case {
    pub name: String,
    pub sent: Vec<u8>,
    /// Opcode and payload of messages and pongs.
    pub messages: Vec<(u8, Vec<u8>)>,
    /// Any of these ends it rightly.
    pub codes: Vec<Option<u16>>,
}

/// The client closes normally at the end.
fn good(name: impl Into<String>, sent: &[Vec<u8>], messages: Vec<(u8, Vec<u8>)>) -> Case {
    Case { name: name.into(), sent: [sent.concat(), close(1000, b"")].concat(), messages, codes: vec![Some(1000)] }
}

/// The server fails the connection by itself.
fn bad(name: impl Into<String>, sent: &[Vec<u8>], messages: Vec<(u8, Vec<u8>)>, codes: &[Option<u16>]) -> Case {
    Case { name: name.into(), sent: sent.concat(), messages, codes: codes.to_vec() }
}

fn text(payload: &[u8]) -> Vec<u8> {
    frame(FIN | TEXT, payload)
}

fn said(payload: &[u8]) -> (u8, Vec<u8>) {
    (TEXT, payload.to_vec())
}

pub fn framing() -> Vec<Case> {
    let sizes = [0, 125, 126, 127, 128, 65_535, 65_536];
    let all = [TEXT, BINARY].into_iter().flat_map(|opcode| sizes.map(|size| (opcode, size)));
    all.map(|(opcode, size)| {
        let payload = if opcode == TEXT { vec![b'*'; size] } else { vec![0xfe; size] };
        good(format!("opcode {opcode}, {size} bytes"), &[frame(FIN | opcode, &payload)], vec![(opcode, payload)])
    })
    .collect()
}

pub fn pings() -> Vec<Case> {
    let pong = |payload: &[u8]| (PONG, payload.to_vec());
    let ping = |payload: &[u8]| frame(FIN | PING, payload);
    let mut cases: Vec<_> = [&b""[..], b"hello", &[0, 255, 254, 253, 252, 251, 0, 255], &[0xfe; 125]]
        .into_iter()
        .map(|payload| good(format!("a ping of {} bytes", payload.len()), &[ping(payload)], vec![pong(payload)]))
        .collect();
    cases.push(bad("a ping of 126 bytes", &[ping(&[0xfe; 126])], vec![], BAD));
    cases.push(good("a pong unasked", &[frame(FIN | PONG, b"")], vec![]));
    cases.push(good("a pong unasked, with payload", &[frame(FIN | PONG, b"unasked")], vec![]));
    cases.push(good("a pong unasked, then a ping", &[frame(FIN | PONG, b"unasked"), ping(b"asked")], vec![pong(b"asked")]));
    let ten: Vec<Vec<u8>> = (0..10u8).map(|number| vec![number; 3]).collect();
    let pings: Vec<_> = ten.iter().map(|payload| ping(payload)).collect();
    cases.push(good("ten pings", &pings, ten.iter().map(|payload| pong(payload)).collect()));
    cases
}

pub fn reserved_bits() -> Vec<Case> {
    let before = || (text(b"before"), vec![said(b"before")]);
    let mut cases: Vec<_> = (1..8u8).map(|bits| bad(format!("bits {bits}"), &[frame(FIN | bits << 4 | TEXT, b"x")], vec![], BAD)).collect();
    for bits in 1..8u8 {
        for opcode in [TEXT, BINARY, CLOSE, PING, PONG] {
            let (sent, heard) = before();
            let faulty = frame(FIN | bits << 4 | opcode, &[3, 232]);
            cases.push(bad(format!("bits {bits}, opcode {opcode}, behind a message"), &[sent, faulty], heard, BAD));
        }
    }
    cases
}

pub fn reserved_opcodes() -> Vec<Case> {
    let opcodes = (3..8u8).chain(11..16);
    let both = opcodes.flat_map(|opcode| [&b""[..], b"payload"].map(|payload| (opcode, payload)));
    both.flat_map(|(opcode, payload)| {
        let faulty = || frame(FIN | opcode, payload);
        [
            bad(format!("opcode {opcode}, {} bytes", payload.len()), &[faulty()], vec![], BAD),
            bad(
                format!("opcode {opcode} behind a message"),
                &[text(b"before"), faulty(), frame(FIN | PING, b"")],
                vec![said(b"before")],
                BAD,
            ),
        ]
    })
    .collect()
}

pub fn fragmentation() -> Vec<Case> {
    let first = |payload: &[u8]| frame(TEXT, payload);
    let more = |payload: &[u8]| frame(CONTINUE, payload);
    let last = |payload: &[u8]| frame(FIN | CONTINUE, payload);
    let ping = || frame(FIN | PING, b"ping");
    let pong = || (PONG, b"ping".to_vec());
    let good_two = || vec![pong(), said(b"onetwo")];
    let five = [first(b"1"), more(b"2"), ping(), more(b"3"), more(b"4"), ping(), last(b"5")];
    let mut cases = vec![
        bad("a fragmented ping", &[frame(PING, b"a"), last(b"b")], vec![], BAD),
        bad("a fragmented pong", &[frame(PONG, b"a"), last(b"b")], vec![], BAD),
        good("two fragments", &[first(b"one"), last(b"two")], vec![said(b"onetwo")]),
        good("a ping between two fragments", &[first(b"one"), ping(), last(b"two")], good_two()),
        good("five fragments and two pings", &five, vec![pong(), pong(), said(b"12345")]),
        good("empty fragments", &[first(b""), more(b""), last(b"")], vec![said(b"")]),
        good("empty fragments around one", &[first(b""), more(b"x"), last(b"")], vec![said(b"x")]),
        good("binary fragments", &[frame(BINARY, &[255]), last(&[254])], vec![(BINARY, vec![255, 254])]),
        good("messages behind each other", &[first(b"a"), last(b"b"), text(b"c")], vec![said(b"ab"), said(b"c")]),
        good("a pong between", &[first(b"a"), frame(FIN | PONG, b"x"), last(b"b")], vec![said(b"ab")]),
        bad("two starts", &[first(b"a"), text(b"b")], vec![], BAD),
        bad("two unfinished starts", &[first(b"a"), first(b"b"), last(b"c")], vec![], BAD),
        bad("text, then binary", &[first(b"a"), frame(FIN | BINARY, b"b")], vec![], BAD),
        bad("a message, then a continuation", &[first(b"a"), last(b"b"), last(b"c")], vec![said(b"ab")], BAD),
        bad("a message, then an unfinished continuation", &[first(b"a"), last(b"b"), more(b"c")], vec![said(b"ab")], BAD),
        bad("a fragmented close", &[frame(CLOSE, &[3, 232]), last(b"")], vec![], BAD),
    ];
    for (fin, name) in [(FIN, "last"), (0, "unfinished")] {
        cases.push(bad(format!("nothing to continue, {name}"), &[frame(fin, b"a"), text(b"b")], vec![], BAD));
        cases.push(bad(format!("nothing to continue, {name}, behind a message"), &[text(b"a"), frame(fin, b"b")], vec![said(b"a")], BAD));
    }
    cases
}

pub fn utf8() -> Vec<Case> {
    let valid: [&[u8]; 14] = [
        "κόσμε".as_bytes(),
        b"\x00",
        "\u{80}\u{7ff}".as_bytes(),
        "\u{800}\u{ffff}".as_bytes(),
        "\u{10000}\u{10ffff}".as_bytes(),
        "\u{d7ff}\u{e000}".as_bytes(),
        "\u{fffd}".as_bytes(),
        "\u{fffe}\u{ffff}\u{1fffe}\u{1ffff}\u{10fffe}".as_bytes(),
        "\u{feff}".as_bytes(),
        "\u{fdd0}\u{fdef}".as_bytes(),
        "\u{7f}".as_bytes(),
        "Hello-µ@ßöäüàá-UTF-8!!".as_bytes(),
        "\u{1F469}\u{200D}\u{1F680}".as_bytes(),
        "日本語".as_bytes(),
    ];
    let invalid: [&[u8]; 25] = [
        b"\x80",
        b"\xbf",
        b"\x80\xbf\x80\xbf",
        b"\xc0 ",
        b"\xc3",
        b"\xe2\x82",
        b"\xf0\x9d\x84",
        b"\xfe",
        b"\xff",
        b"\xfe\xfe\xff\xff",
        b"\xc0\xaf",
        b"\xe0\x80\xaf",
        b"\xf0\x80\x80\xaf",
        b"\xf8\x80\x80\x80\xaf",
        b"\xfc\x80\x80\x80\x80\xaf",
        b"\xc1\xbf",
        b"\xe0\x9f\xbf",
        b"\xf0\x8f\xbf\xbf",
        b"\xed\xa0\x80",
        b"\xed\xbf\xbf",
        b"\xed\xa0\x80\xed\xb0\x80",
        b"\xf4\x90\x80\x80",
        b"\xf5\x80\x80\x80",
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
        b"\xc0\x80",
    ];
    let mut cases = Vec::new();
    for payload in valid {
        let name = String::from_utf8_lossy(payload);
        cases.push(good(format!("{name:?}"), &[text(payload)], vec![said(payload)]));
        cases.push(good(format!("{name:?} by octets"), &[fragments(TEXT, payload, 1)], vec![said(payload)]));
    }
    for payload in invalid {
        cases.push(bad(format!("{payload:x?}"), &[text(payload)], vec![], NOT_UTF8));
        cases.push(bad(format!("{payload:x?} by octets"), &[fragments(TEXT, payload, 1)], vec![], NOT_UTF8));
        // The message is never finished: fragments are judged as they come.
        let around = [b"good ", payload, b" more"].concat();
        cases.push(bad(format!("{payload:x?} in a fragment"), &[frame(TEXT, b"begin "), frame(CONTINUE, &around)], vec![], NOT_UTF8));
        cases.push(good(format!("{payload:x?} as bytes"), &[frame(FIN | BINARY, payload)], vec![(BINARY, payload.to_vec())]));
    }
    cases
}

pub fn closing() -> Vec<Case> {
    let closed = |name: String, payload: &[u8], code: Option<u16>| bad(name, &[frame(FIN | CLOSE, payload)], vec![], &[code]);
    let coded = |code: u16, reason: &[u8]| [&code.to_be_bytes(), reason].concat();
    let mut cases = vec![
        good("a message before", &[text(b"a")], vec![said(b"a")]),
        bad("a message behind", &[close(1000, b""), text(b"a")], vec![], &[Some(1000)]),
        bad("a ping behind", &[close(1000, b""), frame(FIN | PING, b"")], vec![], &[Some(1000)]),
        bad("a second close", &[close(1000, b""), close(1000, b"")], vec![], &[Some(1000)]),
        bad("within a message", &[frame(TEXT, b"a"), close(1000, b""), frame(FIN, b"b")], vec![], &[Some(1000)]),
        bad("behind 256 KiB", &[text(&vec![b'x'; 256 * KIB]), close(1000, b"")], vec![said(&vec![b'x'; 256 * KIB])], &[Some(1000)]),
        closed("without payload".to_owned(), b"", None),
        closed("one byte".to_owned(), b"\x03", Some(1002)),
        closed("a code".to_owned(), &coded(1000, b""), Some(1000)),
        closed("a reason".to_owned(), &coded(1000, b"Hello"), Some(1000)),
        closed("125 bytes".to_owned(), &coded(1000, &[b'*'; 123]), Some(1000)),
        closed("126 bytes".to_owned(), &coded(1000, &[b'*'; 124]), Some(1002)),
        closed("a reason that is not UTF-8".to_owned(), &coded(1000, b"\xce\xba\xed\xa0\x80"), Some(1007)),
    ];
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999] {
        cases.push(closed(format!("{code}"), &coded(code, b""), Some(code)));
    }
    for code in [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65_535] {
        cases.push(closed(format!("{code}"), &coded(code, b""), Some(1002)));
        cases.push(closed(format!("{code} with a reason"), &coded(code, b"why"), Some(1002)));
    }
    cases
}

pub fn limits() -> Vec<Case> {
    let mut cases = Vec::new();
    for opcode in [TEXT, BINARY] {
        let payload = |bytes: usize| vec![b'*'; bytes];
        for bytes in [64 * KIB, 256 * KIB, MIB, 4 * MIB] {
            cases.push(good(format!("{bytes} bytes"), &[frame(FIN | opcode, &payload(bytes))], vec![(opcode, payload(bytes))]));
        }
        for part in [64, 256, KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB] {
            let sent = fragments(opcode, &payload(MIB), part);
            cases.push(good(format!("1 MiB by {part}"), &[sent], vec![(opcode, payload(MIB))]));
        }
        for bytes in [0, 16, 64, 256, KIB] {
            let sent: Vec<_> = (0..100).map(|_| frame(FIN | opcode, &payload(bytes))).collect();
            cases.push(good(format!("100 of {bytes} bytes"), &sent, vec![(opcode, payload(bytes)); 100]));
        }
    }
    cases.push(good("16 MiB", &[frame(FIN | BINARY, &vec![7; 16 * MIB])], vec![(BINARY, vec![7; 16 * MIB])]));
    // Judged by its head: nothing of the payload is waited for.
    let too_long = frame(FIN | BINARY, &vec![7; 16 * MIB + 1])[..64].to_vec();
    cases.push(bad("16 MiB and a byte", &[too_long], vec![], &[Some(1009)]));
    cases
}

pub fn automatic_fragmentation() -> Vec<Case> {
    let payload = vec![b'*'; 65_536];
    vec![good("64 KiB by 1300", &[fragments(TEXT, &payload, 1300)], vec![(TEXT, payload)])]
}

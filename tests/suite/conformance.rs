//! Promise: the server speaks RFC 6455. The groups are those of the public Autobahn test suite (its list of cases is documented at
//! crossbar.io/autobahn), put anew as a table of bytes; `docs/protocol.md` says how to run that suite itself.

mod cases;

use crate::harness::config::Config;
use crate::harness::frames::{FIN, Raw, TEXT, frame, unmasked};
use crate::harness::process::Process;
use cases::Case;

const STEPS: [usize; 2] = [usize::MAX, 1];

fn echo() -> Process {
    let config = Config::chat("memory").with("limits.frame_in_max", "16MiB").with("limits.messages_per_second", 0);
    // The folder goes with `config`; the process has read it by the time it announces itself.
    let process = Process::program("server", &["--echo-frames", "--config", config.path()]);
    process.wait_line("(echoing frames)", crate::harness::START_PATIENCE);
    process
}

/// Runs every case, and all of a group before anything is said of them.
fn run(group: &str, cases: &[Case], steps: &[usize]) {
    let mut process = echo();
    let url = process.ws_url();
    let mut failed = Vec::new();
    for case in cases {
        for step in steps {
            let mut raw = Raw::open(&url);
            raw.send(&case.sent, *step);
            let heard = raw.hear();
            let is_code_right = heard.code.is_some_and(|code| case.codes.contains(&code));
            if heard.messages != case.messages || !is_code_right {
                let lengths: Vec<_> = heard.messages.iter().map(|(opcode, payload)| (opcode, payload.len())).collect();
                failed.push(format!("{} (by {step} bytes): {lengths:?}, close {:?} instead of {:?}", case.name, heard.code, case.codes));
            }
        }
    }
    println!("{group}: {} cases, {} runs, {} failed", cases.len(), cases.len() * steps.len(), failed.len());
    assert!(failed.is_empty(), "{group}:\n{}", failed.join("\n"));
    assert!(process.terminate(crate::harness::PATIENCE).success());
}

#[test]
fn framing() {
    run("1 framing", &cases::framing(), &[usize::MAX, 997]);
}

#[test]
fn pings_and_pongs() {
    run("2 pings and pongs", &cases::pings(), &STEPS);
}

#[test]
fn reserved_bits() {
    run("3 reserved bits", &cases::reserved_bits(), &STEPS);
}

#[test]
fn reserved_opcodes() {
    run("4 reserved opcodes", &cases::reserved_opcodes(), &STEPS);
}

#[test]
fn fragmentation() {
    run("5 fragmentation", &cases::fragmentation(), &STEPS);
}

#[test]
fn utf8() {
    run("6 UTF-8", &cases::utf8(), &STEPS);
}

#[test]
fn closing() {
    run("7 closing", &cases::closing(), &STEPS);
}

#[test]
fn limits() {
    run("9 limits", &cases::limits(), &[usize::MAX]);
}

#[test]
fn fragments_of_our_own_choice() {
    run("10 automatic fragmentation", &cases::automatic_fragmentation(), &[usize::MAX, 1300]);
}

#[test]
fn masking() {
    let bad = |name: &str, sent: Vec<u8>| Case { name: name.to_owned(), sent, messages: Vec::new(), codes: vec![Some(1002)] };
    let cases = [
        bad("an unmasked text", unmasked(FIN | TEXT, b"hello")),
        bad("an unmasked ping", unmasked(FIN | 9, b"")),
        bad("an unmasked close", unmasked(FIN | 8, &[3, 232])),
        Case {
            messages: vec![(TEXT, b"a".to_vec())],
            ..bad("one behind a good frame", [frame(FIN | TEXT, b"a"), unmasked(FIN | TEXT, b"b")].concat())
        },
    ];
    run("masking", &cases, &STEPS);
}

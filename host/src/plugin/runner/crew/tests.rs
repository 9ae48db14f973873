//! Threads of a runner in this process: who reads, who runs what, and what is written when. The host is the test.

use std::io::{ErrorKind, Read as _, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use bytes::Bytes;
use plugsocket_plugin::call::HostOperation;

use super::super::waiting::QUICK;
use super::*;
use crate::plugin::library::Host as _;

const SOON: Duration = Duration::from_secs(10);
/// So long a call must not hold up others; the machine may be busy.
const NOT_LONG: Duration = Duration::from_secs(2);

type Script = dyn Fn(&Runner, u64, &[u8]) -> Answer + Send + Sync;

struct Scripted {
    runner: Arc<Runner>,
    script: Arc<Script>,
}

impl Subject for Scripted {
    fn call(&self, token: u64, _operation: Operation, input: &[u8]) -> Answer {
        (self.script)(&self.runner, token, input)
    }

    fn shutdown(self) {}
}

struct Bench {
    host: UnixStream,
    input: BytesMut,
    crumbs: Crumbs,
    runner: Arc<Runner>,
    left: mpsc::Receiver<Left>,
}

fn done(bytes: &[u8]) -> Answer {
    Answer { status: Status::Done, bytes: Bytes::copy_from_slice(bytes) }
}

/// A runner that runs so many calls at once. It lives as long as the program: it would end it with its host.
fn bench(calls_max: usize, script: impl Fn(&Runner, u64, &[u8]) -> Answer + Send + Sync + 'static) -> Bench {
    let (host, socket) = UnixStream::pair().unwrap();
    std::mem::forget(host.try_clone().unwrap());
    host.set_read_timeout(Some(SOON)).unwrap();
    let socket: &'static UnixStream = Box::leak(Box::new(socket));
    let (crumbs, memory) = Crumbs::create(calls_max + 1).unwrap();
    let theirs: &'static Crumbs = Box::leak(Box::new(Crumbs::open(&memory, calls_max + 1).unwrap()));
    let out: &'static Out = Box::leak(Box::new(Out::new(socket)));
    out.keep_at(theirs);
    let runner = Arc::new(Runner::new(socket, BytesMut::new(), out, theirs, calls_max));
    let (leaving, left) = mpsc::channel();
    let script: Arc<Script> = Arc::new(script);
    for number in 1..=calls_max + 1 {
        let (subject, leaving) = (Scripted { runner: Arc::clone(&runner), script: Arc::clone(&script) }, leaving.clone());
        thread::spawn(move || {
            faults::name_thread(number as u64);
            leaving.send(subject.runner.serve(number, &subject)).unwrap();
        });
    }
    let watched = Arc::clone(&runner);
    thread::spawn(move || watched.watch());
    Bench { host, input: BytesMut::new(), crumbs, runner, left }
}

impl Bench {
    fn tell(&mut self, frames: &[(Kind, u64, &str)]) {
        let mut bytes = Vec::new();
        for (kind, number, payload) in frames {
            Head::call(*kind, Operation::Action as u8, *number).put(&mut bytes, payload.as_bytes());
        }
        self.host.write_all(&bytes).unwrap();
    }

    /// Calls of which each is to run behind the one before it.
    fn tell_chain(&mut self, calls: &[(u64, &str)]) {
        let (mut bytes, mut before) = (Vec::new(), 0);
        for (number, payload) in calls {
            Head { request: before, ..Head::call(Kind::Call, Operation::Action as u8, *number) }.put(&mut bytes, payload.as_bytes());
            before = *number;
        }
        self.host.write_all(&bytes).unwrap();
    }

    fn hear_of(&mut self, count: usize) -> Vec<(Kind, u64)> {
        (0..count).map(|_| self.hear()).map(|frame| (frame.kind, frame.number)).collect()
    }

    fn hear(&mut self) -> Frame {
        loop {
            if let Some(frame) = take(&mut self.input).unwrap() {
                return frame;
            }
            let mut chunk = [0; 4096];
            let count = match self.host.read(&mut chunk) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue, // The machine was stopped, and goes on.
                read => read.expect("it says nothing"),
            };
            assert_ne!(count, 0);
            self.input.extend_from_slice(&chunk[..count]);
        }
    }

    fn answers(&mut self, count: usize) -> Vec<u64> {
        let frames = (0..count).map(|_| self.hear());
        let mut numbers: Vec<u64> =
            frames.map(|frame| if frame.kind == Kind::Answer { frame.number } else { panic!("{frame:?}") }).collect();
        numbers.sort_unstable();
        numbers
    }
}

/// A gate that opens once, for all.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        drop(self.0.1.wait_while(self.0.0.lock().unwrap(), |is_open| !*is_open).unwrap());
    }
}

#[test]
fn a_call_that_does_not_come_back_holds_up_neither_answers_nor_calls() {
    let gate = Gate::default();
    let held = gate.clone();
    let mut bench = bench(2, move |_, _, input| {
        if input == b"slow" {
            held.pass();
        }
        done(input)
    });
    let began = Instant::now();
    bench.tell(&[(Kind::Call, 1, "fast"), (Kind::Call, 2, "slow"), (Kind::Call, 3, "fast"), (Kind::Call, 4, "fast")]);
    assert_eq!(bench.answers(3), [1, 3, 4]);
    bench.tell(&[(Kind::Call, 5, "fast")]);
    assert_eq!(bench.answers(1), [5]);
    assert!(began.elapsed() < NOT_LONG, "{:?}", began.elapsed());
    assert_eq!(bench.crumbs.calls(), [2]);
    gate.open();
    assert_eq!(bench.answers(1), [2]);
}

#[test]
fn an_alarm_that_rings_early_rings_again() {
    let gate = Gate::default();
    let held = gate.clone();
    let mut bench = bench(2, move |runner, _, input| {
        if input == b"slow" {
            // As if the leader had lost the processor between the alarm and its turn.
            runner.lock().turn = Some(Instant::now() + Duration::from_millis(5));
            assert!(runner.set_alarm(Duration::from_nanos(1)));
            held.pass();
        }
        done(input)
    });
    // Whoever is only on its way to rest would take what waits.
    while bench.runner.lock().resting < 2 {
        thread::sleep(Duration::from_millis(1));
    }
    let began = Instant::now();
    bench.tell(&[(Kind::Call, 1, "slow"), (Kind::Call, 2, "fast")]);
    assert_eq!(bench.answers(1), [2]);
    assert!(began.elapsed() < NOT_LONG, "{:?}", began.elapsed());
    gate.open();
    assert_eq!(bench.answers(1), [1]);
}

#[test]
fn calls_that_block_run_at_once_and_no_more_than_may() {
    let (gate, inside, most) = (Gate::default(), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (held, count, peak) = (gate.clone(), Arc::clone(&inside), Arc::clone(&most));
    let mut bench = bench(8, move |_, _, input| {
        peak.fetch_max(count.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        held.pass();
        count.fetch_sub(1, Ordering::SeqCst);
        done(input)
    });
    let calls: Vec<_> = (1..=20).map(|number| (Kind::Call, number, "")).collect();
    bench.tell(&calls);
    let began = Instant::now();
    while inside.load(Ordering::SeqCst) < 8 {
        assert!(began.elapsed() < NOT_LONG, "{inside:?} run");
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(bench.crumbs.calls().len(), 8);
    gate.open();
    assert_eq!(bench.answers(20), (1..=20).collect::<Vec<_>>());
    assert_eq!(most.load(Ordering::SeqCst), 8);
}

#[test]
fn a_call_that_asks_the_host_reads_the_answer_itself_and_holds_up_nobody() {
    let mut bench = bench(2, |runner, token, input| match input {
        b"ask" => runner.invoke(token, HostOperation::Store as u32, Bytes::from_static(b"?")),
        _ => done(input),
    });
    for round in 0..50 {
        let number = round * 10 + 1;
        bench.tell(&[(Kind::Call, number, "ask"), (Kind::Call, number + 1, "fast")]);
        let (first, second) = (bench.hear(), bench.hear());
        let (request, answer) = if first.kind == Kind::Request { (first, second) } else { (second, first) };
        assert_eq!((request.kind, request.number, answer.kind, answer.number), (Kind::Request, number, Kind::Answer, number + 1));
        bench.tell(&[(Kind::Call, number + 2, "fast")]);
        assert_eq!(bench.answers(1), [number + 2], "the one that waits reads");
        let mut bytes = Vec::new();
        Head { kind: Kind::Response, code: Status::Done as u8, number, request: request.request }.put(&mut bytes, b"!");
        bench.host.write_all(&bytes).unwrap();
        let answer = bench.hear();
        assert_eq!((answer.kind, answer.number, &answer.payload[..]), (Kind::Answer, number, &b"!"[..]));
    }
    bench.tell(&[(Kind::Call, 1001, "ask")]);
    assert_eq!(bench.hear().kind, Kind::Request);
    bench.tell(&[(Kind::Cancel, 1001, "")]);
    assert_eq!(bench.hear().kind, Kind::Running);
    let given_up = bench.hear();
    assert_eq!((given_up.kind, given_up.code), (Kind::Answer, Status::Retry as u8));
}

#[test]
fn what_is_cancelled_is_known_to_run_or_never_does() {
    let gate = Gate::default();
    let held = gate.clone();
    let mut bench = bench(1, move |_, _, input| {
        held.pass();
        done(input)
    });
    bench.tell(&[(Kind::Call, 1, ""), (Kind::Call, 2, ""), (Kind::Call, 3, "")]);
    while bench.crumbs.calls() != [1] {
        thread::sleep(Duration::from_millis(1));
    }
    bench.tell(&[(Kind::Cancel, 2, ""), (Kind::Cancel, 1, "")]);
    let (second, first) = (bench.hear(), bench.hear());
    assert_eq!((second.kind, second.number, first.kind, first.number), (Kind::Cancelled, 2, Kind::Running, 1));
    gate.open();
    assert_eq!(bench.answers(2), [1, 3]);
}

#[test]
fn a_chain_runs_in_order_until_a_call_does_not_go_well_or_takes_long() {
    let mut bench = bench(3, |_, _, input| match input {
        b"bad" => Answer { status: Status::Retry, bytes: Bytes::new() },
        b"rejected" => Answer { status: Status::Rejected, bytes: Bytes::new() },
        b"slow" => {
            thread::sleep(QUICK);
            done(input)
        }
        _ => done(input),
    });
    // On a busy machine any call may seem slow: what is behind it comes back then.
    let mut run = |first: u64, second: &str| {
        bench.tell_chain(&[(first, ""), (first + 1, second), (first + 2, ""), (first + 3, "")]);
        let mut heard = bench.hear_of(4);
        heard.sort_unstable_by_key(|(_, number)| *number);
        let answered = heard.iter().take_while(|(kind, _)| *kind == Kind::Answer).count();
        let kind = |place| if place < answered { Kind::Answer } else { Kind::NotBegun };
        assert_eq!(heard, [0, 1, 2, 3].map(|place| (kind(place), first + place as u64)), "{second}");
        answered
    };
    for (what, most) in [("", 4), ("bad", 2), ("rejected", 2), ("slow", 2)] {
        let counts: Vec<usize> = (1..=50).map(|round| run(1000 + 10 * round, what)).collect();
        assert_eq!(counts.iter().max(), Some(&most), "{what}");
    }
    // What it would have to come behind is not there any more, and nobody knows how it went.
    bench.tell(&[(Kind::Call, 51, "")]);
    assert_eq!(bench.answers(1), [51]);
    let mut late = Vec::new();
    Head { request: 51, ..Head::call(Kind::Call, Operation::Action as u8, 52) }.put(&mut late, b"");
    bench.host.write_all(&late).unwrap();
    assert_eq!(bench.hear_of(1), [(Kind::NotBegun, 52)]);
}

#[test]
fn calls_behind_one_that_is_cancelled_or_hangs_are_given_back() {
    let gate = Gate::default();
    let held = gate.clone();
    let mut bench = bench(2, move |_, _, input| {
        if input == b"slow" {
            held.pass();
        }
        done(input)
    });
    bench.tell_chain(&[(1, "slow"), (2, ""), (3, ""), (4, "")]);
    while bench.crumbs.calls() != [1] {
        thread::sleep(Duration::from_millis(1));
    }
    // They wait for the call before them, or come back; they don't run, whoever is free.
    bench.tell(&[(Kind::Call, 5, "")]);
    let mut heard = Vec::new();
    while heard.last() != Some(&(Kind::Answer, 5)) {
        heard.extend(bench.hear_of(1));
    }
    thread::sleep(QUICK);
    gate.open();
    heard.extend(bench.hear_of(5 - heard.len()));
    heard.sort_unstable_by_key(|(_, number)| *number);
    let [answered, not_begun] = [Kind::Answer, Kind::NotBegun].map(|kind| move |number| (kind, number));
    assert_eq!(heard, [answered(1), not_begun(2), not_begun(3), not_begun(4), answered(5)]);

    let gate = Gate::default();
    let held = gate.clone();
    let mut bench = self::bench(1, move |_, _, input| {
        held.pass();
        done(input)
    });
    bench.tell(&[(Kind::Call, 1, "")]);
    while bench.crumbs.calls() != [1] {
        thread::sleep(Duration::from_millis(1));
    }
    bench.tell_chain(&[(2, ""), (3, ""), (4, ""), (5, "")]);
    bench.tell(&[(Kind::Cancel, 4, ""), (Kind::Cancel, 2, "")]);
    let told = bench.hear_of(4);
    assert_eq!(told, [(Kind::NotBegun, 5), (Kind::Cancelled, 4), (Kind::NotBegun, 3), (Kind::Cancelled, 2)]);
    gate.open();
    assert_eq!(bench.answers(1), [1]);
}

#[test]
fn an_answer_that_is_not_written_yet_is_kept_for_a_host_that_finds_its_runner_dead() {
    let mut bench = bench(2, |runner, _, input| if input == b"look" { done(&runner.crumbs.kept()) } else { done(input) });
    let mut is_kept = |first: u64| {
        bench.tell_chain(&[(first, "first"), (first + 1, "look")]);
        let frames = [bench.hear(), bench.hear()];
        let look = frames.iter().find(|frame| (frame.kind, frame.number) == (Kind::Answer, first + 1));
        let kept = look.and_then(|look| take(&mut BytesMut::from(&look.payload[..])).ok().flatten());
        kept.is_some_and(|kept| (kept.kind, kept.number, &kept.payload[..]) == (Kind::Answer, first, &b"first"[..]))
    };
    // When the machine is busy it may have been written before.
    assert!((1..=100).any(|round| is_kept(2 * round)));
    let began = Instant::now();
    while !bench.crumbs.kept().is_empty() {
        assert!(began.elapsed() < SOON, "kept for ever");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn after_the_close_all_threads_leave_when_the_last_call_has_ended_and_one_reads_on() {
    let gate = Gate::default();
    let held = gate.clone();
    let mut bench = bench(3, move |_, _, input| {
        held.pass();
        done(input)
    });
    bench.tell(&[(Kind::Call, 1, ""), (Kind::Call, 2, ""), (Kind::Call, 3, ""), (Kind::Call, 4, ""), (Kind::Close, 0, "")]);
    let reading = bench.left.recv_timeout(SOON).unwrap();
    assert_eq!(reading, Left::Reading);
    assert!(bench.left.recv_timeout(Duration::from_millis(50)).is_err(), "calls run");
    gate.open();
    assert_eq!(bench.answers(4), [1, 2, 3, 4]);
    for _ in 0..3 {
        assert_eq!(bench.left.recv_timeout(SOON).unwrap(), Left::Over);
    }
}

//! Real runners of the chat plugin, ended in ways that need no plugin of their own; what plugins do to them is the suite's.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use plugsocket_plugin::call::{HostOperation, Operation, Status, StoreAnswer};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::*;
use crate::plugin::HostSink;
use crate::plugin::testing::{chat_library, launcher};

const SOON: Duration = Duration::from_secs(20);

/// Answers every request, after a permit if it has a gate.
#[derive(Default)]
struct Sink {
    gate: Option<Arc<tokio::sync::Semaphore>>,
    /// Every answer, when it is not what the store says.
    answer: Option<Bytes>,
    asked: AtomicUsize,
}

#[async_trait]
impl HostSink for Sink {
    async fn request(&self, _operation: HostOperation, _input: Bytes) -> Answer {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if let Some(gate) = &self.gate {
            gate.acquire().await.unwrap().forget();
        }
        let nothing = || serde_json::to_vec(&StoreAnswer::Value(None)).unwrap().into();
        Answer { status: Status::Done, bytes: self.answer.clone().unwrap_or_else(nothing) }
    }
}

struct Bench {
    runners: Arc<Runners>,
    events: mpsc::UnboundedReceiver<RunnerEvent>,
}

async fn bench(settings: &str) -> Bench {
    bench_of(chat_library(), settings).await
}

async fn bench_of(library: PathBuf, settings: &str) -> Bench {
    let (told, events) = mpsc::unbounded_channel();
    let options = RunnersOptions {
        plugin: "chat".into(),
        version: "v1".into(),
        library,
        role: Role::Actions,
        config: Map::new(),
        settings: toml::from_str(settings).unwrap(),
        launcher: launcher(),
        events: told,
    };
    let (runners, manifest) = time::timeout(SOON, Runners::start(options)).await.unwrap().unwrap();
    assert_eq!(manifest.name, "chat");
    Bench { runners, events }
}

fn message(action: &str, data: &Value) -> Bytes {
    json!({"action": action, "connection_id": "c", "data": data, "meta": {"message_id": "m-1"}}).to_string().into()
}

impl Bench {
    fn call(&self, action: &str, data: &Value, sink: &Arc<Sink>) -> impl Future<Output = Result<Answer, CallError>> + use<> {
        let (runners, call) = (Arc::clone(&self.runners), Call::new(Operation::Action, message(action, data), Arc::clone(sink) as _));
        async move { time::timeout(SOON, runners.call(call)).await.expect("the call hangs") }
    }

    /// A call that waits for its sink, and then rejects the message: nobody has joined a room.
    fn held(&self) -> (Arc<Sink>, tokio::task::JoinHandle<Result<Answer, CallError>>) {
        let sink = Arc::new(Sink { gate: Some(Arc::new(tokio::sync::Semaphore::new(0))), ..Sink::default() });
        let call = self.call("chat_text", &json!({"room": "lobby", "text": "hi"}), &sink);
        (sink, tokio::spawn(call))
    }

    async fn echo(&self) -> Answer {
        self.call("echo", &json!(1), &Arc::default()).await.unwrap()
    }

    fn process(&self) -> u32 {
        self.runners.shared.best().unwrap().id
    }

    fn kill(&self) {
        kill_process(Pid::from_raw(self.process().try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
    }

    async fn event(&mut self) -> RunnerEvent {
        time::timeout(SOON, self.events.recv()).await.unwrap().unwrap()
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = async {
        while !is_so() {
            time::sleep(Duration::from_millis(1)).await;
        }
    };
    time::timeout(SOON, waited).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn calls_and_what_they_ask_for_go_through() {
    let bench = bench("threads = 2").await;
    let sink = Arc::new(Sink::default());
    let answer = bench.call("chat_text", &json!({"room": "lobby", "text": "hi"}), &sink).await.unwrap();
    assert_eq!(answer.status, Status::Rejected, "{answer:?}");
    assert!(sink.asked.load(Ordering::SeqCst) > 0);
    let large = "x".repeat(1024 * 1024);
    let answer = bench.call("echo", &json!(large), &sink).await.unwrap();
    assert!(answer.bytes.len() > large.len());
    let answers = futures_util::future::join_all((0..200).map(|number| bench.call("echo", &json!(number), &sink))).await;
    for (number, answer) in answers.into_iter().enumerate() {
        let answer: Value = serde_json::from_slice(&answer.unwrap().bytes).unwrap();
        assert_eq!(answer["echo"], number);
    }
}

#[tokio::test]
async fn a_killed_runner_is_replaced_and_its_call_is_made_again_alone_before_it_is_blamed() {
    let mut bench = bench("").await;
    let first = bench.process();
    let (sink, call) = bench.held();
    until("the call runs", || sink.asked.load(Ordering::SeqCst) > 0).await;
    bench.kill();
    assert!(matches!(bench.event().await, RunnerEvent::Crashed { subject: None, is_doubtful: true, reason } if reason.contains("SIGKILL")));
    sink.gate.as_ref().unwrap().add_permits(1); // What it has asked for is still done.
    assert!(matches!(call.await.unwrap(), Err(CallError::Interrupted { is_suspect: true })));
    assert_eq!(bench.echo().await.status, Status::Done);
    assert_ne!(bench.process(), first);

    let sink = Arc::new(Sink { gate: Some(Arc::new(tokio::sync::Semaphore::new(0))), ..Sink::default() });
    let call = Call {
        suspicions: 1,
        ..Call::new(Operation::Action, message("chat_text", &json!({"room": "lobby", "text": "hi"})), Arc::clone(&sink) as _)
    };
    let runners = Arc::clone(&bench.runners);
    let call = tokio::spawn(async move { runners.call(call).await });
    until("the suspect runs", || sink.asked.load(Ordering::SeqCst) > 0).await;
    bench.kill();
    let RunnerEvent::Crashed { subject: Some(subject), .. } = bench.event().await else { panic!("nobody is blamed") };
    sink.gate.as_ref().unwrap().add_permits(1);
    assert!(matches!(call.await.unwrap(), Err(CallError::Crashed(reason)) if reason.contains("SIGKILL")));
    assert_eq!((subject.action.as_str(), subject.connection_id.as_str(), subject.message_id.as_str()), ("chat_text", "c", "m-1"));
}

#[tokio::test]
async fn a_call_past_its_time_ends_its_runner_after_a_grace_for_the_others() {
    let bench = bench("timeout_grace = \"2s\"").await;
    let old = bench.runners.shared.best().unwrap();
    let (neighbour_sink, neighbour) = bench.held();
    until("the neighbour runs", || neighbour_sink.asked.load(Ordering::SeqCst) > 0).await;
    let (quick_sink, quick) = bench.held();
    let sink = Arc::new(Sink { gate: Some(Arc::new(tokio::sync::Semaphore::new(0))), ..Sink::default() });
    let call = Call::new(Operation::Action, message("chat_text", &json!({"room": "lobby", "text": "hi"})), Arc::clone(&sink) as _);
    let begun = Instant::now();
    let result = bench.runners.call(call.within(Duration::from_millis(200))).await;
    assert!(matches!(result, Err(CallError::TimedOut)), "{result:?}");
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!(bench.echo().await.status, Status::Done, "another runner takes what comes");
    assert_ne!(bench.process(), old.id);
    quick_sink.gate.as_ref().unwrap().add_permits(10);
    assert_eq!(quick.await.unwrap().unwrap().status, Status::Rejected, "in the grace");
    time::timeout(SOON, old.ended().cancelled()).await.expect("it is ended");
    neighbour_sink.gate.as_ref().unwrap().add_permits(1);
    assert!(matches!(neighbour.await.unwrap(), Err(CallError::Interrupted { is_suspect: false })));
}

#[tokio::test]
async fn a_call_that_has_not_begun_in_time_harms_nobody() {
    let bench = bench("threads = 1").await;
    let first = bench.process();
    let (sink, running) = bench.held();
    until("the call runs", || sink.asked.load(Ordering::SeqCst) > 0).await;
    let waiting = Call::new(Operation::Action, message("echo", &json!(1)), Arc::new(Sink::default()));
    let result = bench.runners.call(waiting.within(Duration::from_millis(50))).await;
    assert!(matches!(result, Err(CallError::Late)), "{result:?}");
    sink.gate.as_ref().unwrap().add_permits(10);
    assert_eq!(running.await.unwrap().unwrap().status, Status::Rejected);
    assert_eq!(bench.echo().await.status, Status::Done);
    assert_eq!(bench.process(), first);
}

#[tokio::test]
async fn more_calls_than_may_wait_are_refused() {
    let bench = bench("threads = 1\nwaiting_max = 1").await;
    let (sink, running) = bench.held();
    until("the call runs", || sink.asked.load(Ordering::SeqCst) > 0).await;
    let (_, waiting) = bench.held();
    until("another waits", || bench.runners.running() == 2).await;
    let refused = bench.call("echo", &json!(1), &Arc::default()).await;
    assert!(matches!(refused, Err(CallError::Overloaded)), "{refused:?}");
    sink.gate.as_ref().unwrap().add_permits(10);
    running.await.unwrap().unwrap();
    waiting.abort();
}

#[tokio::test]
async fn closing_finishes_what_runs_and_killing_does_not() {
    for kill in [false, true] {
        let mut bench = bench("runners = 2").await;
        until("both serve", || bench.runners.shared.places.iter().all(|place| place.load().is_some())).await;
        let (sink, call) = bench.held();
        until("the call runs", || sink.asked.load(Ordering::SeqCst) > 0).await;
        if kill {
            bench.runners.kill();
        } else {
            bench.runners.close();
        }
        let refused = bench.call("echo", &json!(1), &Arc::default());
        sink.gate.as_ref().unwrap().add_permits(10);
        let ended = call.await.unwrap();
        if kill {
            assert!(matches!(ended, Err(CallError::Interrupted { is_suspect: false }) | Ok(_)), "{ended:?}");
        } else {
            assert_eq!(ended.unwrap().status, Status::Rejected);
        }
        time::timeout(SOON, bench.runners.ended()).await.expect("they end");
        assert!(matches!(refused.await, Err(CallError::Gone(_) | CallError::Interrupted { is_suspect: false })));
        assert!(bench.events.try_recv().is_err(), "nobody crashed");
    }
}

#[tokio::test]
async fn an_old_runner_is_replaced_between_calls() {
    let mut bench = bench("recycle_age = \"1s\"").await;
    let first = bench.process();
    until("another process", || bench.runners.shared.best().is_some_and(|runner| runner.id != first)).await;
    assert_eq!(bench.echo().await.status, Status::Done);
    assert!(bench.events.try_recv().is_err(), "that is no crash");
}

#[tokio::test]
async fn what_does_not_start_is_told_with_its_reason() {
    let (events, _) = mpsc::unbounded_channel();
    let options = |library: PathBuf, config: &str| RunnersOptions {
        plugin: "chat".into(),
        version: "v1".into(),
        library,
        role: Role::Actions,
        config: serde_json::from_str(config).unwrap(),
        settings: PluginSettings::default(),
        launcher: launcher(),
        events: events.clone(),
    };
    let refused = async |library, config| Runners::start(options(library, config)).await.err().expect("it starts");
    let error = refused(chat_library(), r#"{"history_limt": 5}"#).await;
    assert!(matches!(&error, PluginError::Constructor(text) if text.contains("history_limt")), "{error}");
    let error = refused("/nowhere/libchat.so".into(), "{}").await;
    assert!(matches!(&error, PluginError::Load(text) if text.contains("nowhere")), "{error}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_runner_whose_socket_lives_on_in_another_process_is_missed_all_the_same() {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
    let mut bench = bench("").await;
    let process = bench.process();
    let is_socket = |path: &PathBuf| std::fs::read_link(path).is_ok_and(|what| what.to_string_lossy().starts_with("socket:"));
    let mut descriptors = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().map(|entry| entry.unwrap().path());
    let socket = descriptors.find(is_socket);
    let number = socket.unwrap().file_name().unwrap().to_str().unwrap().parse().unwrap();
    let runner = pidfd_open(Pid::from_raw(process.try_into().unwrap()).unwrap(), PidfdFlags::empty()).unwrap();
    let _held_open = pidfd_getfd(runner, number, PidfdGetfdFlags::empty()).unwrap();
    let (sink, call) = bench.held();
    until("the call runs", || sink.asked.load(Ordering::SeqCst) > 0).await;
    bench.kill();
    assert!(matches!(bench.event().await, RunnerEvent::Crashed { reason, .. } if reason.contains("SIGKILL")));
    sink.gate.as_ref().unwrap().add_permits(1);
    assert!(matches!(call.await.unwrap(), Err(CallError::Interrupted { is_suspect: true })));
    assert_eq!(bench.echo().await.status, Status::Done);
}

#[tokio::test]
async fn runners_that_end_young_are_parked_as_often_as_they_recover() {
    let mut bench = bench("").await;
    let mut before = 0;
    let mut events = Vec::new();
    while events.len() < 3 {
        until("a runner", || bench.runners.shared.best().is_some_and(|runner| runner.id != before)).await;
        before = bench.process();
        bench.kill();
        loop {
            match bench.event().await {
                RunnerEvent::Crashed { .. } => break,
                event => events.push(event),
            }
        }
    }
    assert!(
        matches!(events.as_slice(), [RunnerEvent::Parked { .. }, RunnerEvent::Recovered { .. }, RunnerEvent::Parked { .. }]),
        "{events:?}"
    );
    assert_eq!(bench.runners.shared.parked.load(Ordering::SeqCst), 1);
    assert!(matches!(bench.call("echo", &json!(1), &Arc::default()).await, Err(CallError::Unavailable(_))));
}

#[tokio::test]
async fn a_runner_that_takes_nothing_in_is_ended_though_no_call_runs_in_it() {
    let bench = bench("").await;
    let first = bench.process();
    kill_process(Pid::from_raw(first.try_into().unwrap()).unwrap(), Signal::STOP).unwrap();
    let call = Call::new(Operation::Action, message("echo", &json!(1)), Arc::new(Sink::default()));
    let result = bench.runners.call(call.within(Duration::from_millis(50))).await;
    assert!(matches!(result, Err(CallError::Late)), "{result:?}");
    until("another process", || bench.runners.shared.best().is_some_and(|runner| runner.id != first)).await;
    assert_eq!(bench.echo().await.status, Status::Done);
}

#[tokio::test]
async fn a_call_for_a_runner_that_finishes_is_made_in_another() {
    let bench = bench("").await;
    let old = bench.runners.shared.best().unwrap();
    let (sink, running) = bench.held();
    until("the call runs", || sink.asked.load(Ordering::SeqCst) > 0).await;
    old.close();
    let call = Call::new(Operation::Action, message("echo", &json!(1)), Arc::new(Sink::default()));
    let refused = time::timeout(Duration::from_secs(1), old.run(&call, None)).await.expect("it waits for a process that ends");
    assert!(matches!(refused, Ok(None)), "{refused:?}");
    assert_eq!(bench.echo().await.status, Status::Done);
    assert_ne!(bench.process(), old.id);
    sink.gate.as_ref().unwrap().add_permits(10);
    assert_eq!(running.await.unwrap().unwrap().status, Status::Rejected);
}

#[tokio::test]
async fn an_old_runner_goes_on_while_no_other_comes_up() {
    let folder = tempfile::tempdir().unwrap();
    let library = folder.path().join("libchat.so");
    std::fs::copy(chat_library(), &library).unwrap();
    let bench = bench_of(library.clone(), "recycle_age = \"1s\"").await;
    std::fs::remove_file(library).unwrap();
    let first = bench.runners.shared.best().unwrap();
    while first.started.elapsed() < Duration::from_secs(4) {
        assert_eq!(bench.echo().await.status, Status::Done);
        assert_eq!(bench.process(), first.id);
        time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn an_answer_that_no_frame_holds_is_refused() {
    let bench = bench("").await;
    let first = bench.process();
    let sink = Arc::new(Sink { answer: Some(vec![b' '; 33 * 1024 * 1024].into()), ..Sink::default() });
    let answer = bench.call("chat_text", &json!({"room": "lobby", "text": "hi"}), &sink).await.unwrap();
    assert_eq!(answer.status, Status::Retry, "{answer:?}");
    assert_eq!(bench.process(), first);
}

#[tokio::test]
async fn a_runner_that_ends_of_its_first_call_had_come_up() {
    let mut bench = bench("").await;
    let mut before = 0;
    for _ in 0..4 {
        until("a runner", || bench.runners.shared.best().is_some_and(|runner| runner.id != before)).await;
        before = bench.process();
        let (sink, call) = bench.held();
        until("the call runs", || sink.asked.load(Ordering::SeqCst) > 0).await;
        bench.kill();
        let event = bench.event().await;
        assert!(matches!(event, RunnerEvent::Crashed { .. }), "{event:?}");
        sink.gate.as_ref().unwrap().add_permits(1);
        assert!(matches!(call.await.unwrap(), Err(CallError::Interrupted { is_suspect: true })));
    }
    assert_eq!(bench.echo().await.status, Status::Done);
}

#[tokio::test]
async fn a_call_that_is_given_up_keeps_no_thread() {
    let bench = bench("threads = 1").await;
    let first = bench.process();
    let (sink, call) = bench.held();
    until("the call asks", || sink.asked.load(Ordering::SeqCst) > 0).await;
    call.abort();
    assert_eq!(bench.echo().await.status, Status::Done);
    assert_eq!(bench.process(), first);
}

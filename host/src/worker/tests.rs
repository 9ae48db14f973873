//! Lanes, attempts, verdicts and the drain, on a queue that records.

mod order;
mod reload;
mod stall;
mod suspects;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use plugsocket_plugin::call::{HostOperation, MessageCall, Operation, Status};
use tokio::sync::{Barrier, Notify};
use tokio::task::JoinHandle;

use super::*;
use crate::config::Settings;
use crate::context::testing::{Event, Recorder};
use crate::plugin::{Answer, Call as PluginCall, CallError, Callee, HostSink, LiveVersion};
use crate::queue::Verdict;
use crate::wire::delivery::{Address, Body};
use crate::wire::envelope::ClientId;
use crate::wire::ids::SessionId;
use crate::wire::job::Job;
use crate::wire::json::Json;

const SOON: Duration = Duration::from_secs(10);

/// What a scripted plugin sees of a call.
struct Call {
    data: String,
    attempt: u32,
    sink: Arc<dyn HostSink>,
}

type Script = dyn Fn(Call) -> BoxFuture<'static, Result<Answer, CallError>> + Send + Sync;

struct Scripted(Arc<Script>);

#[async_trait]
impl Callee for Scripted {
    async fn call(&self, made: PluginCall) -> Result<Answer, CallError> {
        assert_eq!(made.operation, Operation::Action);
        let call: MessageCall<'_> = serde_json::from_slice(&made.input).unwrap();
        let data = call.data.map_or_else(String::new, |data| data.get().to_owned());
        let script = (self.0)(Call { data, attempt: call.meta.attempt, sink: made.sink });
        time::timeout(made.timeout.unwrap_or(Duration::MAX), script).await.unwrap_or(Err(CallError::TimedOut))
    }

    fn ends_calls(&self) -> bool {
        false
    }
}

/// Serves the action `known`, and nothing else.
struct OnePlugin(Arc<LiveVersion>);

impl Plugins for OnePlugin {
    fn action(&self, action: &str) -> Option<Arc<LiveVersion>> {
        (action == "known").then(|| Arc::clone(&self.0))
    }

    fn handler(&self) -> Option<Arc<LiveVersion>> {
        None
    }
}

struct Bench {
    recorder: Arc<Recorder>,
    node: NodeId,
    stop: CancellationToken,
    worker: JoinHandle<Result<Drained, QueueError>>,
}

fn bench<F>(settings: &str, script: impl Fn(Call) -> F + Send + Sync + 'static) -> Bench
where
    F: Future<Output = Result<Answer, CallError>> + Send + 'static,
{
    let script: Arc<Script> = Arc::new(move |call| Box::pin(script(call)));
    bench_of(settings, Arc::new(Scripted(script)))
}

fn bench_of(settings: &str, callee: Arc<dyn Callee>) -> Bench {
    let (recorder, queue) = Recorder::queue();
    let version = LiveVersion { plugin: "test".into(), version: "v1".into(), callee };
    let settings = format!("[worker]\nretry_backoff = \"1ms\"\n{settings}");
    let settings: Settings = toml::from_str(&settings).unwrap();
    let (node, stop) = (NodeId::random().unwrap(), CancellationToken::new());
    let plugins = Arc::new(OnePlugin(Arc::new(version)));
    let settings = Arc::new(ArcSwap::from_pointee(settings));
    let worker = tokio::spawn(run(queue, plugins, settings, node.clone(), stop.clone()));
    Bench { recorder, node, stop, worker }
}

/// Each call tells that it has started, and ends when it is let go.
fn gated() -> (Bench, Arc<Notify>, Arc<Notify>) {
    let (started, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, wait) = (Arc::clone(&started), Arc::clone(&go));
    let bench = bench("", move |_| {
        let (tell, wait) = (Arc::clone(&tell), Arc::clone(&wait));
        async move {
            tell.notify_one();
            wait.notified().await;
            answer(Status::Done, "")
        }
    });
    (bench, started, go)
}

impl Bench {
    fn session(&self) -> SessionId {
        SessionId::random(&self.node).unwrap()
    }

    async fn end(self) -> (Drained, Arc<Recorder>) {
        self.stop.cancel();
        let drained = time::timeout(SOON, self.worker).await.expect("the worker does not stop").unwrap().unwrap();
        (drained, self.recorder)
    }
}

fn job(session: &SessionId, sequence: u64) -> Job {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Job {
        session: session.clone(),
        connection_id: session.as_str().into(),
        user_id: None,
        action: "known".to_owned(),
        sequence,
        time_ms: u64::try_from(since.as_millis()).unwrap(),
        client_id: None,
        ip: String::new(),
        attempts: 0,
        unserved: 0,
        scheduled_id: None,
        data: Json::encode(&sequence).unwrap(),
    }
}

fn answer(status: Status, bytes: &str) -> Result<Answer, CallError> {
    Ok(Answer { status, bytes: Bytes::copy_from_slice(bytes.as_bytes()) })
}

fn bodies(events: &[Event]) -> Vec<&Body> {
    events.iter().filter_map(|event| if let Event::Sent(delivery) = event { Some(&delivery.body) } else { None }).collect()
}

fn verdicts(events: &[Event]) -> Vec<&Verdict> {
    events.iter().filter_map(|event| if let Event::Settled(_, verdict) = event { Some(verdict) } else { None }).collect()
}

#[tokio::test]
async fn a_session_runs_in_order_and_sessions_run_in_parallel() {
    let (together, seen) = (Arc::new(Barrier::new(2)), Arc::new(Mutex::new(Vec::new())));
    let order = Arc::clone(&seen);
    let bench = bench("", move |call| {
        let (together, order) = (Arc::clone(&together), Arc::clone(&order));
        async move {
            together.wait().await; // Passes only when both sessions are running at once.
            order.lock().unwrap().push(call.data);
            answer(Status::Done, "")
        }
    });
    let sessions = [bench.session(), bench.session()];
    for sequence in 1..=5 {
        for (index, session) in sessions.iter().enumerate() {
            let data = Json::encode(&format!("{index}:{sequence}")).unwrap();
            bench.recorder.push(Job { data, ..job(session, sequence) });
        }
    }
    let events = bench.recorder.settled(10).await;
    assert!(bodies(&events).is_empty(), "nobody asked and nothing was said");
    let seen = seen.lock().unwrap();
    for index in 0..2 {
        let own: Vec<&String> = seen.iter().filter(|data| data.starts_with(&format!("\"{index}:"))).collect();
        assert_eq!(own, [1, 2, 3, 4, 5].map(|sequence| format!("\"{index}:{sequence}\"")).iter().collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn replies_go_to_the_session_before_the_verdict() {
    let bench = bench("", |call| async move {
        let send = r#"{"to":"all","action":"note","data":1}"#;
        assert_eq!(call.sink.request(HostOperation::Send, send.into()).await.status, Status::Done);
        answer(Status::Done, if call.data == "1" { "" } else { "{\"n\":2}" })
    });
    let session = bench.session();
    bench.recorder.push(Job { client_id: ClientId::parse("7"), ..job(&session, 1) });
    bench.recorder.push(job(&session, 2));
    let events = bench.recorder.settled(2).await;
    let [Event::Sent(note), Event::Sent(first), Event::Settled(entry, Verdict::Done), Event::Sent(_), Event::Sent(second), _] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!(*entry, format!("{session}-1"));
    assert_eq!((note.origin.as_ref().unwrap().index, first.origin.as_ref().unwrap().index), (0, 1));
    assert_eq!(first.to, [Address::Session(session)]);
    assert_eq!(first.body, Body::Reply { action: "known".to_owned(), client_id: ClientId::parse("7"), data: Json::NULL });
    let Body::Reply { client_id: None, data, .. } = &second.body else { panic!("{second:?}") };
    assert_eq!(data.as_bytes(), b"{\"n\":2}");
}

#[tokio::test]
async fn a_rejection_is_answered_and_done() {
    let bench = bench("", |_| async { answer(Status::Rejected, r#"{"code":"no_room","message":"full"}"#) });
    bench.recorder.push(Job { client_id: ClientId::parse("7"), ..job(&bench.session(), 1) });
    let events = bench.recorder.settled(1).await;
    let failure = Body::Failure { client_id: ClientId::parse("7"), code: "no_room".to_owned(), message: "full".to_owned() };
    assert_eq!(bodies(&events), [&failure]);
    assert!(matches!(verdicts(&events)[..], [Verdict::Done]));
}

#[tokio::test]
async fn failures_are_tried_again_in_the_lane_then_set_aside() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let order = Arc::clone(&seen);
    let bench = bench("", move |call| {
        order.lock().unwrap().push((call.data.clone(), call.attempt));
        async move {
            match (call.data.as_str(), call.attempt) {
                ("1", 1) => answer(Status::Panicked, "boom"),
                ("1", 2) => Err(CallError::Gone("retired".to_owned())),
                ("1", _) => answer(Status::Retry, "no database"),
                ("2", 1) => answer(Status::Retry, "once"),
                _ => answer(Status::Done, ""),
            }
        }
    });
    let session = bench.session();
    bench.recorder.push(job(&session, 1));
    bench.recorder.push(job(&session, 2));
    let events = bench.recorder.settled(2).await;
    let calls: Vec<(String, u32)> = seen.lock().unwrap().clone();
    let expected = [("1", 1), ("1", 2), ("1", 3), ("2", 1), ("2", 2)].map(|(data, attempt)| (data.to_owned(), attempt));
    assert_eq!(calls, expected, "the lane keeps its order over all attempts");
    let [Body::Failure { client_id: None, code, .. }] = bodies(&events)[..] else { panic!("{events:?}") };
    assert_eq!(code, "failed");
    let [Verdict::Dead { job, reason, version }, Verdict::Done] = verdicts(&events)[..] else { panic!("{events:?}") };
    assert_eq!((job.attempts, reason.as_str(), version.as_str()), (3, "no database", "v1"));
}

#[tokio::test]
async fn a_call_past_its_time_is_told_as_timeout() {
    let bench = bench("attempts = 2\ntimeout = \"20ms\"", |_| std::future::pending());
    bench.recorder.push(job(&bench.session(), 1));
    let events = bench.recorder.settled(1).await;
    let [Body::Failure { code, .. }] = bodies(&events)[..] else { panic!("{events:?}") };
    assert_eq!(code, "timeout");
    let [Verdict::Dead { job, reason, .. }] = verdicts(&events)[..] else { panic!("{events:?}") };
    assert_eq!((job.attempts, reason.as_str()), (2, "call timed out"));
}

#[tokio::test]
async fn an_overloaded_plugin_costs_no_attempt() {
    let tries = Arc::new(AtomicUsize::new(0));
    let bench = bench("", move |call| {
        assert_eq!(call.attempt, 1);
        let tried = tries.fetch_add(1, Ordering::SeqCst);
        async move {
            match tried {
                0..3 => Err(CallError::Overloaded),
                3 => Err(CallError::Late),
                _ => answer(Status::Done, "1"),
            }
        }
    });
    bench.recorder.push(job(&bench.session(), 1));
    let events = bench.recorder.settled(1).await;
    assert!(matches!(verdicts(&events)[..], [Verdict::Done]));
    assert_eq!(bodies(&events).len(), 1);
}

#[tokio::test]
async fn an_unserved_action_waits_then_is_set_aside() {
    let bench = bench("unserved_timeout = \"5s\"", |_| async { answer(Status::Done, "") });
    let session = bench.session();
    bench.recorder.push(Job { action: "unknown".to_owned(), ..job(&session, 1) });
    let old = job(&session, 2);
    bench.recorder.push(Job { action: "unknown".to_owned(), time_ms: 1, unserved: 4, ..old.clone() });
    bench.recorder.push(Job { action: "unknown".to_owned(), unserved: 5, ..old });
    let events = bench.recorder.settled(3).await;
    let [Verdict::Later { job, delay }, Verdict::Later { job: last, .. }, Verdict::Dead { version, .. }] = verdicts(&events)[..] else {
        panic!("{events:?}")
    };
    assert_eq!((job.attempts, job.unserved, *delay, version.as_str()), (0, 1, Duration::from_secs(1), ""));
    assert_eq!(last.unserved, 5, "however old it is");
    let [Body::Failure { code, .. }] = bodies(&events)[..] else { panic!("{events:?}") };
    assert_eq!(code, "unavailable");
}

#[tokio::test]
async fn a_lost_lease_starts_nothing() {
    let bench = bench("", |_| async { panic!("it runs") });
    bench.recorder.is_lease_lost.store(true, Ordering::SeqCst);
    bench.recorder.push(job(&bench.session(), 1));
    bench.recorder.taken().await;
    let (drained, recorder) = bench.end().await;
    assert_eq!(drained, Drained { cut: 0 });
    assert!(matches!(recorder.events()[..], [Event::Left]));
}

#[tokio::test]
async fn a_lease_lost_during_a_call_drops_what_it_still_says() {
    let (started, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, wait) = (Arc::clone(&started), Arc::clone(&go));
    let bench = bench("", move |call| {
        let (tell, wait) = (Arc::clone(&tell), Arc::clone(&wait));
        async move {
            tell.notify_one();
            wait.notified().await;
            let send = Bytes::from_static(br#"{"to":"all","action":"late","data":1}"#);
            assert_eq!(call.sink.request(HostOperation::Send, send).await.status, Status::Retry);
            answer(Status::Done, "\"late\"")
        }
    });
    bench.recorder.push(job(&bench.session(), 1));
    time::timeout(SOON, started.notified()).await.unwrap();
    bench.recorder.is_lease_lost.store(true, Ordering::SeqCst);
    go.notify_one();
    let (drained, recorder) = bench.end().await;
    assert_eq!(drained, Drained { cut: 0 });
    assert!(matches!(recorder.events()[..], [Event::Left]));
}

#[tokio::test]
async fn stopping_finishes_what_was_taken() {
    let (bench, started, go) = gated();
    let session = bench.session();
    bench.recorder.push(job(&session, 1));
    bench.recorder.push(job(&session, 2));
    time::timeout(SOON, started.notified()).await.unwrap();
    bench.stop.cancel();
    go.notify_one();
    time::timeout(SOON, started.notified()).await.expect("the second job of the lane runs as well");
    go.notify_one();
    let (drained, recorder) = bench.end().await;
    assert_eq!(drained, Drained { cut: 0 });
    let events = recorder.events();
    assert!(matches!(events[..], [Event::Settled(_, Verdict::Done), Event::Settled(_, Verdict::Done), Event::Left]), "{events:?}");
}

#[tokio::test]
async fn a_drain_that_takes_too_long_leaves_jobs_unsettled() {
    let started = Arc::new(Notify::new());
    let tell = Arc::clone(&started);
    let bench = bench("drain_timeout = \"50ms\"", move |_| {
        tell.notify_one();
        std::future::pending()
    });
    let session = bench.session();
    bench.recorder.push(job(&session, 1));
    bench.recorder.push(job(&session, 2));
    time::timeout(SOON, started.notified()).await.unwrap();
    let (drained, recorder) = bench.end().await;
    assert_eq!(drained, Drained { cut: 2 });
    assert!(matches!(recorder.events()[..], [Event::Left]));
}

#[tokio::test]
async fn a_slow_plugin_keeps_to_its_threads() {
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let peak = Arc::clone(&most);
    let bench = bench("slots = 6\n[plugins.test]\nthreads = 2", move |_| {
        let (running, peak) = (Arc::clone(&running), Arc::clone(&peak));
        async move {
            peak.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            time::sleep(Duration::from_millis(5)).await;
            running.fetch_sub(1, Ordering::SeqCst);
            answer(Status::Done, "")
        }
    });
    for _ in 0..20 {
        bench.recorder.push(job(&bench.session(), 1));
    }
    bench.recorder.settled(20).await;
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

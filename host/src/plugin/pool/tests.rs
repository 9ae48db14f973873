//! Calls through a real library: answers, panics, overload, time limits, tokens.

use std::sync::Barrier;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use serde_json::json;
use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(10);

type Script = Box<dyn Fn(u64, &[u8]) -> Answer + Send + Sync>;

struct Scripted {
    script: Script,
    shutdowns: Arc<AtomicUsize>,
}

impl Subject for Scripted {
    fn call(&self, token: u64, _operation: Operation, input: &[u8]) -> Answer {
        (self.script)(token, input)
    }

    fn shutdown(self) {
        self.shutdowns.fetch_add(1, Ordering::SeqCst);
    }
}

struct Echo;

#[async_trait]
impl HostSink for Echo {
    async fn request(&self, _operation: HostOperation, input: Bytes) -> Answer {
        tokio::task::yield_now().await;
        done(input)
    }
}

fn done(bytes: impl Into<Bytes>) -> Answer {
    Answer { status: Status::Done, bytes: bytes.into() }
}

struct Bench {
    pool: Arc<InProcess>,
    host: Arc<PoolHost>,
    shutdowns: Arc<AtomicUsize>,
}

fn bench(threads: usize, waiting_max: usize, script: impl Fn(&PoolHost, u64, &[u8]) -> Answer + Send + Sync + 'static) -> Bench {
    let plugin: Arc<str> = "test".into();
    let host = PoolHost::new(Arc::clone(&plugin), Handle::current());
    let (inner, shutdowns) = (Arc::clone(&host), Arc::new(AtomicUsize::new(0)));
    let script: Script = Box::new(move |token, input| script(&inner, token, input));
    let subject = Scripted { script, shutdowns: Arc::clone(&shutdowns) };
    let pool = InProcess::start(subject, Arc::clone(&host), &PoolOptions { plugin, threads, waiting_max }).unwrap();
    Bench { pool, host, shutdowns }
}

async fn call(pool: &InProcess, input: &'static str) -> Result<Answer, CallError> {
    timeout(SOON, pool.call(Call::new(Operation::Action, input, Arc::new(Echo)))).await.expect("the call hangs")
}

/// Waits until as many calls run and wait as given.
async fn until(pool: &InProcess, running: usize, waiting: usize) {
    timeout(SOON, async {
        loop {
            if (pool.desk.running(), pool.desk.waiting()) == (running, waiting) {
                return;
            }
            time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("the pool does not get there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_reach_the_host_and_come_back() {
    let bench = bench(2, 4, |host, token, input| host.invoke(token, HostOperation::Store as u32, Bytes::copy_from_slice(input)));
    assert_eq!(call(&bench.pool, "hi").await.unwrap(), done("hi"));
    assert!(bench.host.calls().is_empty(), "the call's token is gone");
    assert_eq!(bench.host.invoke(999, HostOperation::Store as u32, Bytes::new()), Answer::retry("call is over"));
    assert_eq!(bench.host.invoke(0, HostOperation::Store as u32, Bytes::new()), Answer::retry("only possible during a call"));
    assert_eq!(bench.host.invoke(1, 77, Bytes::new()).status, Status::Unsupported);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_need_no_call() {
    let bench = bench(1, 0, |_, _, _| done(""));
    let event = json!({"level": "INFO", "message": "hello", "fields": {"a": "1"}}).to_string();
    assert_eq!(bench.host.invoke(0, HostOperation::Log as u32, event.into()).status, Status::Done);
    assert_eq!(bench.host.invoke(0, HostOperation::Log as u32, Bytes::from_static(b"{")).status, Status::Retry);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_is_bounded_and_those_who_gave_up_do_not_count() {
    let gate = Arc::new(Barrier::new(2));
    let (entered, runs) = (Arc::clone(&gate), Arc::new(Mutex::new(Vec::new())));
    let seen = Arc::clone(&runs);
    let bench = bench(1, 1, move |_, _, input| {
        seen.lock().unwrap().push(String::from_utf8_lossy(input).into_owned());
        if input == b"slow" {
            entered.wait();
        }
        done("")
    });
    let pool = Arc::clone(&bench.pool);
    let slow = tokio::spawn(async move { call(&pool, "slow").await });
    until(&bench.pool, 1, 0).await;
    let pool = Arc::clone(&bench.pool);
    let impatient = tokio::spawn(async move { call(&pool, "impatient").await });
    until(&bench.pool, 1, 1).await;
    assert!(matches!(call(&bench.pool, "too many").await, Err(CallError::Overloaded)));
    impatient.abort();
    assert!(impatient.await.unwrap_err().is_cancelled());
    let pool = Arc::clone(&bench.pool);
    let patient = tokio::spawn(async move { call(&pool, "patient").await });
    until(&bench.pool, 1, 1).await;
    let gate = tokio::task::spawn_blocking(move || gate.wait());
    assert!(slow.await.unwrap().is_ok() && patient.await.unwrap().is_ok());
    gate.await.unwrap();
    assert_eq!(*runs.lock().unwrap(), ["slow", "patient"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_has_not_begun_in_time_never_does() {
    let gate = Arc::new(Barrier::new(2));
    let (entered, runs) = (Arc::clone(&gate), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::clone(&runs);
    let bench = bench(1, 4, move |_, _, _| {
        seen.fetch_add(1, Ordering::SeqCst);
        entered.wait();
        done("")
    });
    let limited = || bench.pool.call(Call::new(Operation::Action, Bytes::new(), Arc::new(Echo)).within(Duration::from_millis(50)));
    let (running, waiting) = tokio::join!(limited(), limited());
    assert!(matches!((&running, &waiting), (Err(CallError::TimedOut), Err(CallError::Late))), "{running:?} {waiting:?}");
    gate.wait();
    until(&bench.pool, 0, 0).await;
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_gives_up_on_a_call_takes_back_its_say() {
    let gate = Arc::new(Barrier::new(2));
    let entered = Arc::clone(&gate);
    let tell = Arc::new(Mutex::new(None));
    let answers = Arc::clone(&tell);
    let bench = bench(1, 0, move |host, token, _| {
        entered.wait();
        let answer = host.invoke(token, HostOperation::Send as u32, Bytes::new());
        *answers.lock().unwrap() = Some(answer.clone());
        answer
    });
    let limited = timeout(Duration::from_millis(30), bench.pool.call(Call::new(Operation::Action, Bytes::new(), Arc::new(Echo)))).await;
    assert!(limited.is_err(), "the plugin hangs");
    assert!(bench.host.calls().is_empty());
    gate.wait();
    until(&bench.pool, 0, 0).await;
    assert_eq!(tell.lock().unwrap().clone(), Some(Answer::retry("call is over")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_finishes_what_runs_then_shuts_down_once() {
    let gate = Arc::new(Barrier::new(2));
    let entered = Arc::clone(&gate);
    let bench = bench(4, 4, move |_, _, _| {
        entered.wait();
        done("end")
    });
    let pool = Arc::clone(&bench.pool);
    let running = tokio::spawn(async move { call(&pool, "").await });
    until(&bench.pool, 1, 0).await;
    bench.pool.close();
    assert!(matches!(call(&bench.pool, "").await, Err(CallError::Gone(_))));
    assert_eq!(bench.shutdowns.load(Ordering::SeqCst), 0, "a call is running");
    gate.wait();
    assert_eq!(running.await.unwrap().unwrap(), done("end"));
    timeout(SOON, bench.pool.ended()).await.unwrap();
    assert_eq!(bench.shutdowns.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "current_thread")]
async fn a_call_that_does_not_come_back_holds_up_neither_answers_nor_calls() {
    let gate = Arc::new(Barrier::new(2));
    let entered = Arc::clone(&gate);
    let bench = bench(2, 100, move |_, _, input| {
        if input == b"slow" {
            entered.wait();
        }
        done("")
    });
    for _ in 0..20 {
        let fast = |count| futures_util::future::join_all((0..count).map(|_| call(&bench.pool, "fast")));
        let pool = Arc::clone(&bench.pool);
        let (before, slow, behind) = (fast(5), async move { call(&pool, "slow").await }, fast(5));
        let slow = tokio::spawn(slow);
        let (before, behind) = timeout(SOON, async { tokio::join!(before, behind) }).await.expect("a slow call holds up others");
        assert!(before.iter().chain(&behind).all(Result::is_ok));
        let gate = Arc::clone(&gate);
        tokio::task::spawn_blocking(move || gate.wait()).await.unwrap();
        assert!(slow.await.unwrap().is_ok());
    }
}

#[tokio::test(flavor = "current_thread")]
async fn calls_that_block_run_at_once() {
    let gate = Arc::new(Barrier::new(9));
    let entered = Arc::clone(&gate);
    let bench = bench(8, 100, move |_, _, _| {
        entered.wait();
        done("")
    });
    for _ in 0..3 {
        let calls = futures_util::future::join_all((0..8).map(|_| call(&bench.pool, "")));
        let gate = Arc::clone(&gate);
        let opened = tokio::task::spawn_blocking(move || gate.wait());
        assert!(timeout(SOON, calls).await.expect("not all of them run").iter().all(Result::is_ok));
        opened.await.unwrap();
    }
}

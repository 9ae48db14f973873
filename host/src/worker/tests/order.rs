//! What waits for what: lanes, `ordering`, `concurrency`, and jobs that can't run while others can.

use super::*;

/// Counts calls at once, and holds each until it is let go.
#[derive(Clone, Default)]
struct Crowd {
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Crowd {
    async fn visit(self) -> Result<Answer, CallError> {
        self.most.fetch_max(self.running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        time::sleep(Duration::from_millis(5)).await;
        self.running.fetch_sub(1, Ordering::SeqCst);
        answer(Status::Done, "")
    }
}

#[tokio::test]
async fn without_ordering_one_connections_messages_run_together() {
    let together = Arc::new(Barrier::new(4));
    let bench = bench("[actions]\nknown = { plugin = \"test\", ordering = \"none\" }", move |_| {
        let together = Arc::clone(&together);
        async move {
            together.wait().await; // Passes only when all four are running at once.
            answer(Status::Done, "")
        }
    });
    let session = bench.session();
    for sequence in 1..=4 {
        bench.recorder.push(job(&session, sequence));
    }
    bench.recorder.settled(4).await;
}

#[tokio::test]
async fn an_action_keeps_to_its_concurrency() {
    let crowd = Crowd::default();
    let visitors = crowd.clone();
    let bench =
        bench("[actions]\nknown = { plugin = \"test\", concurrency = 3 }\n[plugins.test]\nthreads = 8", move |_| visitors.clone().visit());
    for _ in 0..30 {
        bench.recorder.push(job(&bench.session(), 1));
    }
    bench.recorder.settled(30).await;
    assert_eq!(crowd.most.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn jobs_that_cannot_run_leave_their_room_to_others() {
    let go = Arc::new(Notify::new());
    let wait = Arc::clone(&go);
    // Room for two beside what waits; one lane and one gate are full of jobs that hang.
    let bench =
        bench("slots = 2\nprefetch = 0\nwaiting_max = 20\n[actions]\nknown = { plugin = \"test\", concurrency = 1 }", move |call| {
            let wait = Arc::clone(&wait);
            async move {
                if call.data == "1" {
                    wait.notified().await;
                }
                answer(Status::Done, "")
            }
        });
    let flooded = bench.session();
    bench.recorder.push(job(&flooded, 1));
    for sequence in 2..=10 {
        bench.recorder.push(job(&flooded, sequence));
    }
    bench.recorder.push(job(&bench.session(), 2));
    bench.recorder.push(Job { action: "unknown".to_owned(), ..job(&bench.session(), 3) });
    let events = bench.recorder.settled(1).await;
    assert!(matches!(verdicts(&events)[..], [Verdict::Later { .. }]), "one that needs no room of the others: {events:?}");
    go.notify_one();
    bench.recorder.settled(11).await;
}

#[tokio::test]
async fn a_long_pause_is_not_waited_for_in_the_lane() {
    let bench = bench("attempts = 9\nretry_in_lane_max = \"3ms\"", |call| async move {
        if call.data == "1" { answer(Status::Retry, "busy") } else { answer(Status::Done, "") }
    });
    let session = bench.session();
    bench.recorder.push(job(&session, 1));
    bench.recorder.push(job(&session, 2));
    let events = bench.recorder.settled(2).await;
    let [Verdict::Later { job, delay }, Verdict::Done] = verdicts(&events)[..] else { panic!("{events:?}") };
    assert_eq!((job.attempts, *delay), (3, Duration::from_millis(4)), "1 and 2 ms were waited for");
    assert!(bodies(&events).is_empty(), "nobody is told before the end");
}

#[tokio::test]
async fn after_a_drain_is_cut_nothing_more_starts() {
    let started = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&started);
    let settings = "drain_timeout = \"50ms\"\n[actions]\nknown = { plugin = \"test\", concurrency = 1 }";
    let bench = bench(settings, move |call| {
        seen.lock().unwrap().push(call.data.clone());
        async move { if call.data == "1" { std::future::pending().await } else { answer(Status::Done, "") } }
    });
    let (session, other) = (bench.session(), bench.session());
    bench.recorder.push(job(&session, 1));
    bench.recorder.push(job(&session, 2)); // Behind it in its lane.
    bench.recorder.push(job(&other, 3)); // Behind it at its action's gate.
    while started.lock().unwrap().is_empty() {
        time::sleep(Duration::from_millis(1)).await;
    }
    let (drained, recorder) = bench.end().await;
    assert_eq!(drained, Drained { cut: 3 });
    assert!(matches!(recorder.events()[..], [Event::Left]), "they run elsewhere, in order behind the first");
    assert_eq!(*started.lock().unwrap(), ["1"]);
}

/// Calls may be handed over together there, and are not: each begins when it is polled, whatever is before it.
struct Unchained(Scripted);

#[async_trait]
impl Callee for Unchained {
    async fn call(&self, call: PluginCall) -> Result<Answer, CallError> {
        self.0.call(call).await
    }

    fn ends_calls(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn what_could_not_be_handed_over_is_not_overtaken() {
    let crowd = Crowd::default();
    let Crowd { running, most } = crowd.clone();
    let script: Arc<Script> = Arc::new(move |_| {
        let (running, most) = (Arc::clone(&running), Arc::clone(&most));
        Box::pin(async move {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::task::yield_now().await; // So quick that those behind it may go along.
            running.fetch_sub(1, Ordering::SeqCst);
            answer(Status::Done, "")
        })
    });
    let bench = bench_of("", Arc::new(Unchained(Scripted(script))));
    let session = bench.session();
    for sequence in 1..=200 {
        bench.recorder.push(job(&session, sequence));
    }
    bench.recorder.settled(200).await;
    assert_eq!(crowd.most.load(Ordering::SeqCst), 1);
}

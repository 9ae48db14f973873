//! Suspects of a crash: alone, counted, and set aside when they are to blame.

use super::*;

fn alone(events: &[Event]) -> Vec<(&str, i32)> {
    let entry = |event| if let &Event::Alone(ref entry, by) = event { Some((entry.as_str(), by)) } else { None };
    events.iter().filter_map(entry).collect()
}

#[tokio::test]
async fn a_suspect_runs_alone_and_is_noted_before() {
    let running = Arc::new(AtomicUsize::new(0));
    let bench = bench("", move |call| {
        let running = Arc::clone(&running);
        async move {
            let beside = running.fetch_add(1, Ordering::SeqCst);
            assert!(call.data != "1" || beside == 0, "{beside} others run");
            time::sleep(Duration::from_millis(10)).await;
            let beside = running.fetch_sub(1, Ordering::SeqCst) - 1;
            assert!(call.data != "1" || beside == 0, "{beside} others began");
            answer(Status::Done, "")
        }
    });
    for number in 0..12 {
        match number % 4 {
            3 => bench.recorder.push_suspect(job(&bench.session(), 1), 0),
            _ => bench.recorder.push(job(&bench.session(), 2)),
        }
    }
    let events = bench.recorder.settled(12).await;
    assert!(verdicts(&events).iter().all(|verdict| matches!(verdict, Verdict::Done)), "{events:?}");
    assert_eq!(alone(&events).len(), 3);
    let first = events.iter().position(|event| matches!(event, Event::Alone(..))).unwrap();
    let Event::Alone(entry, 1) = &events[first] else { panic!("{events:?}") };
    assert!(!events[..first].iter().any(|event| matches!(event, Event::Settled(settled, _) if settled == entry)), "{events:?}");
}

#[tokio::test]
async fn crashes_are_attempts_and_the_last_one_sets_aside() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let attempts = Arc::clone(&seen);
    let bench = bench("attempts = 3", move |call| {
        attempts.lock().unwrap().push(call.attempt);
        async { answer(Status::Retry, "no database") }
    });
    bench.recorder.push_suspect(job(&bench.session(), 1), 3);
    bench.recorder.push_suspect(job(&bench.session(), 1), 2);
    let events = bench.recorder.settled(2).await;
    assert_eq!(*seen.lock().unwrap(), [3], "only the one with an attempt left runs");
    let reasons: Vec<&str> =
        verdicts(&events).iter().map(|verdict| if let Verdict::Dead { reason, .. } = verdict { reason.as_str() } else { "none" }).collect();
    assert!(reasons.iter().any(|reason| reason.contains("ended 3 times while this message ran alone")), "{reasons:?}");
    assert!(reasons.contains(&"no database"), "{reasons:?}");
    assert_eq!(bodies(&events).len(), 2, "both clients are told");
}

#[tokio::test]
async fn a_start_that_nobody_crashed_at_is_taken_back() {
    let (bench, started, go) = gated();
    bench.recorder.push_suspect(job(&bench.session(), 1), 0);
    time::timeout(SOON, started.notified()).await.unwrap();
    bench.recorder.is_lease_lost.store(true, Ordering::SeqCst);
    go.notify_one();
    let (_, recorder) = bench.end().await;
    let events = recorder.events();
    assert_eq!(alone(&events).iter().map(|(_, by)| by).sum::<i32>(), 0, "{events:?}");
    assert_eq!(alone(&events).len(), 2);
}

#[tokio::test]
async fn a_suspect_whose_start_cannot_be_noted_waits() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let bench = bench("", move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        async { answer(Status::Done, "") }
    });
    *bench.recorder.failure.lock().unwrap() = Some(QueueError::Unreachable("away".to_owned()));
    bench.recorder.push_suspect(job(&bench.session(), 1), 0);
    bench.recorder.taken().await;
    time::sleep(Duration::from_millis(50)).await; // For the call that must not come.
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    *bench.recorder.failure.lock().unwrap() = None;
    bench.recorder.settled(1).await;
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

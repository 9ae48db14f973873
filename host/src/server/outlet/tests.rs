//! The queue of one session, and what all of them hold together.

use proptest::prelude::*;

use super::*;
use crate::server::backlog::Waiting as Sum;

const NOTHING: Sum = Sum { bytes: 0, holders: 0 };

fn limit(policy: SlowConsumer) -> OutletLimit {
    OutletLimit { bytes_max: 2 * (FRAME_OVERHEAD_BYTES + 1), total_bytes_max: u64::MAX, policy }
}

fn outlet() -> Outlet {
    Outlet::new(Arc::default())
}

fn push(outlet: &Outlet, text: &'static str, policy: SlowConsumer) {
    outlet.push(Bytes::from_static(text.as_bytes()), limit(policy));
}

fn frame(text: &'static str) -> Option<Outgoing> {
    Some(Outgoing::Frame(Bytes::from_static(text.as_bytes())))
}

#[test]
fn a_slow_consumer_is_closed_and_its_frames_are_dropped() {
    let outlet = outlet();
    for text in ["1", "2", "3", "4"] {
        push(&outlet, text, SlowConsumer::Close);
    }
    let Some(Outgoing::Close(closing)) = outlet.take() else { panic!("no close") };
    assert_eq!(closing.code, CloseCode::SlowConsumer);
}

#[test]
fn or_loses_its_oldest_frames() {
    let outlet = outlet();
    for text in ["1", "2", "3"] {
        push(&outlet, text, SlowConsumer::DropOldest);
    }
    assert_eq!((outlet.take(), outlet.take(), outlet.take()), (frame("2"), frame("3"), None));
}

#[test]
fn a_frame_over_the_limit_passes_while_little_waits() {
    let outlet = outlet();
    push(&outlet, "1", SlowConsumer::Close);
    outlet.push("x".repeat(1000).into(), limit(SlowConsumer::Close));
    assert_eq!(outlet.take(), frame("1"));
    assert!(matches!(outlet.take(), Some(Outgoing::Frame(_))));
}

#[test]
fn a_close_comes_after_earlier_frames_and_the_first_reason_stands() {
    let outlet = outlet();
    push(&outlet, "1", SlowConsumer::Close);
    outlet.close(CloseCode::Application, "bye");
    outlet.close(CloseCode::Idle, "idle");
    push(&outlet, "2", SlowConsumer::Close);
    assert_eq!(outlet.take(), frame("1"));
    let Some(Outgoing::Close(closing)) = outlet.take() else { panic!("no close") };
    assert_eq!((closing.code, closing.text.as_ref()), (CloseCode::Application, "bye"));
}

/// With 1000 bytes for all, who has the most waiting is closed, and nobody else.
#[test]
fn when_all_have_too_much_waiting_who_has_most_of_it_pays() {
    let backlog = Arc::<Backlog>::default();
    let limit = OutletLimit { bytes_max: 10_000, total_bytes_max: 1000, policy: SlowConsumer::Close };
    let (greedy, modest, new) = (Outlet::new(Arc::clone(&backlog)), Outlet::new(Arc::clone(&backlog)), Outlet::new(Arc::clone(&backlog)));
    let long = || Bytes::from("x".repeat(500 - FRAME_OVERHEAD_BYTES));
    greedy.push(long(), limit);
    modest.push(Bytes::from_static(b"1"), limit);
    modest.push(Bytes::from_static(b"2"), limit);
    new.push(long(), limit);
    assert_eq!(backlog.waiting().holders, 3);
    assert!(greedy.closing().is_none() && modest.closing().is_none() && new.closing().is_none(), "one frame is always taken");
    greedy.push(Bytes::from_static(b"one more"), limit);
    assert_eq!(greedy.closing().map(|closing| closing.code), Some(CloseCode::SlowConsumer));
    assert_eq!(backlog.waiting().bytes, 500 + 2 * (FRAME_OVERHEAD_BYTES as u64 + 1), "what it held is free");
    drop((greedy, modest, new));
    assert_eq!(backlog.waiting(), NOTHING);
}

#[test]
fn a_frame_counts_until_it_is_written() {
    let backlog = Arc::<Backlog>::default();
    let outlet = Outlet::new(Arc::clone(&backlog));
    push(&outlet, "1", SlowConsumer::Close);
    assert_eq!(outlet.take(), frame("1"));
    assert_eq!(backlog.waiting().holders, 1, "it is being written");
    assert_eq!(outlet.take(), None);
    assert_eq!(backlog.waiting(), NOTHING);
}

#[test]
fn who_takes_nothing_is_cut_whatever_was_asked_for_before() {
    let outlet = outlet();
    push(&outlet, "1", SlowConsumer::Close);
    outlet.close(CloseCode::Draining, "bye");
    assert!(outlet.cut("you take nothing"));
    assert!(!outlet.cut("you take nothing"), "once");
    let Some(Outgoing::Close(closing)) = outlet.take() else { panic!("no close") };
    assert!(closing.is_cut && closing.code == CloseCode::Draining);
    assert_eq!(outlet.backlog.waiting(), NOTHING);
}

#[derive(Debug, Clone)]
enum Step {
    Push(usize),
    Take,
    Close,
    Cut,
    End,
    Drop,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0_usize..3000).prop_map(Step::Push),
        6 => Just(Step::Take),
        1 => Just(Step::Close),
        1 => Just(Step::Cut),
        1 => Just(Step::End),
        1 => Just(Step::Drop),
    ]
}

proptest! {
    /// Four sessions of one process, with a limit of their own and one for all.
    #[test]
    fn the_sum_is_exact_and_bounded(steps in proptest::collection::vec((0_usize..4, step()), 1..200), is_closing in any::<bool>()) {
        let policy = if is_closing { SlowConsumer::Close } else { SlowConsumer::DropOldest };
        let limit = OutletLimit { bytes_max: 4000, total_bytes_max: 6000, policy };
        let backlog = Arc::<Backlog>::default();
        let mut outlets: Vec<_> = (0..4).map(|_| Outlet::new(Arc::clone(&backlog))).collect();
        for (index, step) in steps {
            let outlet = &mut outlets[index];
            match step {
                Step::Push(bytes) => outlet.push("x".repeat(bytes).into(), limit),
                Step::Take => drop(outlet.take()),
                Step::Close => outlet.close(CloseCode::Idle, ""),
                Step::Cut => {
                    outlet.cut("");
                }
                Step::End => outlet.end(),
                Step::Drop => *outlet = Outlet::new(Arc::clone(&backlog)),
            }
            let held = |outlet: &Outlet| {
                let state = outlet.lock();
                state.frames.iter().map(Waiting::bytes).sum::<usize>() + state.in_hand
            };
            let each: Vec<u64> = outlets.iter().map(|outlet| held(outlet) as u64).collect();
            let sum = Sum { bytes: each.iter().sum(), holders: each.iter().filter(|bytes| **bytes > 0).count() as u64 };
            prop_assert_eq!(backlog.waiting(), sum);
            prop_assert!(sum.bytes <= 6000 + 4 * 2 * 3064, "one frame of each beyond, and the one in its hand");
        }
        drop(outlets);
        prop_assert_eq!(backlog.waiting(), NOTHING);
    }
}

#[test]
fn the_sum_returns_to_nothing_from_many_threads() {
    let backlog = Arc::<Backlog>::default();
    let outlets: Vec<_> = (0..8).map(|_| Outlet::new(Arc::clone(&backlog))).collect();
    let limit = OutletLimit { bytes_max: 2000, total_bytes_max: 8000, policy: SlowConsumer::DropOldest };
    std::thread::scope(|scope| {
        for thread in 0..4_usize {
            let outlets = &outlets;
            scope.spawn(move || {
                for turn in 0..20_000_usize {
                    let outlet = &outlets[(turn * 7 + thread) % outlets.len()];
                    if (turn + thread) % 3 == 0 { drop(outlet.take()) } else { outlet.push("x".repeat(turn % 300).into(), limit) }
                }
            });
        }
    });
    assert!(backlog.waiting().bytes > 0);
    for outlet in &outlets {
        while outlet.take().is_some() {}
    }
    assert_eq!(backlog.waiting(), NOTHING);
}

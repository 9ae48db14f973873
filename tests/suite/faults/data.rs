//! Keys and entries that are not what they should be.

use std::time::Instant;

use plugsocket::wire::ids::{NodeId, SessionId};
use serde_json::json;

use super::{STEADY, load, start};
use crate::harness::app::App;
use crate::harness::redis::Redis;
use crate::harness::sequence;
use crate::harness::{PATIENCE, eventually};

const PARTITIONS: u32 = 8;

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_of_the_wrong_type_hurts_no_other_and_heals() {
    let app =
        App::start_on(Redis::start(), 1, 1, |config| sequence::with_tracer(config).with("queue_options.partitions", i64::from(PARTITIONS)));
    let running = load(&app, |plan| plan.interval *= 2).await;
    let key = "ps:{plugsocket:p3}:in";
    app.redis.cli(&["SET", key, "x"]);
    let broken = Instant::now(); // After it: what is sent while the tool starts may still be stored, and thrown away.
    running.go_on(STEADY / 2).await;
    assert!(running.refused() > 10, "its clients are told");
    app.workers[0].wait_line(&format!("DEL '{key}'"), PATIENCE);
    app.redis.cli(&["DEL", key]);
    let mended = Instant::now();
    tokio::time::sleep(mended - broken).await; // As many messages again.
    running.go_on(STEADY / 2).await;
    let refused = running.refused();
    running.go_on(STEADY / 2).await;
    assert_eq!(running.refused(), refused, "healed");
    let report = running.finish("a partition key of the wrong type").await;
    println!("{report}");
    report.assert_sound();
    assert!(report.errors.keys().eq(["busy"]), "{report}");
    // SET itself throws away what waited there.
    let in_it =
        |(index, sent): &(usize, Instant)| SessionId::parse(&report.ids[index]).unwrap().partition(PARTITIONS) == 3 && *sent < broken;
    assert!(report.lost.iter().all(in_it), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_are_no_jobs_are_set_aside_and_their_neighbours_run() {
    let app = start(1, 1);
    let running = load(&app, |plan| plan.interval *= 2).await;
    let fields = |change: fn(&mut Vec<(&str, String)>)| {
        let meta = json!({"session": SessionId::random(&NodeId::random().unwrap()).unwrap().as_str()}).to_string();
        let mut fields: Vec<(&str, String)> = [("c", "c"), ("u", ""), ("a", "trace"), ("s", "1"), ("t", "1"), ("i", ""), ("d", "{}")]
            .map(|(name, value)| (name, value.to_owned()))
            .into();
        fields.push(("m", meta));
        change(&mut fields);
        fields
    };
    let bad: [(&str, Vec<(&str, String)>); 7] = [
        ("field `d` is missing", fields(|fields| fields.retain(|field| field.0 != "d"))),
        ("field `m` is missing", fields(|fields| fields.retain(|field| field.0 != "m"))),
        ("field `s` can't be read", fields(|fields| fields[3].1 = "-1".to_owned())),
        ("field `d` can't be read", fields(|fields| fields[6].1 = "{".to_owned())),
        ("field `a` can't be read", fields(|fields| fields[2].1 = "x".repeat(100_000))),
        ("field `c` can't be read", fields(|fields| fields[0].1 = "x".repeat(100_000))),
        ("field `m` can't be read", fields(|fields| fields[7].1 = "nonsense".to_owned())),
    ];
    let key = "ps:{plugsocket:p5}:in";
    for (_, entry) in &bad {
        let mut command = vec!["XADD", key, "*"];
        command.extend(entry.iter().flat_map(|(name, value)| [*name, value.as_str()]));
        app.redis.cli(&command);
    }
    let huge = "redis.call('XADD', KEYS[1], '*', 'c', 'c', 'm', '{}', 'd', string.rep('1', 20000000))";
    app.redis.cli(&["EVAL", huge, "1", key]);
    let dead = "ps:{plugsocket:p5}:dead";
    let count = (bad.len() + 1).to_string();
    eventually("dead letters", PATIENCE, async || app.redis.cli(&["XLEN", dead]) == count).await;
    running.go_on(STEADY / 2).await;
    let report = running.finish("entries that are no jobs").await;
    println!("{report}");
    report.assert_nothing_lost();
    assert!(report.errors.is_empty(), "{report}");
    let letters = app.redis.cli(&["XRANGE", dead, "-", "+"]);
    for reason in bad.iter().map(|(reason, _)| *reason).chain(["field `d` can't be read: it has 20000000 bytes"]) {
        assert!(letters.contains(reason), "no {reason} in {letters:.2000}");
    }
    assert!(letters.len() < 100_000, "what is too large is not kept whole: {} bytes", letters.len());
    let pending = app.redis.cli(&["XPENDING", key, "w"]);
    assert!(pending.starts_with('0'), "settled: {pending}");
}

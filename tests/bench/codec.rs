//! Bytes in, bytes out: what reading and writing each kind of message costs by itself.

use std::hint::black_box;
use std::time::Instant;

use anyhow::Context;
use bytes::Bytes;
use plugsocket::wire::delivery::{Address, Body, Delivery, MessageName, Origin};
use plugsocket::wire::envelope::{Envelope, EnvelopeLimits};
use plugsocket::wire::frame;
use plugsocket::wire::ids::{NodeId, SessionId};
use plugsocket::wire::json::Json;
use plugsocket::wire::packed::{DELIVERIES_HEAD, Deliveries, put_delivery, put_job, take_job};

use crate::Bench;
use crate::load::Source;
use crate::redis::per;
use crate::report::{Figure, Row, median};

/// As the clients of the load generator send it: 128 bytes.
const FRAME: &str =
    r#"{"action":"echo","id":1000000001,"data":"c0000042 s0000000001 xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}"#;
const LIMITS: EnvelopeLimits = EnvelopeLimits { frame_bytes_max: 65_536, action_bytes_max: 128, json_depth_max: 64 };

pub fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let count = bench.pick(1_000, 300_000, 1_000_000);
    let time = |what, step: &dyn Fn()| {
        let round = |_| {
            let started = Instant::now();
            (0..count).for_each(|_| step());
            started.elapsed().as_secs_f64() * 1e9 / per(count)
        };
        Row::figure(what, Figure::new(median((0..bench.rounds()).map(round).collect()), "ns"))
    };
    let envelope = Envelope::parse(FRAME, &LIMITS)?;
    let data = Json::parse(Bytes::copy_from_slice(envelope.data.context("no data")?.get().as_bytes()))?;
    let job = Source::new(1)?.job();
    let mut packed_job = Vec::new();
    put_job(&mut packed_job, &job);
    let session = SessionId::random(&NodeId::random()?)?;
    let reply = Delivery {
        to: vec![Address::Session(session.clone())],
        except: None,
        body: Body::Reply { action: "echo".to_owned(), client_id: envelope.id.clone(), data: data.clone() },
        origin: Some(Origin { message: MessageName::Id(format!("{session}-1")), index: 0 }),
    };
    let mut packed_reply = DELIVERIES_HEAD.to_vec();
    put_delivery(&mut packed_reply, &reply);
    let packed_reply = Bytes::from(packed_reply);
    // What is read over and over below can be read at all.
    take_job(&packed_job)?;
    Deliveries::of(&packed_reply)?.next().context("no delivery")??;
    Ok(vec![
        time("a client's frame of 128 bytes, read", &|| drop(black_box(Envelope::parse(black_box(FRAME), &LIMITS)))),
        time("the frame of its answer, written", &|| drop(black_box(frame::message("echo", envelope.id.as_ref(), black_box(&data))))),
        time("a job, packed", &|| {
            let mut packed = Vec::with_capacity(packed_job.len());
            put_job(&mut packed, black_box(&job));
            drop(black_box(packed));
        }),
        time("a job, read", &|| drop(black_box(take_job(black_box(&packed_job))))),
        time("a delivery, packed", &|| {
            let mut packed = Vec::with_capacity(packed_reply.len());
            put_delivery(&mut packed, black_box(&reply));
            drop(black_box(packed));
        }),
        time("a delivery, read", &|| drop(black_box(Deliveries::of(black_box(&packed_reply)).map(|mut all| all.next())))),
    ])
}

//! Bytes in, bytes out: what reading and writing each kind of message costs by itself.

use std::hint::black_box;
use std::time::Instant;

use anyhow::Context;
use bytes::Bytes;
use plugsocket::wire::delivery::{Address, Body, Delivery, Origin};
use plugsocket::wire::envelope::{Envelope, EnvelopeLimits};
use plugsocket::wire::frame;
use plugsocket::wire::ids::{NodeId, SessionId};
use plugsocket::wire::job::{JOB_FIELDS, Job};
use plugsocket::wire::json::Json;

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
    let fields = job.to_fields();
    let session = SessionId::random(&NodeId::random()?)?;
    let reply = Delivery {
        to: vec![Address::Session(session.clone())],
        except: None,
        body: Body::Reply { action: "echo".to_owned(), client_id: envelope.id.clone(), data: data.clone() },
        origin: Some(Origin { message_id: format!("{session}-1"), index: 0 }),
    };
    let (header, body) = reply.to_fields();
    // What is read once more below can be read at all.
    Job::from_fields(JOB_FIELDS.iter().zip(&fields).map(|(name, value)| (name.as_bytes(), &value[..])))?;
    Delivery::from_fields(&header, body.clone())?;
    Ok(vec![
        time("a client's frame of 128 bytes, read", &|| drop(black_box(Envelope::parse(black_box(FRAME), &LIMITS)))),
        time("the frame of its answer, written", &|| drop(black_box(frame::message("echo", envelope.id.as_ref(), black_box(&data))))),
        time("a job, written", &|| drop(black_box(black_box(&job).to_fields()))),
        time("a job, read", &|| {
            let fields = JOB_FIELDS.iter().zip(black_box(&fields)).map(|(name, value)| (name.as_bytes(), &value[..]));
            drop(black_box(Job::from_fields(fields)));
        }),
        time("a delivery, written", &|| drop(black_box(black_box(&reply).to_fields()))),
        time("a delivery, read", &|| drop(black_box(Delivery::from_fields(black_box(&header), body.clone())))),
    ])
}

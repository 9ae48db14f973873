//! `slow`: handlers that take their time, so many at once: how much longer all of them take than they must.

use std::time::Duration;

use anyhow::{Context, ensure};

use crate::app::{App, Kind, Setup};
use crate::bench::{Bench, Figures, Window};
use crate::clock;
use crate::frame;
use crate::net::{PATIENCE, Receiver};
use crate::scenario::trip::clients;

/// What one call sleeps: the least that the chat's `report` does.
const CALL_SECONDS: f64 = 0.05;
const SLOTS: [usize; 2] = [8, 64];

pub fn run(bench: &mut Bench) -> anyhow::Result<()> {
    for slots in SLOTS {
        // No whole number of rounds over the slots, as in life.
        let messages = bench.pick(2, 10, 20) * slots - slots / 2;
        let row = format!("{slots} slots");
        let figures = bench.undisturbed(|bench| measure(bench, slots, messages)).with_context(|| row.clone())?;
        bench.add("slow", row, figures);
        bench.redis.flush()?;
    }
    Ok(())
}

fn measure(bench: &Bench, slots: usize, messages: usize) -> anyhow::Result<(Figures, f64)> {
    let app = App::start(&bench.bins(), &bench.redis, Setup { slots: Some(slots), ..Setup::of(Kind::RedisRunners) })?;
    // A connection for each message: those of one wait for each other.
    let mut net = clients(&app, messages)?;
    let mut bytes = Vec::new();
    let text = format!(r#"{{"action":"report","id":1,"data":{{"seconds":{CALL_SECONDS},"steps":1}}}}"#);
    frame::write(frame::TEXT, text.as_bytes(), &mut bytes);
    let window = Window::of(bench, &app)?;
    let started = clock::now();
    for connection in 0..messages {
        net.send(connection, &bytes)?;
    }
    let mut reports = Reports { done: vec![false; messages], left: messages, last: started };
    let (mut left, mut moved) = (messages, started);
    while reports.left > 0 {
        net.turn(Some(Duration::from_millis(100)), &mut reports)?;
        if reports.left < left {
            (left, moved) = (reports.left, clock::now());
        }
        ensure!(clock::now() < moved + PATIENCE, "{left} of {messages} were never answered");
    }
    let (mut figures, others) = window.close(Some(&bench.redis), messages as u64)?;
    figures.remove("batch");
    let least = messages.div_ceil(slots) as f64 * CALL_SECONDS;
    figures.insert("overrun", (reports.last - started) as f64 / 1e9 / least);
    Ok((figures, others))
}

struct Reports {
    done: Vec<bool>,
    left: usize,
    last: u64,
}

impl Receiver for Reports {
    fn message(&mut self, connection: usize, payload: &[u8], now: u64) -> anyhow::Result<()> {
        let text = String::from_utf8_lossy(payload);
        if text.contains(r#""action":"report_progress""#) {
            return Ok(());
        }
        ensure!(text.contains(r#""finished":true"#), "connection {connection} was told {text}");
        ensure!(!self.done[connection], "connection {connection} was answered twice");
        (self.done[connection], self.last) = (true, now);
        self.left -= 1;
        Ok(())
    }
}

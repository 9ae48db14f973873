//! The closed loop: each connection has so many messages unanswered, and sends another for each answer.

use std::time::Duration;

use anyhow::ensure;

use crate::clock;
use crate::echo::{Check, Kind, Request};
use crate::histogram::Histogram;
use crate::net::{Net, PATIENCE, Receiver};
use crate::reference::nats;

const TURN: Duration = Duration::from_millis(20);

/// One connection's messages.
struct Flow {
    sent: u64,
    answered: u64,
    /// When each unanswered one was sent.
    times: Vec<u64>,
}

/// Sends and checks; [`run`] drives it.
pub struct Closed {
    request: Request,
    check: Check,
    in_flight: u64,
    flows: Vec<Flow>,
    pub latency: Histogram,
    pub answers: u64,
    stopping: bool,
    /// What came in of each connection to NATS and is no whole message yet.
    nats: Option<Vec<Vec<u8>>>,
}

impl Closed {
    pub fn new(connections: usize, in_flight: usize) -> Self {
        let flow = || Flow { sent: 0, answered: 0, times: vec![0; in_flight] };
        Self {
            request: Request::new(),
            check: Check::new(Request::new()),
            in_flight: in_flight as u64,
            flows: (0..connections).map(|_| flow()).collect(),
            latency: Histogram::new(),
            answers: 0,
            stopping: false,
            nats: None,
        }
    }

    /// The same messages through NATS.
    pub fn to_nats(connections: usize, in_flight: usize) -> Self {
        Self { request: Request::to_nats(nats::SUBJECT), nats: Some(vec![Vec::new(); connections]), ..Self::new(connections, in_flight) }
    }

    /// Sends the first messages of every connection.
    pub fn start(&mut self, net: &mut Net) -> anyhow::Result<()> {
        for connection in 0..self.flows.len() {
            let mut out = Vec::new();
            self.fill(connection, &mut out);
            net.send(connection, &out)?;
        }
        Ok(())
    }

    /// Goes on for so long.
    pub fn run(&mut self, net: &mut Net, time: Duration) -> anyhow::Result<()> {
        let start = clock::now();
        let end = start + time.as_nanos() as u64;
        net.wake_at(end)?;
        let (mut answers, mut moved) = (self.answers, start);
        loop {
            net.turn(Some(TURN), self)?;
            let now = clock::now();
            if now >= end {
                return Ok(());
            }
            if self.answers > answers {
                (answers, moved) = (self.answers, now);
            }
            ensure!(now < moved + PATIENCE, "no answer for {} s", PATIENCE / clock::SECOND);
        }
    }

    /// Waits for all answers; nothing may be missing or too much.
    pub fn finish(&mut self, net: &mut Net) -> anyhow::Result<()> {
        self.stopping = true;
        let end = clock::now() + PATIENCE;
        while self.flows.iter().any(|flow| flow.answered < flow.sent) {
            net.turn(Some(TURN), self)?;
            let missing: u64 = self.flows.iter().map(|flow| flow.sent - flow.answered).sum();
            ensure!(clock::now() < end, "{missing} messages were never answered");
        }
        // An answer too many would come now.
        net.turn(Some(TURN), self)
    }

    pub fn clear(&mut self) {
        self.latency.clear();
        self.answers = 0;
    }

    fn fill(&mut self, connection: usize, out: &mut Vec<u8>) {
        let flow = &mut self.flows[connection];
        if self.stopping || flow.sent - flow.answered >= self.in_flight {
            return;
        }
        let now = clock::now();
        while flow.sent - flow.answered < self.in_flight {
            out.extend_from_slice(self.request.encode(connection, flow.sent));
            flow.times[(flow.sent % self.in_flight) as usize] = now;
            flow.sent += 1;
        }
    }
}

impl Closed {
    fn answer(&mut self, connection: usize, payload: &[u8], now: u64) -> anyhow::Result<()> {
        let flow = &mut self.flows[connection];
        if self.check.answer(payload, connection, flow.answered)? == Kind::Answer {
            ensure!(flow.answered < flow.sent, "connection {connection} got an answer to what it never sent");
            self.latency.record(now.saturating_sub(flow.times[(flow.answered % self.in_flight) as usize]));
            flow.answered += 1;
            self.answers += 1;
        }
        Ok(())
    }
}

impl Receiver for Closed {
    fn message(&mut self, connection: usize, payload: &[u8], now: u64) -> anyhow::Result<()> {
        let Some(streams) = &mut self.nats else { return self.answer(connection, payload, now) };
        let mut bytes = std::mem::take(&mut streams[connection]);
        bytes.extend_from_slice(payload);
        nats::messages(&mut bytes, |_, payload| self.answer(connection, payload, now))?;
        if let Some(streams) = &mut self.nats {
            streams[connection] = bytes;
        }
        Ok(())
    }

    fn after(&mut self, connection: usize, out: &mut Vec<u8>) -> anyhow::Result<()> {
        self.fill(connection, out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(sequence: u64) -> Vec<u8> {
        Request::new().encode(0, sequence)[8..].to_vec()
    }

    #[test]
    fn each_answer_makes_room_for_one_more() {
        let mut load = Closed::new(1, 2);
        let mut out = Vec::new();
        load.after(0, &mut out).unwrap();
        assert_eq!((load.flows[0].sent, out.len()), (2, 2 * answer(0).len() + 16));
        load.message(0, &answer(0), clock::now()).unwrap();
        load.after(0, &mut out).unwrap();
        assert_eq!((load.flows[0].sent, load.flows[0].answered, load.answers), (3, 1, 1));
    }

    #[test]
    fn lost_doubled_and_unasked_answers_are_errors() {
        for (answers, why) in [(vec![0, 0], "twice"), (vec![1], "one was lost"), (vec![0, 1, 2], "nobody asked")] {
            let mut load = Closed::new(1, 2);
            load.after(0, &mut Vec::new()).unwrap();
            let (last, before) = answers.split_last().unwrap();
            for sequence in before {
                load.message(0, &answer(*sequence), clock::now()).unwrap();
            }
            assert!(load.message(0, &answer(*last), clock::now()).is_err(), "{why}");
        }
    }

    #[test]
    fn answers_of_nats_are_found_in_its_stream() {
        let mut load = Closed::to_nats(1, 1);
        load.after(0, &mut Vec::new()).unwrap();
        let bytes = [b"MSG inbox.0 1 128\r\n", answer(0).as_slice(), b"\r\n"].concat();
        for part in bytes.chunks(50) {
            load.message(0, part, clock::now()).unwrap();
        }
        assert_eq!(load.answers, 1);
    }
}

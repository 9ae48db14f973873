//! The open loop: messages leave at the moments of a plan, evenly spaced and spread over the connections, whatever became of the ones before.
//! A latency begins at the planned moment, so that a stall counts for all that should have been sent during it.

use std::fmt;
use std::time::Duration;

use anyhow::{bail, ensure};

use crate::clock::{self, SECOND};
use crate::echo::{Check, Kind, Request};
use crate::histogram::Histogram;
use crate::net::{Net, PATIENCE, Receiver};

const TURN: Duration = Duration::from_millis(20);
/// So many seconds of messages may be unanswered.
pub const BEHIND_SECONDS_MAX: f64 = 3.0;

/// The other side can't keep up with the rate.
#[derive(Debug)]
pub struct Saturated {
    unanswered: u64,
    rate: f64,
}

impl fmt::Display for Saturated {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "saturated at {:.0}/s: {} messages are unanswered", self.rate, self.unanswered)
    }
}

impl std::error::Error for Saturated {}

/// A part of the plan whose latencies are kept apart.
pub struct Span {
    /// Planned moments from here …
    pub from: u64,
    /// … to before here.
    pub to: u64,
    pub latency: Histogram,
}

impl Span {
    pub fn new(from: u64, to: u64) -> Self {
        Self { from, to, latency: Histogram::new() }
    }
}

/// Sends by the plan and checks.
pub struct Open {
    request: Request,
    check: Check,
    rate: f64,
    pub start: u64,
    answered: Vec<u64>,
    sent: u64,
    pub answers: u64,
    pub spans: Vec<Span>,
    /// How late messages were sent, the generator's own share of the latency.
    pub lag: Histogram,
    out: Vec<Vec<u8>>,
}

impl Open {
    pub fn new(connections: usize, rate: f64) -> Self {
        Self {
            request: Request::new(),
            check: Check::new(Request::new()),
            rate,
            start: clock::now() + clock::MILLISECOND,
            answered: vec![0; connections],
            sent: 0,
            answers: 0,
            spans: Vec::new(),
            lag: Histogram::new(),
            out: vec![Vec::new(); connections],
        }
    }

    /// When message `number` of all is to leave.
    fn moment(&self, number: u64) -> u64 {
        self.start + (number as f64 * SECOND as f64 / self.rate) as u64
    }

    /// Goes on until that moment.
    pub fn run(&mut self, net: &mut Net, until: u64) -> anyhow::Result<()> {
        loop {
            self.send_due(net, until)?;
            let now = clock::now();
            if now >= until {
                return Ok(());
            }
            net.wake_at(self.moment(self.sent).min(until))?;
            net.turn(Some(TURN), self)?;
            let unanswered = self.sent - self.answers;
            if unanswered as f64 > self.rate * BEHIND_SECONDS_MAX + 1_000.0 {
                return Err(Saturated { unanswered, rate: self.rate }.into());
            }
        }
    }

    /// Waits for all answers.
    pub fn finish(&mut self, net: &mut Net) -> anyhow::Result<()> {
        let end = clock::now() + PATIENCE;
        while self.answers < self.sent {
            net.turn(Some(TURN), self)?;
            if clock::now() > end {
                bail!("{} messages were never answered", self.sent - self.answers);
            }
        }
        net.turn(Some(TURN), self)
    }

    fn send_due(&mut self, net: &mut Net, until: u64) -> anyhow::Result<()> {
        let connections = self.out.len() as u64;
        let now = clock::now();
        let first = self.sent;
        loop {
            let moment = self.moment(self.sent);
            if moment > now || moment >= until {
                break;
            }
            let (connection, sequence) = ((self.sent % connections) as usize, self.sent / connections);
            self.out[connection].extend_from_slice(self.request.encode(connection, sequence));
            self.lag.record(now - moment);
            self.sent += 1;
        }
        for number in first..self.sent.min(first + connections) {
            let connection = (number % connections) as usize;
            net.send(connection, &self.out[connection])?;
            self.out[connection].clear();
        }
        Ok(())
    }
}

impl Receiver for Open {
    fn message(&mut self, connection: usize, payload: &[u8], now: u64) -> anyhow::Result<()> {
        let sequence = self.answered[connection];
        if self.check.answer(payload, connection, sequence)? == Kind::Other {
            return Ok(());
        }
        let number = sequence * self.answered.len() as u64 + connection as u64;
        ensure!(number < self.sent, "connection {connection} got an answer to what it never sent");
        let moment = self.moment(number);
        if let Some(span) = self.spans.iter_mut().find(|span| span.from <= moment && moment < span.to) {
            span.latency.record(now.saturating_sub(moment));
        }
        self.answered[connection] += 1;
        self.answers += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_begin_at_the_planned_moment() {
        let mut load = Open::new(2, 1_000.0);
        load.sent = 4;
        let from = load.moment(1);
        load.spans = vec![Span::new(from, load.moment(3))];
        let answer = |connection, sequence| Request::new().encode(connection, sequence)[8..].to_vec();
        // Messages 0 and 2 are of the first connection, 1 and 3 of the second; 0 and 3 are not in the span.
        for (connection, sequence) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
            load.message(connection, &answer(connection, sequence), from + 5 * clock::MILLISECOND).unwrap();
        }
        assert_eq!(load.answers, 4);
        assert!((load.spans[0].latency.max_us() - 5_000.0).abs() < 1.0, "of message 1");
        assert!((load.spans[0].latency.quantile_us(0.5) - 4_000.0).abs() < 100.0, "of message 2");
        assert!(load.message(0, &answer(0, 2), from).is_err(), "it was never sent");
    }
}

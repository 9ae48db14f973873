//! A pile of messages that nobody works off yet: each is stored before it counts, and each is answered later.

use std::time::Duration;

use anyhow::ensure;

use crate::clock;
use crate::echo::{Check, Kind, Request};
use crate::net::{Net, PATIENCE, Receiver};

const TURN: Duration = Duration::from_millis(20);
const ACCEPTED: &[u8] = br#"{"action":"accepted""#;
/// Sent and not stored yet, of each connection.
const UNSTORED: u64 = 64;

struct Flow {
    sent: u64,
    stored: u64,
    answered: u64,
}

/// Sends until so many are stored, and then waits for the answers.
pub struct Backlog {
    request: Request,
    check: Check,
    flows: Vec<Flow>,
    each: u64,
    stored: u64,
    answered: u64,
}

impl Backlog {
    /// `count` messages, as many of each connection.
    pub fn new(connections: usize, count: usize) -> Self {
        let flow = || Flow { sent: 0, stored: 0, answered: 0 };
        let flows = (0..connections).map(|_| flow()).collect();
        Self {
            request: Request::with_receipt(),
            check: Check::new(Request::with_receipt()),
            flows,
            each: count.div_ceil(connections) as u64,
            stored: 0,
            answered: 0,
        }
    }

    pub fn count(&self) -> u64 {
        self.each * self.flows.len() as u64
    }

    /// Until all are stored.
    pub fn store(&mut self, net: &mut Net) -> anyhow::Result<()> {
        for connection in 0..self.flows.len() {
            let mut out = Vec::new();
            self.after(connection, &mut out)?;
            net.send(connection, &out)?;
        }
        self.wait(net, |this| this.stored)
    }

    /// Until all are answered.
    pub fn drain(&mut self, net: &mut Net) -> anyhow::Result<()> {
        self.wait(net, |this| this.answered)
    }

    fn wait(&mut self, net: &mut Net, done: fn(&Self) -> u64) -> anyhow::Result<()> {
        let (mut last, mut moved) = (done(self), clock::now());
        while done(self) < self.count() {
            net.turn(Some(TURN), self)?;
            if done(self) > last {
                (last, moved) = (done(self), clock::now());
            }
            ensure!(clock::now() < moved + PATIENCE, "{} of {} and no more for {} s", last, self.count(), PATIENCE / clock::SECOND);
        }
        Ok(())
    }
}

impl Receiver for Backlog {
    fn message(&mut self, connection: usize, payload: &[u8], _now: u64) -> anyhow::Result<()> {
        let flow = &mut self.flows[connection];
        if payload.starts_with(ACCEPTED) {
            flow.stored += 1;
            self.stored += 1;
            ensure!(flow.stored <= flow.sent, "connection {connection} was told of more messages than it sent");
        } else if self.check.answer(payload, connection, flow.answered)? == Kind::Answer {
            ensure!(flow.answered < flow.stored, "connection {connection} got an answer to what it never sent");
            flow.answered += 1;
            self.answered += 1;
        }
        Ok(())
    }

    fn after(&mut self, connection: usize, out: &mut Vec<u8>) -> anyhow::Result<()> {
        let flow = &mut self.flows[connection];
        while flow.sent < self.each && flow.sent - flow.stored < UNSTORED {
            out.extend_from_slice(self.request.encode(connection, flow.sent));
            flow.sent += 1;
        }
        Ok(())
    }
}

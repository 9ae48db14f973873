//! Messages that nobody asked for, numbered, and the check that everybody they are for gets each of them once and in order.

use anyhow::{Context, bail, ensure};

use crate::clock;
use crate::histogram::Histogram;
use crate::net::Receiver;

/// The action they are sent as.
pub const ACTION: &str = "news";
const DIGITS: usize = 10;

/// Who gets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// The first so many connections get each of them.
    First(usize),
    /// One of so many connections gets each of them, in turn.
    OneOf(usize),
}

/// The data of one; as long as a message of the other scenarios makes an answer.
pub fn data(number: u64) -> String {
    format!(r#"{{"n":"{number:010}","text":"{}"}}"#, "x".repeat(70))
}

/// What was sent and who got it.
pub struct Notices {
    audience: Audience,
    /// When each was sent, or should have been, and how many have still to get it.
    sent: Vec<(u64, usize)>,
    /// How many each connection got.
    got: Vec<u64>,
    /// Whole bytes of one, and where its number stands.
    known: Option<(Vec<u8>, usize)>,
    /// How many have been got by all they are for.
    pub complete: usize,
    pub deliveries: u64,
    /// Until each receipt.
    pub each: Histogram,
    /// Until the last receipt.
    pub last: Histogram,
}

impl Notices {
    pub fn new(audience: Audience, connections: usize) -> Self {
        let (each, last) = (Histogram::new(), Histogram::new());
        Self { audience, sent: Vec::new(), got: vec![0; connections], known: None, complete: 0, deliveries: 0, each, last }
    }

    pub fn sent(&self) -> usize {
        self.sent.len()
    }

    pub fn in_flight(&self) -> usize {
        self.sent.len() - self.complete
    }

    /// Who gets the next one, when it is for one only.
    pub fn next_target(&self) -> usize {
        match self.audience {
            Audience::First(_) => 0,
            Audience::OneOf(count) => self.sent.len() % count,
        }
    }

    /// Notes that the next one is sent; `moment` is when its time begins.
    pub fn note(&mut self, moment: u64) {
        let receivers = match self.audience {
            Audience::First(count) => count,
            Audience::OneOf(_) => 1,
        };
        self.sent.push((moment, receivers));
    }

    pub fn clear(&mut self) {
        self.deliveries = 0;
        self.clear_times();
    }

    /// As [`Self::clear`], but goes on counting.
    pub fn clear_times(&mut self) {
        self.each.clear();
        self.last.clear();
    }

    /// The number that a connection has to get next.
    fn expected(&self, connection: usize) -> Option<usize> {
        let got = self.got[connection] as usize;
        match self.audience {
            Audience::First(count) => (connection < count).then_some(got),
            Audience::OneOf(count) => (connection < count).then_some(got * count + connection),
        }
    }

    fn is_known(&self, payload: &[u8], digits: &[u8]) -> bool {
        self.known.as_ref().is_some_and(|(bytes, at)| {
            let end = at + DIGITS;
            payload.len() == bytes.len() && payload[*at..end] == *digits && payload[..*at] == bytes[..*at] && payload[end..] == bytes[end..]
        })
    }

    /// Whether it is one of ours; the first one shows how they look.
    fn look_closely(&mut self, payload: &[u8], connection: usize, expected: Option<usize>) -> anyhow::Result<bool> {
        let said = String::from_utf8_lossy(payload);
        ensure!(!said.contains(r#""action":"error""#), "connection {connection} was told {said}");
        if !said.contains(&format!(r#""action":"{ACTION}""#)) {
            return Ok(false);
        }
        let Some(expected) = expected else { bail!("connection {connection} got what is not for it: {said}") };
        let digits = format!(r#""n":"{expected:010}""#);
        let at = said.find(&digits).with_context(|| format!("connection {connection} expected {expected} and got {said}"))?;
        self.known = Some((payload.to_vec(), at + 5));
        Ok(true)
    }
}

impl Receiver for Notices {
    fn message(&mut self, connection: usize, payload: &[u8], now: u64) -> anyhow::Result<()> {
        let expected = self.expected(connection);
        let mut digits = [b'0'; DIGITS];
        let mut rest = expected.unwrap_or(usize::MAX);
        for digit in digits.iter_mut().rev() {
            *digit += (rest % 10) as u8;
            rest /= 10;
        }
        let is_known = expected.is_some() && self.is_known(payload, &digits);
        if !is_known && !self.look_closely(payload, connection, expected)? {
            return Ok(());
        }
        let sent = expected.and_then(|number| self.sent.get_mut(number));
        let (moment, left) = sent.with_context(|| format!("connection {connection} got what was not sent"))?;
        ensure!(*left > 0, "connection {connection} got one twice");
        *left -= 1;
        let took = now.saturating_sub(*moment);
        if *left == 0 {
            self.complete += 1;
            self.last.record(took);
        }
        self.each.record(took);
        self.got[connection] += 1;
        self.deliveries += 1;
        Ok(())
    }
}

/// When the next of a paced series is due.
pub fn due(start: u64, number: usize, per_second: f64) -> u64 {
    start + (number as f64 * clock::SECOND as f64 / per_second) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(number: u64) -> Vec<u8> {
        format!(r#"{{"action":"news","data":{}}}"#, data(number)).into_bytes()
    }

    #[test]
    fn everybody_gets_each_once() {
        let mut notices = Notices::new(Audience::First(2), 3);
        notices.note(0);
        notices.note(10);
        for (connection, number) in [(0, 0), (0, 1), (1, 0)] {
            notices.message(connection, &frame(number), 1_000).unwrap();
        }
        assert_eq!((notices.complete, notices.in_flight(), notices.deliveries), (1, 1, 3));
        assert!(notices.message(1, &frame(0), 1_000).is_err(), "twice");
        assert!(notices.message(2, &frame(0), 1_000).is_err(), "not for it");
        assert!(notices.message(0, &frame(2), 1_000).is_err(), "not sent");
        notices.message(1, br#"{"action":"joined","data":{}}"#, 1_000).unwrap();
        notices.message(1, &frame(1), 1_000).unwrap();
        assert_eq!(notices.in_flight(), 0);
    }

    #[test]
    fn one_of_many_gets_each() {
        let mut notices = Notices::new(Audience::OneOf(2), 2);
        for _ in 0..4 {
            notices.note(0);
        }
        for (connection, number) in [(0, 0), (1, 1), (0, 2)] {
            notices.message(connection, &frame(number), 1_000).unwrap();
        }
        assert_eq!((notices.complete, notices.next_target()), (3, 0));
        assert!(notices.message(0, &frame(3), 1_000).is_err(), "for the other");
    }
}

//! One connection of the writer with the pipelines that are on their way on it: answers come in the order of sending, in pieces of any size.

use std::collections::VecDeque;
use std::time::Duration;

use redis::Value;
use tokio::time::{self, Instant};

use super::commands::Commands;
use super::link::{Link, LinkError};
use super::resp;

/// The answers to a pipeline, or why they will not come.
pub(super) type Reply = Result<Vec<Value>, LinkError>;

/// A pipeline on its way: answers come in the order of tickets.
struct Sent {
    ticket: u64,
    since: Instant,
    /// Whether an answer is wanted itself, in the order of the commands.
    wanted: Vec<bool>,
    answers: Vec<Value>,
}

/// A connection, and what is on its way on it.
pub(super) struct Line {
    link: Link,
    /// How long an answer may take.
    within: Duration,
    sent: VecDeque<Sent>,
    tickets: u64,
}

impl Line {
    pub(super) fn new(link: Link, within: Duration) -> Self {
        Self { link, within, sent: VecDeque::new(), tickets: 0 }
    }

    /// Puts a pipeline behind all that was sent before; `None` when there is nothing in it. `wanted`: whether an answer is wanted itself, not
    /// only how it went, in the order of the commands.
    pub(super) fn send(&mut self, commands: &Commands, wanted: Vec<bool>) -> Option<u64> {
        if wanted.is_empty() {
            return None;
        }
        self.link.queue(commands.bytes());
        self.tickets += 1;
        self.sent.push_back(Sent { ticket: self.tickets, since: Instant::now(), answers: Vec::with_capacity(wanted.len()), wanted });
        Some(self.tickets)
    }

    /// Resolves when all answers of a pipeline have come. Cancel-safe: what has come is kept.
    pub(super) async fn answers(&mut self, ticket: u64) -> Reply {
        loop {
            while let Some(open) = self.sent.iter_mut().find(|sent| sent.answers.len() < sent.wanted.len()) {
                let read = if open.wanted[open.answers.len()] { resp::value } else { resp::outcome };
                match self.link.next_with(read)? {
                    Some(answer) => open.answers.push(answer?),
                    None => break,
                }
            }
            let Some(index) = self.sent.iter().position(|sent| sent.ticket == ticket) else { return Ok(Vec::new()) };
            let sent = &self.sent[index];
            if sent.answers.len() == sent.wanted.len() {
                return Ok(self.sent.remove(index).map(|sent| sent.answers).unwrap_or_default());
            }
            let late = sent.since + self.within;
            time::timeout_at(late, self.link.receive()).await.unwrap_or(Err(LinkError::Late(self.within)))?;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;
    use crate::queue::redis::commands::Packing;

    const WITHIN: Duration = Duration::from_millis(200);

    /// A line, and the server's end of it.
    fn line() -> (Line, DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        (Line::new(Link::new(Box::new(ours)), WITHIN), theirs)
    }

    fn pings(count: usize) -> Commands {
        let mut commands = Packing::default();
        (0..count).for_each(|_| commands.add_packed(b"PING\r\n"));
        commands.finish()
    }

    #[tokio::test]
    async fn answers_find_their_pipeline() {
        let (mut line, mut server) = line();
        let first = line.send(&pings(2), vec![true, false]).unwrap();
        let second = line.send(&pings(1), vec![true]).unwrap();
        assert_eq!(line.send(&pings(0), Vec::new()), None);
        assert!(time::timeout(Duration::from_millis(1), line.answers(first)).await.is_err());
        let mut sent = [0; 18];
        server.read_exact(&mut sent).await.unwrap();
        for piece in [&b"$3\r\na"[..], b"bc\r", b"\n$3\r\nxyz\r\n:"] {
            server.write_all(piece).await.unwrap();
            let _ = time::timeout(Duration::from_millis(1), line.answers(second)).await;
        }
        assert_eq!(line.answers(first).await.unwrap(), [Value::BulkString(b"abc".to_vec()), Value::Okay], "kept while others waited");
        // Sent again, it comes behind the second.
        let again = line.send(&pings(1), vec![true]).unwrap();
        server.write_all(b"7\r\n+PONG\r\n").await.unwrap();
        assert_eq!(line.answers(again).await.unwrap(), [Value::SimpleString("PONG".to_owned())]);
        assert_eq!(line.answers(second).await.unwrap(), [Value::Int(7)]);
    }

    #[tokio::test]
    async fn silence_nonsense_and_an_end_are_errors() {
        let (mut silent, _server) = line();
        let ticket = silent.send(&pings(1), vec![false]).unwrap();
        let started = Instant::now();
        assert!(matches!(silent.answers(ticket).await, Err(LinkError::Late(_))));
        assert!(started.elapsed() >= WITHIN);
        let (mut confused, mut server) = line();
        let ticket = confused.send(&pings(1), vec![false]).unwrap();
        server.write_all(b"what?\r\n").await.unwrap();
        assert!(matches!(confused.answers(ticket).await, Err(LinkError::Malformed(_))));
        let (mut ended, server) = line();
        let ticket = ended.send(&pings(1), vec![false]).unwrap();
        drop(server);
        assert!(matches!(ended.answers(ticket).await, Err(LinkError::Io(_))));
    }
}

//! What the sequence checker found out about a fault, in one line and by message.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::sequence::{Sent, Tally};

/// Cases of disorder that are told.
const EXAMPLES_MAX: usize = 5;

/// What the action sends to its connection.
#[derive(Debug, Clone, serde::Deserialize)]
pub struct Push {
    pub number: u64,
    /// The worker that ran the action.
    pub process: u64,
    /// That worker's clock, milliseconds since the Unix epoch.
    pub time: u64,
    /// Milliseconds until the call's deadline, at its start.
    pub left: u64,
}

/// One run of a message.
#[derive(Debug, Clone)]
pub struct Run {
    pub connection: u64,
    pub number: u64,
    /// The worker that ran it, or the server.
    pub process: u64,
    /// That worker's clock, milliseconds since the Unix epoch.
    pub time: u64,
    /// The same in microseconds.
    pub micros: u64,
    /// The process that the plugin's code ran in: a runner, or the worker itself.
    pub runner: u64,
    /// Neither a crash nor a failure of the plugin's.
    pub is_good: bool,
    /// A build of the plugin's that is bad on purpose.
    pub is_bad_build: bool,
}

/// How it went. Each count is of messages unless said otherwise.
#[derive(Debug, Default)]
pub struct Report {
    pub fault: String,
    pub connections: usize,
    /// The connections' ids, by number.
    pub ids: HashMap<usize, String>,
    pub sent: u64,
    pub accepted: u64,
    /// Handled, with an answer that is no error.
    pub done: u64,
    /// Messages that crash their plugin, sent, and given up with the code `failed`: not counted among errors.
    pub poisons: u64,
    pub poisons_failed: u64,
    /// Stored and never answered: whose it was, and when it was sent.
    pub lost: Vec<(usize, Instant)>,
    /// Neither stored nor answered, on a connection that stayed open.
    pub silent: u64,
    pub answered_twice: u64,
    /// Runs beyond the first.
    pub ran_twice: u64,
    /// First runs behind the first run of a later message of the same connection.
    pub out_of_order: u64,
    /// The first of these, each with the later message that ran before it.
    pub examples: Vec<(Run, Run)>,
    /// Answered `busy`, which says "not stored", and run all the same.
    pub busy_and_ran: u64,
    /// Sockets that ended before their time, and why.
    pub closed: Vec<String>,
    /// Error codes, by count.
    pub errors: BTreeMap<String, u64>,
    /// The longest wait for an answer that is no error.
    pub worst: Duration,
    /// Half of the answers came faster.
    pub median: Duration,
    /// Runs in their order.
    pub runs: Vec<Run>,
    /// What the action sent, as each connection got it.
    pub pushes: HashMap<usize, Vec<Push>>,
}

impl Report {
    /// Takes in what one connection saw.
    pub fn count(&mut self, tally: &Tally) {
        for sent in &tally.sent {
            self.sent += 1;
            // The answer may come before the receipt, and be the last thing that is waited for.
            self.accepted += u64::from(sent.accepted || matches!(sent.answer, Some((_, None))));
            self.poisons += u64::from(sent.is_poison);
            match &sent.answer {
                Some((_, Some(code))) if sent.is_poison && code == "failed" => self.poisons_failed += 1,
                Some((_, Some(code))) => *self.errors.entry(code.clone()).or_default() += 1,
                Some(_) => self.done += 1,
                None if sent.accepted && tally.closed.is_none() => self.lost.push((tally.index, sent.at)),
                None => self.silent += u64::from(tally.closed.is_none()),
            }
        }
        self.answered_twice += tally.answered_twice;
        self.closed.extend(tally.closed.clone());
        self.ids.insert(tally.index, tally.id.clone());
        self.pushes.insert(tally.index, tally.pushes.clone());
    }

    /// Compares what the connections saw with what ran.
    pub fn compare(&mut self, tallies: &HashMap<usize, Tally>, trace: &Path) {
        let mut delays: Vec<Duration> = tallies.values().flat_map(|tally| &tally.sent).filter_map(done_after).collect();
        delays.sort();
        (self.worst, self.median) = (delays.last().copied().unwrap_or_default(), delays.get(delays.len() / 2).copied().unwrap_or_default());
        let text = std::fs::read_to_string(trace).unwrap_or_default();
        let mut ran: HashSet<(u64, u64)> = HashSet::new();
        let mut newest: HashMap<u64, Run> = HashMap::new();
        for line in text.lines() {
            let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
            let (connection, number) = (numbers[0], numbers[1]);
            let [process, time, micros, runner, is_good, is_bad_build] = numbers[2..] else { panic!("{line}") };
            let run = Run { connection, number, process, time, micros, runner, is_good: is_good == 1, is_bad_build: is_bad_build == 1 };
            self.runs.push(run.clone());
            if !ran.insert((connection, number)) {
                self.ran_twice += 1;
                continue;
            }
            let newest = newest.entry(connection).or_insert_with(|| run.clone());
            if number < newest.number {
                self.out_of_order += 1;
                if self.examples.len() < EXAMPLES_MAX {
                    self.examples.push((newest.clone(), run));
                }
            } else {
                *newest = run;
            }
            let sent = &tallies[&usize::try_from(connection).unwrap()].sent[usize::try_from(number).unwrap()];
            let is_busy = matches!(&sent.answer, Some((_, Some(code))) if code == "busy");
            self.busy_and_ran += u64::from(is_busy);
        }
    }

    /// Stored and never answered, of those sent from `begin` on.
    pub fn lost_since(&self, begin: Instant) -> usize {
        self.lost.iter().filter(|(_, sent)| *sent >= begin).count()
    }

    /// From each crash to the first call in the runner that took the place of the one that crashed, sorted. With one runner at a time.
    pub fn replacements(&self) -> Vec<Duration> {
        let mut delays = Vec::new();
        let mut crash: Option<&Run> = None;
        for run in &self.runs {
            if let Some(last) = crash
                && last.runner != run.runner
            {
                delays.push(Duration::from_micros(run.micros.saturating_sub(last.micros)));
                crash = None;
            }
            if !run.is_good {
                crash = crash.or(Some(run));
            }
        }
        delays.sort();
        delays
    }

    /// What must hold through every fault: nobody cut off, nothing answered twice, nothing out of order, `busy` means not stored.
    ///
    /// # Panics
    /// When one of these does not hold.
    pub fn assert_sound(&self) {
        let bad = self.answered_twice + self.out_of_order + self.busy_and_ran;
        assert!(bad == 0 && self.silent == 0 && self.closed.is_empty() && self.done > 0, "{self}; out of order {:?}", self.examples);
    }

    /// As [`Self::assert_sound`], and nothing that was accepted is lost.
    ///
    /// # Panics
    /// When that does not hold.
    pub fn assert_nothing_lost(&self) {
        self.assert_sound();
        assert!(self.lost.is_empty(), "{self}");
    }
}

fn done_after(sent: &Sent) -> Option<Duration> {
    sent.answer.as_ref().and_then(|(after, code)| code.is_none().then_some(*after))
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}: {} connections, {} sent, {} accepted, {} done, lost {}, silent {}, ran twice {}, first runs out of order {}, answered twice {}, \
             busy and ran {}, closed {:?}, errors {:?}, worst delay {:.0?}, median {:.1?}",
            self.fault,
            self.connections,
            self.sent,
            self.accepted,
            self.done,
            self.lost.len(),
            self.silent,
            self.ran_twice,
            self.out_of_order,
            self.answered_twice,
            self.busy_and_ran,
            self.closed,
            self.errors,
            self.worst,
            self.median
        )
    }
}

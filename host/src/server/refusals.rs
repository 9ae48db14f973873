//! What is refused, for metrics and log: every one is counted, each cause is told once a second at most.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A flood of one cause is told once in this time.
const PAUSE: Duration = Duration::from_secs(1);

/// Codes of messages that the application would have wanted to run. Who is `rate_limited` is logged as refused already.
const LOSSES: [&str; 5] = ["busy", "unconfirmed", "failed", "timeout", "unavailable"];

/// Who was refused of late.
#[derive(Default)]
pub(crate) struct Refusals {
    told: Mutex<HashMap<&'static str, Told>>,
}

struct Told {
    at: Instant,
    /// Refused since then.
    untold: u64,
}

impl Refusals {
    /// Counts a refusal, and logs it unless its cause was told within the last second. `text` says what the client is told, or what to do.
    pub fn note(&self, cause: &'static str, ip: IpAddr, text: &str) {
        metrics::counter!("plugsocket_refusals_total", "cause" => cause).increment(1);
        if let Some(untold) = self.due(cause, Instant::now()) {
            tracing::warn!(cause, %ip, untold, "refused: {text}");
        }
    }

    /// Counts what a client was not told because its protocol has no such frames. Its own message may be lost by that: then it is logged as above.
    pub fn note_withheld(&self, code: &'static str, ip: IpAddr, text: &str) {
        metrics::counter!("plugsocket_frames_withheld_total", "code" => code).increment(1);
        if LOSSES.contains(&code)
            && let Some(untold) = self.due(code, Instant::now())
        {
            // The text may be a plugin's, with a client's words in it: as a field it is quoted.
            tracing::warn!(code, %ip, untold, text, "a message came to nothing, and the flat protocol can't tell its client");
        }
    }

    /// How many were not told since the last line about this cause; `None` when none is due.
    fn due(&self, cause: &'static str, now: Instant) -> Option<u64> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match told.get_mut(cause) {
            Some(last) if now.saturating_duration_since(last.at) < PAUSE => {
                last.untold += 1;
                None
            }
            Some(last) => Some(std::mem::replace(last, Told { at: now, untold: 0 }).untold),
            None => {
                told.insert(cause, Told { at: now, untold: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_once_a_second_and_each_cause_by_itself() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        let at = |cause, ms| refusals.due(cause, start + Duration::from_millis(ms));
        assert_eq!((at("origin", 0), at("origin", 1), at("path", 2)), (Some(0), None, Some(0)));
        assert_eq!((at("origin", 999), at("origin", 1000), at("origin", 2000)), (None, Some(2), Some(0)));
    }

    /// What was logged, as it is written.
    #[derive(Clone, Default)]
    struct Written(std::sync::Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_plugins_text_makes_no_line_of_its_own() {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
        tracing::subscriber::with_default(subscriber, || {
            Refusals::default().note_withheld("busy", IpAddr::from([127, 0, 0, 1]), "room x\nERROR forged is full");
        });
        let log = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        assert!(log.contains("forged") && log.lines().count() == 1, "{log}");
    }
}

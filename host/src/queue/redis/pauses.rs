//! Pauses between attempts, and between complaints.

use std::time::Duration;

use tokio::time::Instant;

const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// The longest pause.
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// What lasts is said again this often.
pub(super) const REMIND_INTERVAL: Duration = Duration::from_secs(30);

/// Growing pauses with jitter.
pub(super) struct Backoff(Duration);

impl Backoff {
    pub(super) fn new() -> Self {
        Self(BACKOFF_MIN)
    }

    /// Half to all of the current pause, which doubles for the next time.
    pub(super) fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(BACKOFF_MAX);
        let share = getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX));
        pause.mul_f64(0.5 + share / 2.0)
    }
}

/// Lets one complaint through per interval: what fails again and again must not flood the log.
#[derive(Default)]
pub(super) struct Complaint(Option<Instant>);

impl Complaint {
    pub(super) fn is_due(&mut self) -> bool {
        let is_due = self.0.is_none_or(|last| last.elapsed() >= REMIND_INTERVAL);
        if is_due {
            self.0 = Some(Instant::now());
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_its_limit() {
        let mut backoff = Backoff::new();
        let pauses: Vec<Duration> = (0..20).map(|_| backoff.next()).collect();
        assert!(pauses[0] <= BACKOFF_MIN && pauses[0] >= BACKOFF_MIN / 2);
        assert!(pauses[19] <= BACKOFF_MAX && pauses[19] >= BACKOFF_MAX / 2);
    }

    #[test]
    fn one_complaint_goes_through() {
        let mut complaint = Complaint::default();
        assert_eq!([complaint.is_due(), complaint.is_due(), complaint.is_due()], [true, false, false]);
    }
}

//! What a new version must show: the judgement over its numbers, beside those of the version before it.

use std::time::Duration;

use super::watched::Counts;
use crate::config::ProbationSettings;

/// Fewer errors than these are no share of anything.
const ERRORS_MIN: u64 = 5;
/// How much worse than the version before it a version may be.
const STANDBY_FACTOR: f64 = 3.0;

/// What the numbers say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing yet.
    Open,
    /// It has lasted long enough.
    Good,
    /// It fails, and why.
    Bad(String),
}

/// Judges a version that has been on probation for `age`. `forgiven` of its errors are crashes on messages that are poison to every
/// version. Without a `standby` there is nothing to compare it with, and it can't fail.
pub(super) fn judge(counts: Counts, forgiven: u64, standby: Option<Counts>, age: Duration, settings: &ProbationSettings) -> Verdict {
    if let Some(standby) = standby {
        if counts.timeouts >= settings.timeouts.max(1) {
            return Verdict::Bad(format!("{} of its calls did not end in time", counts.timeouts));
        }
        let errors = counts.errors.saturating_sub(forgiven);
        let of = |counts: &Counts| counts.calls.saturating_sub(counts.quiet_turns);
        let (own, before) = (share(errors, of(&counts)), share(standby.errors, of(&standby)));
        if errors >= ERRORS_MIN && own > settings.errors_max && own > STANDBY_FACTOR * before {
            let (calls, own, before) = (of(&counts), own * 100.0, before * 100.0);
            return Verdict::Bad(format!(
                "{errors} of its {calls} calls failed ({own:.1} %; {before:.1} % of those of the version before it)"
            ));
        }
    }
    if age >= settings.time && counts.calls >= settings.calls { Verdict::Good } else { Verdict::Open }
}

/// Whether nothing has gone wrong with a version so far.
pub(super) fn is_flawless(counts: Counts) -> bool {
    (counts.errors, counts.timeouts, counts.crashes) == (0, 0, 0)
}

#[allow(clippy::cast_precision_loss)] // A share; nobody sees the digits that are lost.
fn share(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { part as f64 / of as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(calls: u64, errors: u64, timeouts: u64) -> Counts {
        Counts { calls, errors, timeouts, ..Counts::default() }
    }

    fn verdict(counts: Counts, forgiven: u64, standby: Option<Counts>, age: u64) -> Verdict {
        judge(counts, forgiven, standby, Duration::from_secs(age), &ProbationSettings::default())
    }

    #[test]
    fn it_ends_well_after_time_and_calls() {
        let standby = Some(counts(1000, 0, 0));
        assert_eq!(verdict(counts(200, 0, 0), 0, standby, 60), Verdict::Good);
        assert_eq!(verdict(counts(199, 0, 0), 0, standby, 60), Verdict::Open);
        assert_eq!(verdict(counts(200, 0, 0), 0, standby, 59), Verdict::Open);
        assert_eq!(verdict(counts(200, 200, 9), 0, None, 60), Verdict::Good, "there is nothing better");
    }

    #[test]
    fn errors_count_by_number_share_and_the_version_before() {
        let is_bad = |counts, forgiven, standby| matches!(verdict(counts, forgiven, Some(standby), 1), Verdict::Bad(_));
        let flawless = counts(1000, 0, 0);
        assert!(is_bad(counts(5, 5, 0), 0, flawless));
        assert!(!is_bad(counts(4, 4, 0), 0, flawless), "too few to say");
        assert!(!is_bad(counts(100, 5, 0), 0, flawless), "five in a hundred are allowed");
        assert!(is_bad(counts(100, 6, 0), 0, flawless));
        assert!(!is_bad(counts(100, 30, 0), 0, counts(100, 10, 0)), "three times as many are forgiven");
        assert!(is_bad(counts(100, 31, 0), 0, counts(100, 10, 0)));
        assert!(!is_bad(counts(20, 6, 0), 2, flawless), "poison is no fault of it");
        let ticking = Counts { quiet_turns: 9_980, ..counts(10_000, 6, 0) };
        assert!(is_bad(ticking, 0, flawless), "six of the twenty that were clients'");
    }

    #[test]
    fn timeouts_count_by_number() {
        assert_eq!(verdict(counts(1000, 0, 2), 0, Some(Counts::default()), 1), Verdict::Open);
        assert!(matches!(verdict(counts(1000, 0, 3), 0, Some(Counts::default()), 1), Verdict::Bad(_)));
    }
}

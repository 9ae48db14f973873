//! Who may run beside whom: suspects of a crash run alone, so that only the culprit is ever blamed.

use std::time::Duration;

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::time;

/// A suspect that has run alone for so long lets others begin beside it, unless this is its last attempt: most crashes come sooner, and a worker
/// that was killed in the middle of long messages must not run them one by one.
const ALONE_MAX: Duration = if cfg!(test) { Duration::from_millis(100) } else { Duration::from_secs(2) };

/// How long a suspect keeps others waiting until those that run have ended; twice as long with every try, and it rests in between.
const PATIENCE: Duration = ALONE_MAX;

/// Interruptions of one call before it runs alone.
const INTERRUPTIONS_MAX: u32 = 5;

/// How often a call's runner ended during it, and it was not to blame, or that is not known.
#[derive(Debug, Clone, Copy, Default)]
pub struct Interruptions {
    count: u32,
    suspicions: u32,
}

impl Interruptions {
    /// One more. Who is interrupted again and again comes to an end only where nobody else can interrupt it: from then on it counts as a
    /// suspect, as it does when it may have been to blame.
    pub fn add(&mut self, is_suspect: bool) {
        self.count += 1;
        self.suspicions += u32::from(is_suspect || self.count >= INTERRUPTIONS_MAX);
    }

    /// For [`Call::suspicions`](super::Call::suspicions).
    #[must_use]
    pub fn suspicions(self) -> u32 {
        self.suspicions
    }
}

/// Where calls run: many at once, or a single suspect.
#[derive(Default)]
pub struct Floor(RwLock<()>);

/// A call's place there.
pub enum Place<'floor> {
    /// Beside others.
    Shared(RwLockReadGuard<'floor, ()>),
    /// With the place of a suspect that is on its last attempt: until it ends.
    Alone(RwLockWriteGuard<'floor, ()>, bool),
}

impl Floor {
    /// Waits until no suspect runs.
    pub async fn shared(&self) -> Place<'_> {
        Place::Shared(self.0.read().await)
    }

    /// Waits until nothing runs; nothing else starts from then on. Meanwhile nothing starts either, but for the pauses that let those go
    /// on who wait behind it, should one call run for long.
    pub async fn alone(&self, is_last_attempt: bool) -> Place<'_> {
        let mut patience = PATIENCE;
        loop {
            if let Ok(guard) = time::timeout(patience, self.0.write()).await {
                return Place::Alone(guard, is_last_attempt);
            }
            patience = patience.saturating_mul(2);
            time::sleep(PATIENCE).await;
        }
    }
}

impl Place<'_> {
    /// Runs a call in its place.
    pub async fn run<T>(self, call: impl Future<Output = T>) -> T {
        match self {
            Self::Alone(guard, false) => {
                let mut call = std::pin::pin!(call);
                let early = time::timeout(ALONE_MAX, &mut call).await;
                drop(guard);
                match early {
                    Ok(end) => end,
                    Err(_) => call.await,
                }
            }
            _place => call.await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[tokio::test]
    async fn a_suspect_is_alone_for_a_while_and_at_its_last_attempt_to_the_end() {
        for (is_last, expected) in [(false, ["other", "suspect"]), (true, ["suspect", "other"])] {
            let (floor, order) = (Floor::default(), Mutex::new(Vec::new()));
            let note = |who| order.lock().unwrap().push(who);
            let suspect = async {
                floor.alone(is_last).await.run(time::sleep(ALONE_MAX * 5)).await;
                note("suspect");
            };
            let other = async {
                floor.shared().await.run(async { note("other") }).await;
            };
            tokio::join!(suspect, other);
            assert_eq!(order.into_inner().unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn a_suspect_that_waits_for_a_long_call_keeps_others_out_for_a_while_only() {
        let (floor, order) = (Floor::default(), Mutex::new(Vec::new()));
        let note = |who| order.lock().unwrap().push(who);
        let run = async |who, place: Place<'_>, length| {
            place.run(time::sleep(length)).await;
            note(who);
        };
        let long = async { run("long", floor.shared().await, ALONE_MAX * 8).await };
        let suspect = async { run("suspect", floor.alone(false).await, Duration::ZERO).await };
        let other = async { run("other", floor.shared().await, Duration::ZERO).await };
        tokio::join!(long, suspect, other);
        assert_eq!(order.into_inner().unwrap(), ["other", "long", "suspect"]);
    }
}

//! Follows files that are replaced while the server runs, certificates and keys: what is new, at rest and good is taken up, anything else is told once
//! and not taken.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Pause between two looks at the files.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Files that read the same after this long are at rest.
const REST: Duration = Duration::from_millis(200);
/// Whoever writes may do so in pieces, and one file after the other: what is no good is told only after this long.
const TELL_AFTER: Duration = Duration::from_secs(3);

/// The SHA-256 of what files hold.
pub(super) type Fingerprint = [u8; 32];

/// One file, or several that belong together.
pub(super) trait Followed: Send + Sync + 'static {
    /// What they hold.
    type Content: Send + 'static;
    /// Why it is no good.
    type Error: Send + 'static;

    /// Reads them; may block.
    fn read(&self) -> Result<Self::Content, Self::Error>;

    /// Tells one content from another.
    fn fingerprint(content: &Self::Content) -> Fingerprint;

    /// Serves this content from here on, when it is good.
    fn take_up(&self, content: &Self::Content) -> Result<(), Self::Error>;

    /// Tells the operator that what the files hold is no good, and the old content stays.
    fn tell(&self, error: &Self::Error);
}

/// What the looks have seen so far.
pub(super) struct Watch {
    /// Of what is served.
    served: Fingerprint,
    /// Of the last look; `None` when the files could not be read.
    seen: Option<Fingerprint>,
    /// Since when the files have held something else that is no good.
    bad_since: Option<Instant>,
    is_told: bool,
}

impl Watch {
    /// Of files whose content is served already.
    pub fn new(served: Fingerprint) -> Self {
        Self { served, seen: Some(served), bad_since: None, is_told: false }
    }

    /// Waits until the next look is due, and looks. Answers whether something new is served; `None` when `stop` has fired.
    pub async fn look<F: Followed>(&mut self, files: &Arc<F>, stop: &CancellationToken) -> Option<bool> {
        let pause = if self.seen.is_none_or(|seen| seen == self.served) || self.is_told { LOOK_INTERVAL } else { REST };
        if timeout(pause, stop.cancelled()).await.is_ok() {
            return None;
        }
        let reader = Arc::clone(files);
        // The files may be on a slow file system; nobody who serves waits for it.
        let read = spawn_blocking(move || reader.read()).await;
        Some(read.is_ok_and(|read| self.judge(&**files, read)))
    }

    /// Whether this content is new, and served from here on.
    pub fn judge<F: Followed>(&mut self, files: &F, read: Result<F::Content, F::Error>) -> bool {
        let fingerprint = read.as_ref().ok().map(F::fingerprint);
        let is_at_rest = std::mem::replace(&mut self.seen, fingerprint) == fingerprint;
        if fingerprint == Some(self.served) {
            (self.bad_since, self.is_told) = (None, false);
            return false;
        }
        if !is_at_rest {
            self.is_told = false;
            return false;
        }
        // Also when it has been told: a certificate's time may come.
        match read.and_then(|content| files.take_up(&content)) {
            Ok(()) => {
                *self = Self::new(fingerprint.unwrap_or(self.served));
                true
            }
            Err(error) => {
                if !self.is_told && self.bad_since.get_or_insert_with(Instant::now).elapsed() >= TELL_AFTER {
                    self.is_told = true;
                    files.tell(&error);
                }
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Content that is good when it begins with `g`; what was taken up and told.
    #[derive(Default)]
    struct Fake(Mutex<Vec<String>>);

    impl Followed for Fake {
        type Content = &'static str;
        type Error = String;

        fn read(&self) -> Result<&'static str, String> {
            Err("never".to_owned())
        }

        fn fingerprint(content: &&'static str) -> Fingerprint {
            [content.as_bytes()[1]; 32]
        }

        fn take_up(&self, content: &&'static str) -> Result<(), String> {
            if !content.starts_with('g') {
                return Err((*content).to_owned());
            }
            self.0.lock().unwrap().push(format!("took {content}"));
            Ok(())
        }

        fn tell(&self, error: &String) {
            self.0.lock().unwrap().push(format!("told {error}"));
        }
    }

    #[test]
    fn what_is_at_rest_and_good_is_taken_up_and_what_stays_bad_is_told_once() {
        let (files, mut watch) = (Fake::default(), Watch::new([b'1'; 32]));
        let said = || std::mem::take(&mut *files.0.lock().unwrap());
        for content in ["g1", "g2", "g3", "g1", "b4", "b4"] {
            assert!(!watch.judge(&files, Ok(content)), "{content}: nothing new, or not at rest, or bad");
        }
        assert_eq!(said(), [""; 0], "it may still be written");
        watch.bad_since = Instant::now().checked_sub(TELL_AFTER);
        for _ in 0..3 {
            assert!(!watch.judge(&files, Ok("b4")));
        }
        assert_eq!(said(), ["told b4"]);
        assert!(watch.judge(&files, Ok("g4")), "the same content, whose time has come");
        assert!(!watch.judge(&files, Ok("g4")));
        for _ in 0..2 {
            assert!(!watch.judge(&files, Err("gone".to_owned())));
        }
        assert!(!watch.judge(&files, Ok("g4")), "back as it was: nothing new");
        assert_eq!(said(), ["took g4"]);
    }
}

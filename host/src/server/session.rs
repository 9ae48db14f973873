//! A session as the rest of the server sees it: where frames go in, and when it was last heard of.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::ledger::Ledger;
use super::outlet::{Outlet, OutletLimit};
use crate::config::{Limits, LiveSettings};
use crate::wire::codes::ErrorCode;
use crate::wire::envelope::ClientId;
use crate::wire::frame;
use crate::wire::ids::SessionId;

/// `unregistered_since_ms` of a session that is registered, or whose registration is being decided.
const NOT_WAITING: u64 = u64::MAX;

/// The shared half of one socket's session; its task owns the rest.
pub(crate) struct Session {
    /// Its id.
    pub id: SessionId,
    /// The client's address.
    pub ip: IpAddr,
    /// Frames on their way to the client.
    pub outlet: Outlet,
    settings: LiveSettings,
    ledger: Mutex<Ledger>,
    unregistered_since_ms: AtomicU64,
    heard_ms: AtomicU64,
    pinged_ms: AtomicU64,
}

impl Session {
    /// A session that has just been accepted. Times are milliseconds of the node's clock.
    pub fn new(id: SessionId, ip: IpAddr, settings: LiveSettings, now_ms: u64) -> Self {
        Self {
            id,
            ip,
            outlet: Outlet::default(),
            settings,
            ledger: Mutex::default(),
            unregistered_since_ms: AtomicU64::new(now_ms),
            heard_ms: AtomicU64::new(now_ms),
            pinged_ms: AtomicU64::new(now_ms),
        }
    }

    /// Sends a frame made by [`frame`].
    pub fn send(&self, frame: Bytes) {
        match Utf8Bytes::try_from(frame) {
            Ok(frame) => self.send_text(frame),
            Err(error) => tracing::error!(session = %self.id, %error, "a frame to a client is not UTF-8; dropped"),
        }
    }

    /// Sends a frame that is shared with other sessions.
    pub fn send_text(&self, frame: Utf8Bytes) {
        let limit = outlet_limit(&self.settings.load().limits);
        self.outlet.push(frame, limit);
    }

    /// Sends an `error` with one of our codes.
    pub fn send_error(&self, id: Option<&ClientId>, code: ErrorCode, text: &str) {
        metrics::counter!("plugsocket_errors_sent_total", "code" => code.as_str()).increment(1);
        self.send(frame::coded_error(id, code, text));
    }

    /// What is owed to the client.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an answer to this message may go out: the first one, that is.
    pub fn may_answer(&self, sequence: u64, has_id: bool) -> bool {
        let mut ledger = self.ledger();
        if has_id { ledger.answer(sequence) } else { ledger.answer_unnamed(sequence) }
    }

    /// The sequence in a `message_id` of this session; `None` for messages that a plugin scheduled.
    pub fn sequence_of(&self, message_id: &str) -> Option<u64> {
        message_id.strip_prefix(self.id.as_str())?.strip_prefix('-')?.parse().ok()
    }

    /// Frames a second that the client may send, whatever they are, and how many at once; 0 = no limit.
    pub fn frame_rate(&self) -> (u32, u32) {
        let limits = &self.settings.load().limits;
        let frames = |messages: u32| messages.saturating_mul(limits.frames_per_message);
        (frames(limits.messages_per_second), frames(limits.messages_burst.max(1)))
    }

    /// Something came from the client.
    pub fn heard(&self, now_ms: u64) {
        self.heard_ms.store(now_ms, Relaxed);
    }

    /// Nothing is read for now, so silence is not the client's: until it is heard again, it is neither pinged nor idle.
    pub fn pause(&self) {
        self.heard_ms.store(u64::MAX, Relaxed);
    }

    /// Starts the time within which the client has to register.
    pub fn await_registration(&self, now_ms: u64) {
        self.unregistered_since_ms.store(now_ms, Relaxed);
    }

    /// The client has registered, or its registration is being decided.
    pub fn stop_awaiting_registration(&self) {
        self.unregistered_since_ms.store(NOT_WAITING, Relaxed);
    }

    /// What the heartbeat owes this session.
    pub fn pulse(&self, now_ms: u64, limits: &Limits) -> Option<Pulse> {
        let ms = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let unregistered_since = self.unregistered_since_ms.load(Relaxed);
        if unregistered_since != NOT_WAITING && now_ms.saturating_sub(unregistered_since) >= ms(limits.registration_timeout) {
            return Some(Pulse::Unregistered);
        }
        let heard = self.heard_ms.load(Relaxed);
        if now_ms.saturating_sub(heard) >= ms(limits.idle_timeout) {
            return Some(Pulse::Idle);
        }
        let quiet_since = heard.max(self.pinged_ms.load(Relaxed));
        if now_ms.saturating_sub(quiet_since) >= ms(limits.ping_interval) {
            self.pinged_ms.store(now_ms, Relaxed);
            return Some(Pulse::Ping);
        }
        None
    }
}

/// What time has brought for a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pulse {
    /// It has not registered in time.
    Unregistered,
    /// Nothing heard for too long.
    Idle,
    /// A ping is due.
    Ping,
}

fn outlet_limit(limits: &Limits) -> OutletLimit {
    OutletLimit { bytes_max: usize::try_from(limits.outgoing_max.as_u64()).unwrap_or(usize::MAX), policy: limits.slow_consumer }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::Settings;
    use crate::wire::ids::NodeId;

    fn session() -> Session {
        let id = SessionId::random(&NodeId::random().unwrap()).unwrap();
        let settings = Arc::new(arc_swap::ArcSwap::from_pointee(Settings::default()));
        Session::new(id, IpAddr::from([127, 0, 0, 1]), settings, 0)
    }

    #[test]
    fn time_brings_a_ping_then_the_end() {
        let (session, limits) = (session(), Limits::default());
        assert_eq!(session.pulse(9_999, &limits), None);
        assert_eq!(session.pulse(10_000, &limits), Some(Pulse::Unregistered));
        session.stop_awaiting_registration();
        assert_eq!(session.pulse(24_999, &limits), None);
        assert_eq!(session.pulse(25_000, &limits), Some(Pulse::Ping));
        assert_eq!(session.pulse(25_001, &limits), None);
        session.heard(40_000);
        assert_eq!(session.pulse(64_999, &limits), None, "a client that speaks is not pinged");
        assert_eq!(session.pulse(65_000, &limits), Some(Pulse::Ping));
        session.pause();
        assert_eq!(session.pulse(900_000, &limits), None, "who is not read from is not silent");
        session.heard(40_000);
        assert_eq!(session.pulse(100_000, &limits), Some(Pulse::Idle));
    }

    #[test]
    fn a_message_id_gives_its_sequence_back() {
        let session = session();
        assert_eq!(session.sequence_of(&format!("{}-17", session.id)), Some(17));
        assert_eq!(session.sequence_of("other-17"), None);
        assert_eq!(session.sequence_of(&format!("{}-x", session.id)), None);
    }
}

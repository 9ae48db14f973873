//! A session as the rest of the server sees it: where frames go in, and when it was last heard of.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use plugsocket_plugin::call::RefusalWire;

use super::backlog::Backlog;
use super::expiry::Expiry;
use super::ledger::Ledger;
use super::node::ms;
use super::outlet::{Outlet, OutletLimit};
use super::refusals::Refusals;
use super::replace::REPLACED;
use crate::config::{Limits, LiveSettings};
use crate::wire::codes::{CloseCode, ErrorCode};
use crate::wire::envelope::ClientId;
use crate::wire::frame;
use crate::wire::ids::SessionId;
use crate::wire::json::Json;
use crate::wire::protocol::Protocol;

/// `unregistered_since_ms` of a session that is registered, or whose registration is being decided; `stalled_since_ms` of a client that takes
/// what there is for it.
const NOT_WAITING: u64 = u64::MAX;

/// What an error is counted as whose code is a plugin's own: those are without number.
const PLUGINS_OWN: &str = "plugin";

/// What clients of a server that drains are told.
const GOING: &str = "this server is going away; connect again";

/// The shared half of one socket's session; its task owns the rest.
pub(crate) struct Session {
    /// Its id.
    pub id: SessionId,
    /// The client's address.
    pub ip: IpAddr,
    /// Frames on their way to the client.
    pub outlet: Outlet,
    /// When its token ends.
    pub expiry: Expiry,
    settings: LiveSettings,
    protocol: Protocol,
    refusals: Arc<Refusals>,
    ledger: Mutex<Ledger>,
    unregistered_since_ms: AtomicU64,
    heard_ms: AtomicU64,
    pinged_ms: AtomicU64,
    stalled_since_ms: AtomicU64,
}

impl Session {
    /// A session that has just been accepted. Times are milliseconds of the node's clock.
    pub fn new(
        (id, ip): (SessionId, IpAddr),
        settings: LiveSettings,
        (backlog, refusals): (Arc<Backlog>, Arc<Refusals>),
        now_ms: u64,
    ) -> Self {
        let protocol = settings.load().server.protocol;
        let session = Self {
            id,
            ip,
            outlet: Outlet::new(backlog),
            expiry: Expiry::default(),
            settings,
            protocol,
            refusals,
            ledger: Mutex::default(),
            unregistered_since_ms: AtomicU64::new(NOT_WAITING),
            heard_ms: AtomicU64::new(now_ms),
            pinged_ms: AtomicU64::new(now_ms),
            stalled_since_ms: AtomicU64::new(NOT_WAITING),
        };
        session.await_registration(now_ms);
        session
    }

    /// Sends a frame in the shapes of its protocol.
    pub fn send(&self, frame: Bytes) {
        match std::str::from_utf8(&frame) {
            Ok(_) => self.send_text(frame),
            Err(error) => tracing::error!(session = %self.id, %error, "a frame to a client is not UTF-8; dropped"),
        }
    }

    /// Sends a frame that is UTF-8, and may be shared with other sessions.
    pub fn send_text(&self, frame: Bytes) {
        let limit = outlet_limit(&self.settings.load().limits);
        self.outlet.push(frame, limit);
    }

    /// Sends an `error` with one of our codes.
    pub fn send_error(&self, id: Option<&ClientId>, code: ErrorCode, text: &str) {
        self.send_error_after(id, code, text, code.retry_after_ms());
    }

    /// As [`Self::send_error`], and says when to try again.
    pub fn send_error_after(&self, id: Option<&ClientId>, code: ErrorCode, text: &str, retry_after_ms: Option<u64>) {
        if !self.is_withheld(code.as_str(), text) {
            metrics::counter!("plugsocket_errors_sent_total", "code" => code.as_str()).increment(1);
            self.send(frame::error(id, code.as_str(), text, retry_after_ms));
        }
    }

    /// Sends an `error` that a plugin made, or a worker; the code may be the plugin's own.
    pub fn send_failure(&self, id: Option<&ClientId>, code: &str, text: &str) {
        let name = ErrorCode::ALL.iter().map(|known| known.as_str()).find(|known| *known == code);
        if !self.is_withheld(name.unwrap_or(PLUGINS_OWN), text) {
            metrics::counter!("plugsocket_failures_passed_on_total").increment(1);
            self.send(frame::error(id, code, text, None));
        }
    }

    /// Answers a `ping`, or says that a message is stored: `action` is `pong` or `accepted`.
    pub fn send_bare(&self, action: &'static str, id: Option<&ClientId>) {
        if !self.is_withheld(action, "") {
            self.send(frame::bare(action, id));
        }
    }

    /// Tells the client that the server goes away, and when to come back.
    pub fn send_draining(&self, reconnect_after_ms: u64) {
        if !self.is_withheld("draining", "") {
            self.send(frame::draining(reconnect_after_ms));
        }
    }

    /// Tells the client that its token ends in so many milliseconds.
    pub fn send_expiring(&self, in_ms: u64) {
        if !self.is_withheld("expiring", "") {
            self.send(frame::expiring(in_ms));
        }
    }

    /// Tells the client that it may not register, and closes the socket, unless it is to stay or the client would not know why.
    pub fn refuse(&self, id: Option<&ClientId>, refusal: RefusalWire) {
        self.send_error(id, ErrorCode::Refused, &refusal.reason);
        if !refusal.keep_open && self.protocol.has_system_frames() {
            self.outlet.close(CloseCode::Refused, refusal.reason);
        }
    }

    /// Whether the client may register could not be decided: it is to try again. One that does so only when its connection closes loses it, unless it
    /// `is_registered` already.
    pub fn put_off(&self, id: Option<&ClientId>, reason: String, is_registered: bool) {
        self.send_error(id, ErrorCode::Busy, &reason);
        if !is_registered && !self.protocol.has_system_frames() {
            self.outlet.close(CloseCode::TryAgain, reason);
        }
    }

    /// A newer connection has the id: this one closes, where clients know that one of them is enough.
    pub fn give_way(&self) {
        if !self.shares_its_id() {
            self.outlet.close(CloseCode::Replaced, REPLACED);
        }
    }

    /// Whether it stays when a newer connection takes its public id.
    pub fn shares_its_id(&self) -> bool {
        self.protocol.shares_ids()
    }

    /// A message or a reply in the shape its client knows.
    pub fn message(&self, action: &str, id: Option<&ClientId>, data: &Json) -> Bytes {
        self.protocol.message(action, id, data)
    }

    /// The one place that keeps the server's own frames from clients that know none; they are counted, and lost messages logged.
    fn is_withheld(&self, code: &'static str, text: &str) -> bool {
        let is_withheld = !self.protocol.has_system_frames();
        if is_withheld {
            self.refusals.note_withheld(code, self.ip, text);
        }
        is_withheld
    }

    /// What is owed to the client.
    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends an answer to this message, when it is the first one; says whether it was. `send` must not look at the ledger.
    pub fn answer(&self, sequence: u64, has_id: bool, send: impl FnOnce(&Self)) -> bool {
        let mut ledger = self.ledger();
        let is_first = if has_id { ledger.answer(sequence) } else { ledger.answer_unnamed(sequence) };
        if is_first {
            send(self);
            self.go_if_owed_nothing(&ledger);
        }
        is_first
    }

    /// Tells the client that the server goes away, and when to come back. It is closed when it is owed nothing: at once, or after the last answer.
    pub fn leave(&self, reconnect_after_ms: u64) {
        let mut ledger = self.ledger();
        if ledger.leave(reconnect_after_ms) {
            self.send_draining(reconnect_after_ms);
            self.go_if_owed_nothing(&ledger);
        }
    }

    /// The queue has answered for a message without an `id`; `send` is what the client is told about it.
    pub fn handed_over(&self, send: impl FnOnce(&Self)) {
        let mut ledger = self.ledger();
        ledger.handed_over();
        send(self);
        self.go_if_owed_nothing(&ledger);
    }

    /// Notes whether the session waits for a registration, or for room in the queue.
    pub fn set_waiting(&self, is_waiting: bool) {
        let mut ledger = self.ledger();
        ledger.set_waiting(is_waiting);
        self.go_if_owed_nothing(&ledger);
    }

    /// Refuses to begin something for a client that is to go.
    pub fn send_leaving(&self, id: Option<&ClientId>, reconnect_after_ms: u64) {
        self.send_error_after(id, ErrorCode::Busy, GOING, Some(reconnect_after_ms));
    }

    /// Called with the ledger's lock held, so that no answer is on its way between it and the outlet.
    fn go_if_owed_nothing(&self, ledger: &Ledger) {
        if ledger.may_go() {
            self.outlet.close(CloseCode::Draining, GOING);
        }
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

    /// Something waits for the client, and it takes nothing at this moment. `has_moved`: since the last time it took something.
    pub fn stalled(&self, now_ms: u64, has_moved: bool) {
        if has_moved || self.stalled_since_ms.load(Relaxed) == NOT_WAITING {
            self.stalled_since_ms.store(now_ms, Relaxed);
        }
    }

    /// Nothing waits for the client.
    pub fn flows(&self) {
        self.stalled_since_ms.store(NOT_WAITING, Relaxed);
    }

    /// Starts the time within which the client has to register, where it has to.
    pub fn await_registration(&self, now_ms: u64) {
        if self.protocol.needs_registration() {
            self.unregistered_since_ms.store(now_ms, Relaxed);
        }
    }

    /// The client has registered, or its registration is being decided.
    pub fn stop_awaiting_registration(&self) {
        self.unregistered_since_ms.store(NOT_WAITING, Relaxed);
    }

    /// What the heartbeat owes this session.
    pub fn pulse(&self, now_ms: u64, limits: &Limits) -> Option<Pulse> {
        let stalled_since = self.stalled_since_ms.load(Relaxed);
        if stalled_since != NOT_WAITING && now_ms.saturating_sub(stalled_since) >= ms(limits.write_timeout) {
            return Some(Pulse::Stalled);
        }
        let unregistered_since = self.unregistered_since_ms.load(Relaxed);
        if unregistered_since != NOT_WAITING && now_ms.saturating_sub(unregistered_since) >= ms(limits.registration_timeout) {
            return Some(Pulse::Unregistered);
        }
        if let Some(pulse) = self.expiry.due() {
            return Some(pulse);
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
    /// It has taken nothing for too long, while something waits for it.
    Stalled,
    /// It has not registered in time.
    Unregistered,
    /// Nothing heard for too long.
    Idle,
    /// A ping is due.
    Ping,
    /// Its token ends soon.
    Expiring {
        /// In how many milliseconds.
        in_ms: u64,
    },
    /// Its token has ended.
    Expired,
}

fn outlet_limit(limits: &Limits) -> OutletLimit {
    OutletLimit {
        bytes_max: usize::try_from(limits.outgoing_max.as_u64()).unwrap_or(usize::MAX),
        total_bytes_max: limits.outgoing_total_max.as_u64(),
        policy: limits.slow_consumer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::wire::ids::NodeId;

    fn session() -> Session {
        let id = SessionId::random(&NodeId::random().unwrap()).unwrap();
        let settings = Arc::new(arc_swap::ArcSwap::from_pointee(Settings::default()));
        Session::new((id, IpAddr::from([127, 0, 0, 1])), settings, <_>::default(), 0)
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
    fn who_takes_nothing_for_too_long_has_stalled() {
        let (session, limits) = (session(), Limits::default());
        session.stop_awaiting_registration();
        let at = |now_ms| {
            session.heard(now_ms);
            session.pulse(now_ms, &limits)
        };
        session.stalled(1_000, false);
        session.stalled(20_000, false);
        assert_eq!((at(30_999), at(31_000)), (None, Some(Pulse::Stalled)), "since it has first taken nothing");
        session.stalled(31_000, true);
        assert_eq!(at(60_999), None, "it has taken something meanwhile");
        session.flows();
        assert_eq!(at(900_000), None);
    }

    #[test]
    fn a_message_id_gives_its_sequence_back() {
        let session = session();
        assert_eq!(session.sequence_of(&format!("{}-17", session.id)), Some(17));
        assert_eq!(session.sequence_of("other-17"), None);
        assert_eq!(session.sequence_of(&format!("{}-x", session.id)), None);
    }
}

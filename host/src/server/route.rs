//! Where a client's frame goes: answered here, to the queue, or to the handler.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::handler_calls::Fallback;
use super::node::{Node, unix_ms};
use super::registration::{self, Request};
use super::session::Session;
use super::task::{Resolved, SessionTask};
use crate::config::{Limits, Settings};
use crate::queue::{Full, OnStored, Stored};
use crate::wire::codes::{ErrorCode, SYSTEM_ACTIONS};
use crate::wire::envelope::{ClientId, Envelope, EnvelopeLimits};
use crate::wire::job::Job;
use crate::wire::json::Json;

/// Pause after the batcher had room and was full again before it was our turn.
const ROOM_PAUSE: Duration = Duration::from_millis(5);

impl SessionTask {
    /// Checks one text frame and sends it on its way. What has to wait is left in `pending`.
    pub(super) fn on_text(&mut self, text: &str) {
        let settings = self.node.settings.load_full();
        let limits = &settings.limits;
        metrics::counter!("plugsocket_frames_in_total").increment(1);
        // A frame costs its place even when it is no good.
        let place = self.bucket.take(limits.messages_per_second, limits.messages_burst, self.node.now_ms());
        let envelope = settings.server.protocol.parse(text, &envelope_limits(limits));
        if let Err(retry_after_ms) = place {
            let id = envelope.as_ref().map_or_else(|error| error.id(), |envelope| envelope.id.as_ref());
            return rate_limited(&self.node, &self.session, id, ("this connection sends faster than this server allows", retry_after_ms));
        }
        match envelope {
            Err(error) => {
                metrics::counter!("plugsocket_bad_frames_total", "reason" => error.cause()).increment(1);
                self.session.send_error(error.id(), ErrorCode::BadFrame, &error.to_string());
            }
            Ok(envelope) => match envelope.action.as_ref() {
                "register" if self.is_leaving(&envelope) => {}
                "register" => self.on_register(&envelope),
                _ if !settings.server.protocol.has_system_actions() => self.on_message(&settings, envelope),
                "ping" => self.session.send_bare("pong", envelope.id.as_ref()),
                action if SYSTEM_ACTIONS.contains(&action) => {
                    let sentence = format!("`{action}` is a reserved action that clients do not send");
                    self.session.send_error(envelope.id.as_ref(), ErrorCode::BadFrame, &sentence);
                }
                _ => self.on_message(&settings, envelope),
            },
        }
    }

    fn on_register(&mut self, envelope: &Envelope<'_>) {
        let mut call = self.head.connect_call(&self.session.id, &self.node.id, self.ip.to_string());
        call.data = envelope.data.map(ToOwned::to_owned);
        let Ok(verified) = self.identify(&mut call, envelope.id.as_ref()) else { return };
        self.session.stop_awaiting_registration();
        let request = Request { call, client_id: envelope.id.clone(), verified, previous: self.registration.take() };
        let (node, session) = (Arc::clone(&self.node), Arc::clone(&self.session));
        self.pending = Some(Box::pin(async move { Resolved::Registration(registration::register(node, session, request).await) }));
    }

    /// Whether the server drains, and begins nothing new; then the client has been told.
    fn is_leaving(&self, envelope: &Envelope<'_>) -> bool {
        let leaving_ms = self.session.ledger().leaving_ms();
        if let Some(reconnect_after_ms) = leaving_ms {
            self.session.send_leaving(envelope.id.as_ref(), reconnect_after_ms);
        }
        leaving_ms.is_some()
    }

    fn on_message(&mut self, settings: &Settings, envelope: Envelope<'_>) {
        let session = &self.session;
        let registration = self.registration.as_ref();
        let is_known = settings.actions.contains_key(envelope.action.as_ref());
        if registration.is_none() && (is_known || settings.server.protocol.needs_registration()) {
            return session.send_error(envelope.id.as_ref(), ErrorCode::NotRegistered, "send `register` first");
        }
        let connection_id = registration.map(|registration| Arc::clone(&registration.connection_id));
        let user_id = registration.and_then(|registration| registration.user_id.clone());
        if let Some(user) = &user_id
            && let Err(retry_after_ms) = self.node.users.take(user, &settings.limits)
        {
            return rate_limited(
                &self.node,
                session,
                envelope.id.as_ref(),
                ("your user sends faster than this server allows", retry_after_ms),
            );
        }
        self.sequence += 1;
        let is_job = settings.plugin_action(&envelope.action).is_some();
        let mut ledger = session.ledger();
        if let Some(reconnect_after_ms) = ledger.leaving_ms() {
            drop(ledger);
            return session.send_leaving(envelope.id.as_ref(), reconnect_after_ms);
        }
        if envelope.id.is_some() {
            if ledger.unanswered() >= settings.limits.unanswered_max {
                drop(ledger);
                return session.send_error(envelope.id.as_ref(), ErrorCode::Busy, "too many of your requests wait for their answer");
            }
            ledger.expect(self.sequence);
        } else if is_job {
            ledger.hand_over();
        }
        drop(ledger);
        let data = envelope.data.map_or(Json::NULL, Json::from);
        if is_job {
            let job = Job {
                session: session.id.clone(),
                connection_id: connection_id.unwrap_or_default(),
                user_id,
                action: envelope.action.into_owned(),
                sequence: self.sequence,
                time_ms: unix_ms(),
                client_id: envelope.id,
                ip: self.ip.to_string(),
                attempts: 0,
                unserved: 0,
                scheduled_id: None,
                data,
            };
            self.offer(job, envelope.receipt, settings.limits.queue_wait);
        } else {
            let fallback = Fallback {
                action: envelope.action.into_owned(),
                data,
                client_id: envelope.id,
                sequence: self.sequence,
                time_ms: unix_ms(),
                connection_id,
                user_id,
            };
            self.fall_back(fallback, envelope.receipt);
        }
    }

    fn offer(&mut self, job: Job, has_receipt: bool, wait: Duration) {
        let on_stored = on_stored(Arc::clone(&self.session), job.sequence, job.client_id.clone(), has_receipt);
        match self.node.queue.inbox.offer(job, on_stored) {
            Ok(()) => {}
            Err(full) => {
                let node = Arc::clone(&self.node);
                self.pending = Some(Box::pin(async move {
                    offer_when_there_is_room(&node, full, wait).await;
                    Resolved::Offered
                }));
            }
        }
    }

    fn fall_back(&self, fallback: Fallback, has_receipt: bool) {
        let session = &self.session;
        let client_id = fallback.client_id.clone();
        match self.node.calls.offer(&self.node, session, Box::new(fallback)) {
            // Nothing is stored for these; the receipt says that the server took it.
            Ok(()) if has_receipt => session.send_bare("accepted", client_id.as_ref()),
            Ok(()) => {}
            Err(fallback) => {
                session.answer(fallback.sequence, client_id.is_some(), |session| {
                    session.send_error(client_id.as_ref(), ErrorCode::Busy, "too many of your messages wait for the handler");
                });
            }
        }
    }
}

/// Tries until `wait` is over, then tells the client that the message was not stored.
async fn offer_when_there_is_room(node: &Node, mut full: Full, wait: Duration) {
    let deadline = Instant::now() + wait;
    while timeout_at(deadline, node.queue.inbox.room()).await.is_ok() {
        match node.queue.inbox.offer(full.job, full.on_stored) {
            Ok(()) => return,
            Err(again) => full = again,
        }
        if timeout_at(deadline, sleep(ROOM_PAUSE)).await.is_err() {
            break;
        }
    }
    (full.on_stored)(Stored::No("the queue is full".to_owned()));
}

fn on_stored(session: Arc<Session>, sequence: u64, client_id: Option<ClientId>, has_receipt: bool) -> OnStored {
    Box::new(move |stored| {
        let id = client_id.as_ref();
        let (code, sentence) = match stored {
            Stored::Yes => {
                let send = |session: &Session| {
                    if has_receipt {
                        session.send_bare("accepted", id);
                    }
                };
                return if id.is_some() { send(&session) } else { session.handed_over(send) };
            }
            Stored::No(reason) => (ErrorCode::Busy, reason),
            Stored::Unknown => (ErrorCode::Unconfirmed, "the queue did not confirm the message; it may run".to_owned()),
        };
        session.answer(sequence, id.is_some(), |session| session.send_error(id, code, &sentence));
        if id.is_none() {
            session.handed_over(|_| {});
        }
    })
}

fn rate_limited(node: &Node, session: &Session, id: Option<&ClientId>, (sentence, retry_after_ms): (&str, u64)) {
    node.refusals.note("rate_limited", session.ip, sentence);
    session.send_error_after(id, ErrorCode::RateLimited, sentence, Some(retry_after_ms));
}

fn envelope_limits(limits: &Limits) -> EnvelopeLimits {
    EnvelopeLimits {
        frame_bytes_max: usize::try_from(limits.frame_in_max.as_u64()).unwrap_or(usize::MAX),
        action_bytes_max: limits.action_bytes_max,
        json_depth_max: limits.json_depth_max,
    }
}

//! Where a client's frame goes: answered here, to the queue, or to the handler.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::handler_calls::Fallback;
use super::node::{Node, unix_ms};
use super::registration::{self, Registration, Request};
use super::session::Session;
use super::task::{Resolved, SessionTask};
use crate::config::{ActionSettings, Limits, ListAction, Settings};
use crate::queue::{Full, Inbox, ListItem, OnStored, Stored};
use crate::wire::codes::{ErrorCode, SYSTEM_ACTIONS};
use crate::wire::envelope::{ClientId, Envelope, EnvelopeLimits};
use crate::wire::job::Job;
use crate::wire::json::Json;
use crate::wire::php_job::{PhpJob, UnreadableError};

/// Pause after the batcher had room and was full again before it was our turn.
const ROOM_PAUSE: Duration = Duration::from_millis(5);

impl SessionTask {
    /// Checks one text frame, which came at `read_ms` of the node's clock, and sends it on its way. What has to wait is left in `pending`.
    pub(super) fn on_text(&mut self, text: &str, read_ms: u64) {
        let settings = self.node.settings.load();
        let limits = &settings.limits;
        self.node.counts.frames_in.increment(1);
        // A frame costs its place even when it is no good.
        let place = self.bucket.take(limits.messages_per_second, limits.messages_burst, read_ms);
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
        let mut call = Box::new(self.head.connect_call(&self.session.id, &self.node.id, self.ip.to_string()));
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
        let known = settings.actions.get(envelope.action.as_ref());
        if registration.is_none() && (known.is_some() || settings.server.protocol.needs_registration()) {
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
        let destination = match destination(known, registration, &envelope) {
            Ok(destination) => destination,
            Err(error) => return session.send_error(envelope.id.as_ref(), ErrorCode::BadFrame, &error.to_string()),
        };
        self.sequence += 1;
        if !self.note_debt(settings, &envelope, !matches!(destination, Destination::Handler)) {
            return;
        }
        let sequence = self.sequence;
        let awaited = |is_answered_as| Awaited { sequence, client_id: envelope.id.clone(), has_receipt: envelope.receipt, is_answered_as };
        let data = || envelope.data.map_or(Json::NULL, Json::from);
        match destination {
            Destination::Worker => {
                let awaited = awaited(None);
                let job = Job {
                    session: session.id.clone(),
                    connection_id: connection_id.unwrap_or_default(),
                    user_id,
                    data: data(),
                    action: envelope.action.into_owned(),
                    sequence,
                    time_ms: unix_ms(),
                    client_id: envelope.id,
                    ip: self.ip.to_string(),
                    attempts: 0,
                    unserved: 0,
                    scheduled_id: None,
                };
                self.offer(job, awaited, settings.limits.queue_wait, <dyn Inbox>::offer);
            }
            Destination::List(item) => {
                // PHP's worker knows nothing of the request: that it has been pushed is all the answer there will be.
                let awaited = awaited(envelope.id.is_some().then(|| envelope.action.into_owned()));
                self.offer(item, awaited, settings.limits.queue_wait, <dyn Inbox>::push);
            }
            Destination::Handler => {
                let fallback = Fallback {
                    data: data(),
                    action: envelope.action.into_owned(),
                    client_id: envelope.id,
                    sequence,
                    time_ms: unix_ms(),
                    connection_id,
                    user_id,
                };
                self.fall_back(fallback, envelope.receipt);
            }
        }
    }

    /// Notes what the client is owed for a message. False when it is turned away; then it has been told.
    fn note_debt(&self, settings: &Settings, envelope: &Envelope<'_>, is_queued: bool) -> bool {
        let session = &self.session;
        let mut ledger = session.ledger();
        if let Some(reconnect_after_ms) = ledger.leaving_ms() {
            drop(ledger);
            session.send_leaving(envelope.id.as_ref(), reconnect_after_ms);
            return false;
        }
        if envelope.id.is_some() {
            if ledger.unanswered() >= settings.limits.unanswered_max {
                drop(ledger);
                session.send_error(envelope.id.as_ref(), ErrorCode::Busy, "too many of your requests wait for their answer");
                return false;
            }
            ledger.expect(self.sequence);
        } else if is_queued {
            ledger.hand_over();
        }
        true
    }

    fn offer<T: Send + 'static>(&mut self, offered: T, awaited: Awaited, wait: Duration, offer: Offer<T>) {
        let on_stored = on_stored(Arc::clone(&self.session), awaited);
        match offer(&*self.node.queue.inbox, offered, on_stored) {
            Ok(()) => {}
            Err(full) => {
                let node = Arc::clone(&self.node);
                self.pending = Some(Box::pin(async move {
                    offer_when_there_is_room(&node, full, wait, offer).await;
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

/// Which of the queue's doors something goes through.
type Offer<T> = fn(&(dyn Inbox + 'static), T, OnStored) -> Result<(), Full<T>>;

/// Who serves a message.
enum Destination {
    /// A worker's plugin.
    Worker,
    /// PHP, by a list.
    List(ListItem),
    /// The handler's fallback.
    Handler,
}

/// Actions of the config are for those who have registered.
fn destination(
    known: Option<&ActionSettings>,
    registration: Option<&Registration>,
    envelope: &Envelope<'_>,
) -> Result<Destination, UnreadableError> {
    let (ListAction { list, handle }, registration) = match (known, registration) {
        (None, _) | (_, None) => return Ok(Destination::Handler),
        (Some(ActionSettings::Plugin(_)), Some(_)) => return Ok(Destination::Worker),
        (Some(ActionSettings::List(action)), Some(registration)) => (action, registration),
    };
    let (connection_id, user_id) = (registration.typed_connection_id(), registration.typed_user_id());
    let item = PhpJob { connection_id, user_id, frame: envelope.frame, handle, time_ms: unix_ms() }.encode()?;
    Ok(Destination::List(ListItem { list: list.clone(), item }))
}

/// Tries until `wait` is over, then tells the client that the message was not stored.
async fn offer_when_there_is_room<T>(node: &Node, mut full: Full<T>, wait: Duration, offer: Offer<T>) {
    let deadline = Instant::now() + wait;
    while timeout_at(deadline, node.queue.inbox.room()).await.is_ok() {
        match offer(&*node.queue.inbox, full.offered, full.on_stored) {
            Ok(()) => return,
            Err(again) => full = again,
        }
        if timeout_at(deadline, sleep(ROOM_PAUSE)).await.is_err() {
            break;
        }
    }
    (full.on_stored)(Stored::No("the queue is full".to_owned()));
}

/// What the client waits for when its message is on its way to the queue.
struct Awaited {
    sequence: u64,
    client_id: Option<ClientId>,
    has_receipt: bool,
    /// That it is stored is the answer, under this action: nobody else will give one.
    is_answered_as: Option<String>,
}

fn on_stored(session: Arc<Session>, awaited: Awaited) -> OnStored {
    Box::new(move |stored| {
        let Awaited { sequence, client_id, has_receipt, is_answered_as } = awaited;
        let id = client_id.as_ref();
        let (code, sentence) = match stored {
            Stored::Yes => {
                let send = |session: &Session| {
                    if has_receipt {
                        session.send_bare("accepted", id);
                    }
                };
                let Some(action) = is_answered_as else {
                    return if id.is_some() { send(&session) } else { session.handed_over(send) };
                };
                session.answer(sequence, id.is_some(), |session| {
                    send(session);
                    session.send(session.message(&action, id, &Json::NULL));
                });
                return;
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

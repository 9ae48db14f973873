//! A granted registration: whoever holds it owes the handler a `disconnect`, and dropping it pays.

use std::sync::Arc;

use bytes::Bytes;
use plugsocket_plugin::Id;
use plugsocket_plugin::call::{ConnectCall, IdentityWire, RefusalWire};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::announce;
use super::handler_calls::{Admission, Afterwards, Claim, Connect, Disconnect, Work};
use super::node::Node;
use super::session::Session;
use super::token::Verified;
use crate::config::Limits;
use crate::queue::Entry;
use crate::wire::codes::ErrorCode;
use crate::wire::envelope::ClientId;
use crate::wire::ids::is_reserved_connection_id;
use crate::wire::php_job::TypedId;
use crate::wire::protocol::Protocol;

/// The end of a registration that nobody gave a reason for.
const LOST: &str = "lost";
/// The handler granted what can't be used.
const POLICY: &str = "policy";
/// Another identity took its place on the same socket.
const REREGISTERED: &str = "reregistered";

/// What `connect` granted. Each ends once: by [`Self::end`], by [`Self::supersede`], or when it is dropped.
pub(crate) struct Registration {
    /// The public id.
    pub connection_id: Arc<str>,
    /// The user.
    pub user_id: Option<Arc<str>>,
    /// What the client's token says.
    pub verified: Option<Arc<Verified>>,
    /// The handler gave `connection_id` and `user_id` as JSON integers.
    are_numbers: (bool, bool),
    node: Arc<Node>,
    session: Arc<Session>,
    /// As it goes to the queue, and into `disconnect`. `None` when it has ended.
    identity: Option<Bytes>,
    /// The queue knows of the connection, so that others would call `disconnect` if this node died.
    is_announced: bool,
}

impl Registration {
    /// The duty begins when `connect` has succeeded, before anything else is looked at. Fills in the connection id.
    pub fn granted(node: Arc<Node>, session: Arc<Session>, identity: &mut IdentityWire) -> Self {
        let id = identity.connection_id.get_or_insert_with(|| Id::from(session.id.as_str()));
        let connection_id = id.to_string().into();
        let user_id = identity.user_id.as_ref().map(|id| id.to_string().into());
        let is_number = |id: Option<&Id>| matches!(id, Some(Id::Number(_)));
        let are_numbers = (is_number(identity.connection_id.as_ref()), is_number(identity.user_id.as_ref()));
        let json = serde_json::to_vec(identity).unwrap_or_else(|_| b"{}".to_vec());
        Self { connection_id, user_id, verified: None, are_numbers, node, session, identity: Some(json.into()), is_announced: false }
    }

    /// The public id, in the JSON type that the handler gave.
    pub fn typed_connection_id(&self) -> TypedId<'_> {
        TypedId { text: &self.connection_id, is_number: self.are_numbers.0 }
    }

    /// The user, likewise.
    pub fn typed_user_id(&self) -> Option<TypedId<'_>> {
        self.user_id.as_deref().map(|text| TypedId { text, is_number: self.are_numbers.1 })
    }

    /// Queues `disconnect`, behind the session's messages to the handler. The receiver resolves when it is done; it need not be awaited.
    pub fn end(mut self, reason: &'static str, afterwards: Afterwards) -> oneshot::Receiver<()> {
        let (done, ended) = oneshot::channel();
        self.submit(reason, afterwards, done);
        ended
    }

    /// A newer `connect` has replaced this identity under the same id: no `disconnect`. Answers whether the queue knows of the connection.
    fn supersede(mut self) -> bool {
        self.identity = None;
        self.is_announced
    }

    fn submit(&mut self, reason: &'static str, afterwards: Afterwards, done: oneshot::Sender<()>) {
        if let Some(identity) = self.identity.take() {
            let disconnect = Disconnect { identity, is_announced: self.is_announced, reason, afterwards, done };
            self.node.calls.push(&self.node, &self.session, Work::Disconnect(Box::new(disconnect)));
        }
    }

    fn entry(&self, groups: &[String], limits: &Limits) -> Result<Entry, String> {
        let is_own = *self.connection_id == *self.session.id.as_str();
        if !is_own && is_reserved_connection_id(&self.connection_id) {
            return Err("connection_id has a reserved form (like a session id, or starting with ~)".to_owned());
        }
        if !is_own {
            check_id("connection_id", &self.connection_id, limits.user_bytes_max)?;
        }
        if let Some(user) = &self.user_id {
            check_id("user_id", user, limits.user_bytes_max)?;
        }
        let mut groups = groups.to_vec();
        groups.sort_unstable();
        groups.dedup();
        groups.iter().try_for_each(|group| check_id("a group", group, limits.group_bytes_max))?;
        Ok(Entry {
            session: self.session.id.clone(),
            connection_id: self.connection_id.to_string(),
            user_id: self.user_id.as_deref().map(str::to_owned),
            groups,
            identity: self.identity.clone().ok_or("it has ended")?,
        })
    }
}

/// The answer to a registration: the handler's fields, and the ids in the JSON type the handler gave.
fn registered_frame(protocol: Protocol, identity: IdentityWire, id: Option<&ClientId>) -> Result<Bytes, String> {
    let mut data = identity.fields;
    let value = |id: &Option<Id>| serde_json::to_value(id).unwrap_or(Value::Null);
    data.insert("connection_id".to_owned(), value(&identity.connection_id));
    data.insert("user_id".to_owned(), value(&identity.user_id));
    protocol.registered(id, data).map_err(|error| error.to_string())
}

impl Drop for Registration {
    fn drop(&mut self) {
        let (done, _) = oneshot::channel();
        self.submit(LOST, Afterwards::Gone, done);
    }
}

fn check_id(what: &str, id: &str, bytes_max: usize) -> Result<(), String> {
    if id.is_empty() || id.len() > bytes_max {
        return Err(format!("{what} must have 1 to {bytes_max} bytes, it has {}", id.len()));
    }
    if id.chars().any(char::is_control) {
        return Err(format!("{what} must not have control characters"));
    }
    Ok(())
}

/// A client that is to be registered, and what the session had before.
pub(crate) struct Request {
    /// The handler's input. Boxed: every future that it passes through would have room for it.
    pub call: Box<ConnectCall>,
    /// The frame's `id`.
    pub client_id: Option<ClientId>,
    /// What the client's token says.
    pub verified: Option<Arc<Verified>>,
    /// The registration that holds so far.
    pub previous: Option<Registration>,
}

/// Why there is no new registration.
pub(crate) enum Denial {
    /// The handler said no.
    Refused(RefusalWire),
    /// The handler could not decide.
    Busy(String),
    /// It granted what can't be used.
    Unusable,
    /// The queue could not be told.
    Unannounced,
}

/// What is left of a [`Request`] that was not granted.
pub(crate) struct Denied {
    /// Why.
    pub denial: Denial,
    /// The registration that still holds.
    pub previous: Option<Registration>,
}

/// Waits for the handler's decision; when it is not even asked in time, nobody is to ask it any more.
async fn decide(node: &Node, mut decided: oneshot::Receiver<Admission>, claim: &Claim) -> Admission {
    let limit = node.settings.load().server.handler_timeout;
    let decision = match timeout(limit, &mut decided).await {
        Ok(decision) => decision,
        Err(_) if claim.take() => return Admission::Busy("the handler is busy".to_owned()),
        // It has been asked, and has a time limit of its own.
        Err(_) => decided.await,
    };
    decision.unwrap_or_else(|_| Admission::Busy("the server is shutting down".to_owned()))
}

async fn ask(node: &Arc<Node>, session: &Arc<Session>, call: Box<ConnectCall>) -> Admission {
    let (answer, decided) = oneshot::channel();
    let claim = Claim::default();
    let connect = Connect { call, claim: claim.clone(), answer };
    node.calls.push(node, session, Work::Connect(connect));
    decide(node, decided, &claim).await
}

/// Asks the handler, makes the session a member, and puts `registered` into its outlet before anything else can come there. The one rule for
/// the upgrade and for every `register`.
///
/// Dropping the future ends the registrations in it.
///
/// # Errors
/// [`Denied`]; the client is still to be told.
pub(crate) async fn carry_out(node: &Arc<Node>, session: &Arc<Session>, request: Request) -> Result<Registration, Denied> {
    let Request { call, client_id, verified, previous } = request;
    let count = |outcome| metrics::counter!("plugsocket_registrations_total", "outcome" => outcome).increment(1);
    let (mut granted, identity) = match ask(node, session, call).await {
        Admission::Granted(granted, identity) => (granted, identity),
        Admission::Refused(refusal) => {
            count("refused");
            return Err(Denied { denial: Denial::Refused(refusal), previous });
        }
        Admission::Busy(reason) => {
            count("busy");
            return Err(Denied { denial: Denial::Busy(reason), previous });
        }
    };
    let settings = node.settings.load_full();
    let entry = granted.entry(&identity.groups, &settings.limits);
    let checked = entry.and_then(|entry| Ok((entry, registered_frame(settings.server.protocol, *identity, client_id.as_ref())?)));
    let (entry, frame) = match checked {
        Ok(checked) => checked,
        Err(reason) => {
            tracing::error!(session = %session.id, reason, "connect granted an identity that can't be used; check the handler");
            count("unusable");
            drop(granted.end(POLICY, Afterwards::Stay));
            return Err(Denied { denial: Denial::Unusable, previous });
        }
    };
    match previous {
        Some(previous) if previous.connection_id == granted.connection_id => granted.is_announced = previous.supersede(),
        // The handler hears of the old identity's end before anything happens to the new one.
        Some(previous) => drop(previous.end(REREGISTERED, Afterwards::Stay).await),
        None => {}
    }
    let at_entry = || {
        session.stop_awaiting_registration();
        if let Some(verified) = &verified {
            session.expiry.set(verified.expires_ms, &node.settings.load().server.token);
        }
        session.send(frame);
    };
    match announce::enter(node, &entry, at_entry).await {
        Ok(()) => {
            granted.is_announced = true;
            granted.verified = verified;
            count("granted");
            Ok(granted)
        }
        Err(error) => {
            tracing::warn!(session = %session.id, %error, "a registration could not be announced to the queue");
            count("unannounced");
            drop(granted.end(LOST, Afterwards::Leave));
            Err(Denied { denial: Denial::Unannounced, previous: None })
        }
    }
}

/// Carries out a `register` frame and tells the client. Answers the registration that holds afterwards.
///
/// Dropping the future ends the registrations in it.
pub(crate) async fn register(node: Arc<Node>, session: Arc<Session>, request: Request) -> Option<Registration> {
    let client_id = request.client_id.clone();
    let id = client_id.as_ref();
    let Denied { denial, previous } = match carry_out(&node, &session, request).await {
        Ok(granted) => return Some(granted),
        Err(denied) => denied,
    };
    let is_registered = previous.is_some();
    match denial {
        Denial::Refused(refusal) => session.refuse(id, refusal),
        Denial::Busy(reason) => session.put_off(id, reason, is_registered),
        Denial::Unusable => session.send_error(id, ErrorCode::Failed, "the handler gave an identity that can't be used"),
        Denial::Unannounced => session.put_off(id, "the queue can't be reached".to_owned(), is_registered),
    }
    previous
}

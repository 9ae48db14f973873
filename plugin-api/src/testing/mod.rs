//! Test a plugin without a host: a context that records what was asked of it, and builders for what comes in.
//!
//! ```
//! use plugsocket_plugin::prelude::*;
//! use plugsocket_plugin::testing::MockContext;
//!
//! let context = MockContext::new();
//! context.join("lobby", "c1")?;
//! context.to_group("lobby").except("c2").send("hello", &"all")?;
//!
//! assert_eq!(context.sent()[0].except.as_deref(), Some("c2"));
//! assert_eq!(context.members("lobby")?[0].connection_id, "c1");
//! # Ok::<(), ContextError>(())
//! ```

mod build;
mod store;

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use self::build::{ConnectRequestBuilder, MessageBuilder, connect_request, message};
use self::store::StoreMock;
use crate::call::{ConnectionInfo, DisconnectRequest, GroupRequest, HostOperation, LaterRequest, RejectWire, SendRequest, Status, Target};
use crate::context::{CallFacts, Context, HostLink};

/// A message that was sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    /// Whom it is for.
    pub to: Target,
    /// The connection left out.
    pub except: Option<String>,
    /// The frame's action.
    pub action: String,
    /// The frame's data.
    pub data: Value,
}

/// A job that was asked for with [`Context::later`].
#[derive(Debug, Clone, PartialEq)]
pub struct Scheduled {
    /// From the moment it was asked.
    pub delay: Duration,
    /// The action to run.
    pub action: String,
    /// Its data.
    pub data: Value,
}

/// A [`Context`] whose host is a record: sends, group changes, disconnects and `later` are kept for the test to look at, connections are
/// what the test says, and the store works in memory.
///
/// Derefs to [`Context`], so `&mock` goes wherever a context is asked for.
pub struct MockContext {
    context: Context,
    host: Arc<Mutex<HostMock>>,
}

#[derive(Default)]
struct HostMock {
    sent: Vec<Sent>,
    joined: Vec<(String, String)>,
    left: Vec<(String, String)>,
    disconnected: Vec<(String, String)>,
    scheduled: Vec<Scheduled>,
    connections: Vec<ConnectionInfo>,
    store: StoreMock,
    failure: Option<String>,
}

impl MockContext {
    /// An empty world: nobody connected, nothing stored, first attempt, no deadline, message id `m1`.
    #[must_use]
    pub fn new() -> Self {
        let host = Arc::new(Mutex::new(HostMock::default()));
        let facts = CallFacts { message_id: "m1".to_owned(), attempt: 1, deadline_ms: 0 };
        Self { context: Context::new(Box::new(MockLink(Arc::clone(&host))), facts), host }
    }

    /// Puts the deadline this far from now.
    #[must_use]
    pub fn with_time_left(mut self, left: Duration) -> Self {
        let deadline = (SystemTime::now() + left).duration_since(UNIX_EPOCH).unwrap_or_default();
        self.context.facts_mut().deadline_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// Makes it this attempt, from 1.
    #[must_use]
    pub fn with_attempt(mut self, attempt: u32) -> Self {
        self.context.facts_mut().attempt = attempt;
        self
    }

    /// Makes it the call for this message.
    #[must_use]
    pub fn with_message_id(mut self, id: &str) -> Self {
        id.clone_into(&mut self.context.facts_mut().message_id);
        self
    }

    /// Adds a connection that the lookups find.
    #[must_use]
    pub fn with_connection(self, connection: &str, user: Option<&str>, groups: &[&str]) -> Self {
        self.host().connections.push(ConnectionInfo {
            connection_id: connection.to_owned(),
            user_id: user.map(ToOwned::to_owned),
            node: "test".to_owned(),
            groups: groups.iter().map(ToString::to_string).collect(),
        });
        self
    }

    /// From now on every request fails with this retryable error; `None` mends it.
    pub fn fail_with(&self, error: Option<&str>) {
        self.host().failure = error.map(ToOwned::to_owned);
    }

    /// Moves the store's clock, so that times to live run out.
    pub fn advance(&self, time: Duration) {
        self.host().store.advance(time);
    }

    /// Everything sent so far, in order.
    #[must_use]
    pub fn sent(&self) -> Vec<Sent> {
        self.host().sent.clone()
    }

    /// The data of what was sent so far under one action, in order.
    #[must_use]
    pub fn sent_as(&self, action: &str) -> Vec<Value> {
        self.host().sent.iter().filter(|sent| sent.action == action).map(|sent| sent.data.clone()).collect()
    }

    /// Every `(group, connection)` that joined.
    #[must_use]
    pub fn joined(&self) -> Vec<(String, String)> {
        self.host().joined.clone()
    }

    /// Every `(group, connection)` that left.
    #[must_use]
    pub fn left(&self) -> Vec<(String, String)> {
        self.host().left.clone()
    }

    /// Every `(connection, reason)` that was closed.
    #[must_use]
    pub fn disconnected(&self) -> Vec<(String, String)> {
        self.host().disconnected.clone()
    }

    /// Every job asked for with `later`.
    #[must_use]
    pub fn scheduled(&self) -> Vec<Scheduled> {
        self.host().scheduled.clone()
    }

    fn host(&self) -> MutexGuard<'_, HostMock> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MockContext {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for MockContext {
    type Target = Context;

    fn deref(&self) -> &Context {
        &self.context
    }
}

struct MockLink(Arc<Mutex<HostMock>>);

impl HostLink for MockLink {
    fn request(&self, operation: HostOperation, input: &[u8]) -> (Status, Vec<u8>) {
        let mut host = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = &host.failure {
            return (Status::Retry, error.clone().into_bytes());
        }
        match host.answer(operation, input) {
            Ok(answer) => (Status::Done, answer),
            Err(refused) => (Status::Rejected, serde_json::to_vec(&refused).unwrap_or_default()),
        }
    }
}

impl HostMock {
    fn answer(&mut self, operation: HostOperation, input: &[u8]) -> Result<Vec<u8>, RejectWire> {
        match operation {
            HostOperation::Send => self.send(input),
            HostOperation::Join => self.join(decode(input)?),
            HostOperation::Leave => self.leave(decode(input)?),
            HostOperation::Connection => self.connection(&decode::<String>(input)?),
            HostOperation::UserConnections => {
                let user: String = decode(input)?;
                self.list(|info| info.user_id.as_ref() == Some(&user))
            }
            HostOperation::Members => {
                let group: String = decode(input)?;
                self.list(|info| info.groups.contains(&group))
            }
            HostOperation::Connections => self.list(|_| true),
            HostOperation::Disconnect => {
                let DisconnectRequest { connection_id, reason } = decode(input)?;
                self.connections.retain(|info| info.connection_id != connection_id);
                self.disconnected.push((connection_id, reason));
                Ok(Vec::new())
            }
            HostOperation::Later => self.later(input),
            HostOperation::Store => encode(&self.store.answer(decode(input)?)?),
            HostOperation::Log => Ok(Vec::new()),
        }
    }

    fn send(&mut self, input: &[u8]) -> Result<Vec<u8>, RejectWire> {
        let request: SendRequest<'_> = serde_json::from_slice(input).map_err(|error| unreadable(&error))?;
        let data = serde_json::from_str(request.data.get()).map_err(|error| unreadable(&error))?;
        self.sent.push(Sent { to: request.to, except: request.except, action: request.action.into_owned(), data });
        Ok(Vec::new())
    }

    fn later(&mut self, input: &[u8]) -> Result<Vec<u8>, RejectWire> {
        let request: LaterRequest<'_> = serde_json::from_slice(input).map_err(|error| unreadable(&error))?;
        let data = serde_json::from_str(request.data.get()).map_err(|error| unreadable(&error))?;
        self.scheduled.push(Scheduled { delay: Duration::from_millis(request.delay_ms), action: request.action.into_owned(), data });
        Ok(Vec::new())
    }

    fn join(&mut self, GroupRequest { connection_id, group }: GroupRequest) -> Result<Vec<u8>, RejectWire> {
        match self.connections.iter_mut().find(|info| info.connection_id == connection_id) {
            Some(info) if !info.groups.contains(&group) => info.groups.push(group.clone()),
            Some(_) => {}
            None if self.disconnected.iter().any(|(gone, _)| *gone == connection_id) => {}
            None => self.connections.push(ConnectionInfo {
                connection_id: connection_id.clone(),
                user_id: None,
                node: "test".to_owned(),
                groups: vec![group.clone()],
            }),
        }
        self.joined.push((group, connection_id));
        Ok(Vec::new())
    }

    fn leave(&mut self, GroupRequest { connection_id, group }: GroupRequest) -> Result<Vec<u8>, RejectWire> {
        if let Some(info) = self.connections.iter_mut().find(|info| info.connection_id == connection_id) {
            info.groups.retain(|known| *known != group);
        }
        self.left.push((group, connection_id));
        Ok(Vec::new())
    }

    fn connection(&self, id: &str) -> Result<Vec<u8>, RejectWire> {
        encode(&self.connections.iter().find(|info| info.connection_id == id))
    }

    fn list(&self, wanted: impl Fn(&ConnectionInfo) -> bool) -> Result<Vec<u8>, RejectWire> {
        encode(&self.connections.iter().filter(|info| wanted(info)).collect::<Vec<_>>())
    }
}

fn decode<T: DeserializeOwned>(input: &[u8]) -> Result<T, RejectWire> {
    serde_json::from_slice(input).map_err(|error| unreadable(&error))
}

fn encode<T: Serialize>(answer: &T) -> Result<Vec<u8>, RejectWire> {
    serde_json::to_vec(answer).map_err(|error| unreadable(&error))
}

fn unreadable(error: &serde_json::Error) -> RejectWire {
    RejectWire { code: "mock".to_owned(), message: error.to_string() }
}

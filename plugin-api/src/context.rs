//! What a plugin may do during a call: send to others, move connections between groups, look around, keep small state, ask for later.

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::to_raw_value;

use crate::call::{ConnectionInfo, DisconnectRequest, GroupRequest, HostOperation, LaterRequest, RejectWire, SendRequest, Status, Target};
use crate::store::Store;

/// The way to the host during one call. The border and the mock both stand behind it.
pub(crate) trait HostLink: Send + Sync {
    /// Asks the host and waits for its answer.
    fn request(&self, operation: HostOperation, input: &[u8]) -> (Status, Vec<u8>);
}

/// Facts of the call a [`Context`] stands for.
#[derive(Debug, Clone, Default)]
pub(crate) struct CallFacts {
    pub(crate) message_id: String,
    pub(crate) attempt: u32,
    /// Milliseconds since the Unix epoch; 0 = never.
    pub(crate) deadline_ms: u64,
}

/// The way from a plugin to everybody else, for the length of one call.
///
/// Sends leave in the order they are made, before the reply, and at once: a long call can stream its progress. They are not undone
/// when the call fails afterwards. Every method waits for the host's answer and may be called from threads that end within the call.
pub struct Context {
    link: Box<dyn HostLink>,
    facts: CallFacts,
}

impl Context {
    pub(crate) fn new(link: Box<dyn HostLink>, facts: CallFacts) -> Self {
        Self { link, facts }
    }

    pub(crate) fn facts_mut(&mut self) -> &mut CallFacts {
        &mut self.facts
    }

    /// To one connection, by its public id.
    pub fn to(&self, connection: impl fmt::Display) -> Sending<'_> {
        self.sending(Target::Connection(connection.to_string()))
    }

    /// To every connection of a user.
    pub fn to_user(&self, user: impl fmt::Display) -> Sending<'_> {
        self.sending(Target::User(user.to_string()))
    }

    /// To every connection in a group.
    pub fn to_group(&self, group: impl fmt::Display) -> Sending<'_> {
        self.sending(Target::Group(group.to_string()))
    }

    /// To every registered connection of the app, on all nodes.
    pub fn all(&self) -> Sending<'_> {
        self.sending(Target::All)
    }

    fn sending(&self, to: Target) -> Sending<'_> {
        Sending { context: self, to, except: None }
    }

    /// Puts a connection into a group; it is reached by later sends of this call. Nothing happens when it is in already.
    ///
    /// # Errors
    /// [`ContextError`]
    pub fn join(&self, group: &str, connection: &str) -> Result<(), ContextError> {
        let request = GroupRequest { connection_id: connection.to_owned(), group: group.to_owned() };
        self.tell(HostOperation::Join, &request)
    }

    /// Takes a connection out of a group. Nothing happens when it is not in.
    ///
    /// # Errors
    /// [`ContextError`]
    pub fn leave(&self, group: &str, connection: &str) -> Result<(), ContextError> {
        let request = GroupRequest { connection_id: connection.to_owned(), group: group.to_owned() };
        self.tell(HostOperation::Leave, &request)
    }

    /// A connection, on whichever node it is; `None` when it is gone.
    ///
    /// # Errors
    /// [`ContextError`]
    pub fn connection(&self, connection: &str) -> Result<Option<ConnectionInfo>, ContextError> {
        self.ask(HostOperation::Connection, connection)
    }

    /// The connections of a user, on all nodes.
    ///
    /// # Errors
    /// [`ContextError`]
    pub fn user_connections(&self, user: impl fmt::Display) -> Result<Vec<ConnectionInfo>, ContextError> {
        self.ask(HostOperation::UserConnections, &user.to_string())
    }

    /// The connections in a group, on all nodes.
    ///
    /// # Errors
    /// [`ContextError`]
    pub fn members(&self, group: &str) -> Result<Vec<ConnectionInfo>, ContextError> {
        self.ask(HostOperation::Members, group)
    }

    /// The connections of the handler's own node, so that a fresh version knows who is here. Handlers only.
    ///
    /// # Errors
    /// [`ContextError`]; from an action always.
    pub fn connections(&self) -> Result<Vec<ConnectionInfo>, ContextError> {
        let answer = self.request(HostOperation::Connections, &[])?;
        serde_json::from_slice(&answer).map_err(|error| ContextError::Answer(error.to_string()))
    }

    /// Closes a connection with code 4000 ("do not reconnect by yourself") and this reason (at most 123 bytes reach the client).
    ///
    /// # Errors
    /// [`ContextError`]
    pub fn disconnect(&self, connection: &str, reason: &str) -> Result<(), ContextError> {
        let request = DisconnectRequest { connection_id: connection.to_owned(), reason: reason.to_owned() };
        self.tell(HostOperation::Disconnect, &request)
    }

    /// Runs an action with this data for the same connection, in some time: a job in its lane, as if the client had sent it.
    ///
    /// # Errors
    /// [`ContextError`]; in `on_loop` always, for it belongs to no connection.
    pub fn later<T: Serialize + ?Sized>(&self, delay: Duration, action: &str, data: &T) -> Result<(), ContextError> {
        let data = to_raw_value(data).map_err(|error| ContextError::Encode(error.to_string()))?;
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.tell(HostOperation::Later, &LaterRequest { delay_ms, action: Cow::Borrowed(action), data: &data })
    }

    /// Small state shared by this library's handler and actions, on all nodes.
    #[must_use]
    pub fn store(&self) -> Store<'_> {
        Store::new(self)
    }

    /// When the call will be given up; `None` = never. It is tried again then, or answered `timeout` on its last attempt.
    #[must_use]
    pub fn deadline(&self) -> Option<SystemTime> {
        (self.facts.deadline_ms > 0).then(|| UNIX_EPOCH + Duration::from_millis(self.facts.deadline_ms))
    }

    /// How long until [`deadline`](Self::deadline); zero when it has passed, `None` = no deadline.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        self.deadline().map(|deadline| deadline.duration_since(SystemTime::now()).unwrap_or_default())
    }

    /// Which attempt this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.facts.attempt
    }

    /// The message's id, the same on every attempt: the key for what must not happen twice. Empty outside of messages.
    #[must_use]
    pub fn message_id(&self) -> &str {
        &self.facts.message_id
    }

    fn tell<T: Serialize + ?Sized>(&self, operation: HostOperation, input: &T) -> Result<(), ContextError> {
        let input = serde_json::to_vec(input).map_err(|error| ContextError::Encode(error.to_string()))?;
        self.request(operation, &input).map(drop)
    }

    pub(crate) fn ask<T: Serialize + ?Sized, A: DeserializeOwned>(&self, operation: HostOperation, input: &T) -> Result<A, ContextError> {
        let input = serde_json::to_vec(input).map_err(|error| ContextError::Encode(error.to_string()))?;
        let answer = self.request(operation, &input)?;
        serde_json::from_slice(&answer).map_err(|error| ContextError::Answer(error.to_string()))
    }

    fn request(&self, operation: HostOperation, input: &[u8]) -> Result<Vec<u8>, ContextError> {
        let (status, answer) = self.link.request(operation, input);
        match status {
            Status::Done => Ok(answer),
            Status::Rejected => Err(match serde_json::from_slice::<RejectWire>(&answer) {
                Ok(RejectWire { code, message }) => ContextError::Refused { code, message },
                Err(_) => ContextError::Failed(String::from_utf8_lossy(&answer).into_owned()),
            }),
            Status::Retry | Status::Panicked => Err(ContextError::Failed(String::from_utf8_lossy(&answer).into_owned())),
            Status::Unsupported => Err(ContextError::Unsupported(operation)),
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Context").field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// A message on its way: whom it is for is said, what it says comes with [`send`](Self::send).
#[derive(Debug)]
#[must_use = "nothing leaves before `send`"]
pub struct Sending<'call> {
    context: &'call Context,
    to: Target,
    except: Option<String>,
}

impl Sending<'_> {
    /// Leaves one connection out, usually the sender's own.
    pub fn except(mut self, connection: impl fmt::Display) -> Self {
        self.except = Some(connection.to_string());
        self
    }

    /// Sends `{"action": action, "data": data}`. Done when the queue has it; nobody being there is no error.
    ///
    /// # Errors
    /// [`ContextError`]
    pub fn send<T: Serialize + ?Sized>(self, action: &str, data: &T) -> Result<(), ContextError> {
        let data = to_raw_value(data).map_err(|error| ContextError::Encode(error.to_string()))?;
        let request = SendRequest { to: self.to, except: self.except, action: Cow::Borrowed(action), data: &data };
        self.context.tell(HostOperation::Send, &request)
    }
}

/// Why the host did not do what a plugin asked of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ContextError {
    /// Refused for good, as too large or not allowed here; no attempt mends it.
    Refused {
        /// A stable code.
        code: String,
        /// A sentence.
        message: String,
    },
    /// Failed for now, as with a queue that can't be reached.
    Failed(String),
    /// The value has no JSON form.
    Encode(String),
    /// The answer, or the stored value, is not of the type asked for.
    Answer(String),
    /// The host is older than this plugin and does not know the operation.
    Unsupported(HostOperation),
}

impl fmt::Display for ContextError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { code, message } => write!(formatter, "{code}: {message}"),
            Self::Failed(error) => formatter.write_str(error),
            Self::Encode(error) => write!(formatter, "value has no JSON form: {error}"),
            Self::Answer(error) => write!(formatter, "answer is not of the type asked for: {error}"),
            Self::Unsupported(operation) => write!(formatter, "this host does not know {operation:?}; upgrade it"),
        }
    }
}

impl std::error::Error for ContextError {}

//! The host's side of one call: requests in, deliveries and answers out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use plugsocket_plugin::call::{
    DisconnectRequest, GroupRequest, HostOperation, LaterRequest, RejectWire, SendRequest, Status, StoreRequest, Target,
};
use serde::{Deserialize, Serialize};

use super::ContextOptions;
use crate::config::Settings;
use crate::plugin::{Answer, HostSink};
use crate::queue::QueueError;
use crate::wire::delivery::{Address, Body, Delivery, MessageName, Origin};
use crate::wire::ids::SessionId;
use crate::wire::job::Job;
use crate::wire::json::{Json, nests_deeper_than};
use crate::wire::protocol::Protocol;

/// The furthest that `later` reaches.
const DELAY_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// What a close frame has room for.
const CLOSE_REASON_BYTES_MAX: usize = 123;
/// `{"action":,"data":}` and the quotes.
const FRAME_BYTES_AROUND: usize = 24;

/// What names and data of a plugin may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameLimits {
    /// Longest action name, in bytes.
    pub action_bytes_max: usize,
    /// Longest group name, in bytes.
    pub group_bytes_max: usize,
    /// Longest user or connection id, in bytes.
    pub user_bytes_max: usize,
    /// Deepest nesting of arrays and objects.
    pub json_depth_max: usize,
    /// Says which actions are the server's own.
    pub protocol: Protocol,
}

impl From<&Settings> for NameLimits {
    fn from(settings: &Settings) -> Self {
        let limits = &settings.limits;
        Self {
            action_bytes_max: limits.action_bytes_max,
            group_bytes_max: limits.group_bytes_max,
            user_bytes_max: limits.user_bytes_max,
            json_depth_max: limits.json_depth_max,
            protocol: settings.server.protocol,
        }
    }
}

/// Who sent the message that the call is for; what `later` schedules is theirs as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// The public id.
    pub connection_id: Arc<str>,
    /// The user.
    pub user_id: Option<Arc<str>>,
    /// The address.
    pub ip: String,
}

/// Answers a plugin's requests during one call.
pub struct ContextSink {
    options: ContextOptions,
    names: NameLimits,
    sender: Option<Sender>,
    outputs: AtomicU32,
}

/// Why a request was not carried out.
enum Refused {
    /// It will never be.
    Invalid(String),
    /// Another attempt may succeed.
    Retry(String),
}

impl From<QueueError> for Refused {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Invalid(reason) => Self::Invalid(reason),
            other => Self::Retry(other.to_string()),
        }
    }
}

type Outcome = Result<Bytes, Refused>;

impl ContextSink {
    /// For one call, with no known sender.
    #[must_use]
    pub fn new(options: ContextOptions, names: NameLimits) -> Self {
        Self { options, names, sender: None, outputs: AtomicU32::new(0) }
    }

    /// With the sender known; otherwise `later` asks the queue who the session is.
    #[must_use]
    pub fn with_sender(mut self, sender: Sender) -> Self {
        self.sender = Some(sender);
        self
    }

    /// The message that the call is for; empty for none.
    pub fn message_id(&self) -> &str {
        &self.options.message_id
    }

    /// The index of the call's next output: sends count up from 0, the reply comes last.
    pub fn next_index(&self) -> u32 {
        self.outputs.fetch_add(1, Ordering::Relaxed)
    }

    /// Names the call as the origin of its next output; `None` when the call is for no message.
    pub fn next_origin(&self) -> Option<Origin> {
        let index = self.next_index();
        let message_id = &self.options.message_id;
        (!message_id.is_empty()).then(|| Origin { message: MessageName::Id(message_id.clone()), index })
    }

    async fn run(&self, operation: HostOperation, input: &[u8]) -> Outcome {
        let presence = &self.options.queue.presence;
        match operation {
            HostOperation::Send => self.send(read(input)?).await,
            HostOperation::Join | HostOperation::Leave => self.group(operation, read(input)?).await,
            HostOperation::Connection => answer(&presence.connection(&self.id(input)?).await?),
            HostOperation::UserConnections => answer(&presence.user_connections(&self.id(input)?).await?),
            HostOperation::Members => {
                let group: String = read(input)?;
                self.check_group(&group)?;
                answer(&presence.members(&group).await?)
            }
            HostOperation::Connections => match &self.options.local {
                Some(local) => answer(&local.list()),
                None => Err(Refused::Invalid("only the server's handler may ask for its node's connections".to_owned())),
            },
            HostOperation::Disconnect => self.disconnect(read(input)?).await,
            HostOperation::Later => self.later(read(input)?).await,
            HostOperation::Store => {
                let request: StoreRequest = read(input)?;
                answer(&self.options.queue.store.run(&self.options.plugin, request).await?)
            }
            HostOperation::Log => Err(Refused::Retry("events for the log do not come this way".to_owned())),
        }
    }

    async fn send(&self, request: SendRequest<'_>) -> Outcome {
        self.check_action(&request.action)?;
        let data = request.data.get();
        self.check_data(data)?;
        let frame_bytes = data.len().saturating_add(request.action.len()).saturating_add(FRAME_BYTES_AROUND);
        let limit = self.options.frame_bytes_max;
        if frame_bytes > limit {
            return Err(Refused::Invalid(format!("the frame would have {frame_bytes} bytes, the limit is {limit} bytes")));
        }
        let to = match request.to {
            Target::Connection(id) => Address::Connection(self.checked_id(id)?),
            Target::User(id) => Address::User(self.checked_id(id)?),
            Target::Group(group) => {
                self.check_group(&group)?;
                Address::Group(group)
            }
            Target::All => Address::All,
        };
        let except = request.except.map(|id| self.checked_id(id)).transpose()?;
        let body = Body::Message { action: request.action.into_owned(), data: Json::from(request.data) };
        self.deliver(to, except, body).await
    }

    async fn group(&self, operation: HostOperation, request: GroupRequest) -> Outcome {
        self.check_group(&request.group)?;
        let to = Address::Connection(self.checked_id(request.connection_id)?);
        let body = if operation == HostOperation::Join { Body::Join(request.group) } else { Body::Leave(request.group) };
        self.deliver(to, None, body).await
    }

    async fn disconnect(&self, request: DisconnectRequest) -> Outcome {
        let to = Address::Connection(self.checked_id(request.connection_id)?);
        let mut reason = request.reason;
        while reason.len() > CLOSE_REASON_BYTES_MAX {
            reason.pop();
        }
        self.deliver(to, None, Body::Close(reason)).await
    }

    async fn deliver(&self, to: Address, except: Option<String>, body: Body) -> Outcome {
        let delivery = Delivery { to: vec![to], except, body, origin: self.next_origin() };
        self.options.queue.outbox.send(delivery).await?;
        Ok(Bytes::new())
    }

    async fn later(&self, request: LaterRequest<'_>) -> Outcome {
        let Some(session) = &self.options.session else {
            return Err(Refused::Invalid("`later` belongs to a connection, and this call is for none".to_owned()));
        };
        self.check_action(&request.action)?;
        self.check_data(request.data.get())?;
        let delay = Duration::from_millis(request.delay_ms);
        if delay > DELAY_MAX {
            return Err(Refused::Invalid(format!("`later` reaches {} days at most", DELAY_MAX.as_secs() / 86_400)));
        }
        let index = self.next_index();
        let scheduled_id = if self.options.message_id.is_empty() {
            SessionId::random(&session.node()).map_err(|error| Refused::Retry(error.to_string()))?.to_string()
        } else {
            format!("{}+{index}", self.options.message_id) // The same at every attempt.
        };
        let sender = self.sender(session).await?;
        let job = Job {
            session: session.clone(),
            connection_id: sender.connection_id,
            user_id: sender.user_id,
            action: request.action.into_owned(),
            sequence: 0,
            time_ms: now_ms().saturating_add(request.delay_ms),
            client_id: None,
            ip: sender.ip,
            attempts: 0,
            unserved: 0,
            scheduled_id: Some(scheduled_id),
            data: Json::from(request.data),
        };
        self.options.queue.inbox.schedule(job, delay).await?;
        Ok(Bytes::new())
    }

    async fn sender(&self, session: &SessionId) -> Result<Sender, Refused> {
        if let Some(sender) = &self.sender {
            return Ok(sender.clone());
        }
        let known = self.options.queue.presence.connection(session.as_str()).await?;
        Ok(known.map_or_else(
            || Sender { connection_id: session.as_str().into(), user_id: None, ip: String::new() },
            |info| Sender { connection_id: info.connection_id.into(), user_id: info.user_id.map(Into::into), ip: String::new() },
        ))
    }

    fn id(&self, input: &[u8]) -> Result<String, Refused> {
        self.checked_id(read(input)?)
    }

    fn checked_id(&self, id: String) -> Result<String, Refused> {
        check_name("connection or user id", &id, self.names.user_bytes_max)?;
        Ok(id)
    }

    fn check_group(&self, group: &str) -> Result<(), Refused> {
        check_name("group", group, self.names.group_bytes_max)
    }

    fn check_action(&self, action: &str) -> Result<(), Refused> {
        check_name("action", action, self.names.action_bytes_max)?;
        if self.names.protocol.reserves(action) {
            return Err(Refused::Invalid(format!("`{action}` is reserved for the server itself")));
        }
        Ok(())
    }

    fn check_data(&self, data: &str) -> Result<(), Refused> {
        if nests_deeper_than(data.as_bytes(), self.names.json_depth_max) {
            return Err(Refused::Invalid(format!("data nests deeper than {} levels", self.names.json_depth_max)));
        }
        Ok(())
    }
}

#[async_trait]
impl HostSink for ContextSink {
    async fn request(&self, operation: HostOperation, input: Bytes) -> Answer {
        match self.run(operation, &input).await {
            Ok(bytes) => Answer { status: Status::Done, bytes },
            Err(Refused::Retry(text)) => Answer::retry(text),
            Err(Refused::Invalid(message)) => {
                let reject = RejectWire { code: "invalid".to_owned(), message };
                Answer { status: Status::Rejected, bytes: serde_json::to_vec(&reject).unwrap_or_default().into() }
            }
        }
    }
}

fn check_name(what: &str, name: &str, bytes_max: usize) -> Result<(), Refused> {
    if name.is_empty() || name.len() > bytes_max {
        return Err(Refused::Invalid(format!("{what} must have 1 to {bytes_max} bytes, it has {}", name.len())));
    }
    if name.chars().any(char::is_control) {
        return Err(Refused::Invalid(format!("{what} must not have control characters")));
    }
    Ok(())
}

fn read<'input, T: Deserialize<'input>>(input: &'input [u8]) -> Result<T, Refused> {
    serde_json::from_slice(input).map_err(|error| Refused::Invalid(format!("request can't be read: {error}")))
}

fn answer<T: Serialize>(value: &T) -> Outcome {
    serde_json::to_vec(value).map(Bytes::from).map_err(|error| Refused::Retry(error.to_string()))
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;

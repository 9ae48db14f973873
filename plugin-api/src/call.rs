//! What crosses the border as bytes: the JSON of every operation, in both directions. Both sides ignore unknown fields and default
//! missing ones, so host and plugin may be of different releases.

mod store;

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

pub use self::store::{StoreAnswer, StoreRequest};
use crate::id::Id;

/// Actions that are the server's own: a plugin may neither serve nor send them.
pub const SYSTEM_ACTIONS: [&str; 9] = ["register", "registered", "accepted", "error", "ping", "pong", "resume", "draining", "expiring"];

/// Operations the host calls on an instance, by their number at the border.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Operation {
    /// Run an action: [`MessageCall`] in; `Done` answers the reply's JSON, empty for none.
    Action = 1,
    /// Ask the handler to admit a connection: [`ConnectCall`] in; `Done` answers [`IdentityWire`], `Rejected` a [`RefusalWire`].
    Connect = 2,
    /// Tell the handler that a connection ended: [`DisconnectCall`] in, empty out.
    Disconnect = 3,
    /// The handler's periodic turn: empty in, empty out.
    Loop = 4,
    /// The handler's fallback action: [`MessageCall`] in; answers as for `Action`.
    Fallback = 5,
}

/// Operations a plugin asks of the host during a call, by their number at the border.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum HostOperation {
    /// [`SendRequest`]; answers empty.
    Send = 1,
    /// [`GroupRequest`]; answers empty.
    Join = 2,
    /// [`GroupRequest`]; answers empty.
    Leave = 3,
    /// A JSON string, the connection id; answers `null` or [`ConnectionInfo`].
    Connection = 4,
    /// A JSON string, the user id; answers a list of [`ConnectionInfo`].
    UserConnections = 5,
    /// A JSON string, the group; answers a list of [`ConnectionInfo`].
    Members = 6,
    /// Empty; answers the list of [`ConnectionInfo`] of this node. Handlers only.
    Connections = 7,
    /// [`DisconnectRequest`]; answers empty.
    Disconnect = 8,
    /// [`LaterRequest`]; answers empty.
    Later = 9,
    /// [`StoreRequest`]; answers [`StoreAnswer`].
    Store = 10,
    /// [`LogEvent`]; answers empty. Also outside of calls.
    Log = 11,
}

/// How a call ended, by its number at the border; the bytes beside it depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done; the bytes are the operation's answer.
    Done = 0,
    /// Refused for good: [`RejectWire`], or [`RefusalWire`] for `Connect`. Never tried again.
    Rejected = 1,
    /// Failed in a way that another attempt may mend: the bytes are the error's text.
    Retry = 2,
    /// The plugin panicked; the bytes are the panic's text. Counts as `Retry`.
    Panicked = 3,
    /// The other side does not know this operation (an older release).
    Unsupported = 4,
}

macro_rules! numbered {
    ($name:ident, $number:ty, [$($variant:ident),+]) => {
        impl TryFrom<$number> for $name {
            type Error = $number;

            fn try_from(number: $number) -> Result<Self, $number> {
                $(if number == Self::$variant as $number { return Ok(Self::$variant); })+
                Err(number)
            }
        }
    };
}

numbered!(Operation, u32, [Action, Connect, Disconnect, Loop, Fallback]);
numbered!(HostOperation, u32, [Send, Join, Leave, Connection, UserConnections, Members, Connections, Disconnect, Later, Store, Log]);
numbered!(Status, u8, [Done, Rejected, Retry, Panicked, Unsupported]);

/// What a library says of itself before anything of it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The plugin's name, as in `export_plugin!`.
    pub name: String,
    /// The plugin crate's version.
    pub version: String,
    /// The version of `plugsocket-plugin` it was built with.
    pub sdk: String,
    /// The actions it serves.
    #[serde(default)]
    pub actions: Vec<String>,
    /// Whether it exports a handler.
    #[serde(default)]
    pub handler: bool,
    /// Named abilities beyond the first release; unknown ones are ignored.
    #[serde(default)]
    pub features: Vec<String>,
    /// `"unwind"` or `"abort"`: with `abort` a panic can't be contained in the host's process.
    #[serde(default)]
    pub panic: String,
}

/// Which of a library's two separate instances to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The server's single handler.
    Handler,
    /// The worker's actions.
    Actions,
}

/// Input of `create`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateRequest {
    /// Which instance.
    pub role: Role,
    /// The library's own config table (`[plugins.<name>.config]`).
    #[serde(default)]
    pub config: Map<String, Value>,
}

/// Facts about a message that are not its content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Meta {
    /// When the server accepted the message, in milliseconds since the Unix epoch.
    pub time: u64,
    /// The node that holds the connection.
    pub node: String,
    /// The client's address.
    pub ip: String,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// Stable across attempts: the key for idempotence.
    pub message_id: String,
    /// The frame's `id`, as its JSON text, when the client gave one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
}

/// Input of `Action` and `Fallback`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MessageCall<'call> {
    /// The action's name.
    #[serde(borrow)]
    pub action: Cow<'call, str>,
    /// The sender's connection; empty when it has not registered (flat protocol, `Fallback` only).
    #[serde(borrow, default)]
    pub connection_id: Cow<'call, str>,
    /// The sender's user, when the handler gave one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// The client's data, untouched; absent = null.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub data: Option<&'call RawValue>,
    /// Facts about the message.
    #[serde(default)]
    pub meta: Meta,
    /// When the call will be given up, in milliseconds since the Unix epoch; 0 = never.
    #[serde(default)]
    pub deadline_ms: u64,
}

/// Input of `Connect`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConnectCall {
    /// The id the connection has unless the handler chooses another.
    pub connection_id: String,
    /// Data of the `register` frame; absent = null.
    #[serde(default)]
    pub data: Option<Box<RawValue>>,
    /// The node that holds the connection.
    #[serde(default)]
    pub node: String,
    /// The client's address.
    #[serde(default)]
    pub ip: String,
    /// Path of the upgrade request.
    #[serde(default)]
    pub path: String,
    /// Query string of the upgrade request, without `?`.
    #[serde(default)]
    pub query: String,
    /// Headers of the upgrade request, names in lower case, in their order.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// Claims of the client's token; absent when the host checks none. The token itself is nowhere in the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claims: Option<Map<String, Value>>,
}

/// What `connect` grants; comes back in `disconnect`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IdentityWire {
    /// The connection's public id; absent = the proposed one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_id: Option<Id>,
    /// The connection's owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<Id>,
    /// Further members of `registered`'s data.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub fields: Map<String, Value>,
    /// Groups the connection starts in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
}

/// Why `connect` refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalWire {
    /// Shown to the client.
    pub reason: String,
    /// Leave the socket open for another `register`.
    #[serde(default)]
    pub keep_open: bool,
    /// The HTTP status of a refusal during the upgrade; absent = 403.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

/// Input of `Disconnect`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DisconnectCall {
    /// What `connect` granted, the connection id filled in.
    pub identity: IdentityWire,
    /// Why it ended: `client`, `application`, `idle`, `slow_consumer`, `draining`, `replaced`, `reregistered`, `policy`, `protocol`, `expired`,
    /// `lost`, `node_lost`.
    pub reason: String,
}

/// Why an action refused for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RejectWire {
    /// A stable code for the client.
    pub code: String,
    /// A sentence for a person.
    pub message: String,
}

/// Whom a message is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// One connection, by its public id.
    Connection(String),
    /// Every connection of a user.
    User(String),
    /// Every connection in a group.
    Group(String),
    /// Every registered connection of the app.
    All,
}

/// Input of `Send`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SendRequest<'call> {
    /// Whom it is for.
    pub to: Target,
    /// A connection to leave out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub except: Option<String>,
    /// The frame's action.
    #[serde(borrow)]
    pub action: Cow<'call, str>,
    /// The frame's data.
    #[serde(borrow)]
    pub data: &'call RawValue,
}

/// Input of `Join` and `Leave`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GroupRequest {
    /// The connection that joins or leaves.
    pub connection_id: String,
    /// The group.
    pub group: String,
}

/// Input of `Disconnect` (the host's).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DisconnectRequest {
    /// The connection to close.
    pub connection_id: String,
    /// Told to the client in the close frame.
    pub reason: String,
}

/// Input of `Later`: a job for this connection's lane, in some time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LaterRequest<'call> {
    /// From now, in milliseconds.
    pub delay_ms: u64,
    /// The action to run.
    #[serde(borrow)]
    pub action: Cow<'call, str>,
    /// Its data.
    #[serde(borrow)]
    pub data: &'call RawValue,
}

/// A connection as the host knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionInfo {
    /// Its public id.
    pub connection_id: String,
    /// Its owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// The node that holds it.
    pub node: String,
    /// The groups it is in.
    #[serde(default)]
    pub groups: Vec<String>,
}

/// Input of `Log`: one `tracing` event of the plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEvent {
    /// `ERROR`, `WARN`, `INFO`, `DEBUG` or `TRACE`.
    pub level: String,
    /// The event's target, usually a module path.
    #[serde(default)]
    pub target: String,
    /// The event's message.
    #[serde(default)]
    pub message: String,
    /// The other fields, as text.
    #[serde(default)]
    pub fields: BTreeMap<String, String>,
}

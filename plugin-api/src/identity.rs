//! What `connect` answers: who the connection is from now on, or why it may not be.

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::call::{IdentityWire, RefusalWire};
use crate::context::ContextError;
use crate::id::Id;

/// Who a connection is. Comes back unchanged in [`Handler::disconnect`](crate::Handler::disconnect).
///
/// ```
/// use plugsocket_plugin::Identity;
///
/// let identity = Identity::new().with_user_id(7_i64).with_field("nickname", "Ada").with_group("staff");
/// assert_eq!(identity.field::<String>("nickname").as_deref(), Some("Ada"));
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Identity(IdentityWire);

impl Identity {
    /// Admits the connection under the id it was proposed, without user, fields or groups.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Chooses the public id. A newer connection with the same id replaces the older; ids in the form of the server's own are refused.
    #[must_use]
    pub fn with_connection_id(mut self, id: impl Into<Id>) -> Self {
        self.0.connection_id = Some(id.into());
        self
    }

    /// Names the owner: what [`Context::to_user`](crate::Context::to_user) reaches.
    #[must_use]
    pub fn with_user_id(mut self, id: impl Into<Id>) -> Self {
        self.0.user_id = Some(id.into());
        self
    }

    /// Adds a member to the data of the client's `registered` frame.
    #[must_use]
    pub fn with_field(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.0.fields.insert(name.into(), value.into());
        self
    }

    /// Puts the connection into a group from the start.
    #[must_use]
    pub fn with_group(mut self, group: impl Into<String>) -> Self {
        self.0.groups.push(group.into());
        self
    }

    /// The connection's id as text; empty before it is granted, always there in `disconnect`.
    #[must_use]
    pub fn connection_id(&self) -> String {
        self.0.connection_id.as_ref().map(ToString::to_string).unwrap_or_default()
    }

    /// The owner, in the JSON type it was given.
    #[must_use]
    pub fn user_id(&self) -> Option<&Id> {
        self.0.user_id.as_ref()
    }

    /// A field as a serde type; `None` when it is absent or of another type.
    #[must_use]
    pub fn field<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        self.0.fields.get(name).and_then(|value| T::deserialize(value).ok())
    }

    /// The groups it starts in.
    #[must_use]
    pub fn groups(&self) -> &[String] {
        &self.0.groups
    }

    pub(crate) fn from_wire(wire: IdentityWire) -> Self {
        Self(wire)
    }

    pub(crate) fn wire(&self) -> &IdentityWire {
        &self.0
    }
}

/// Why `connect` does not admit a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// Told to the client.
    Refused {
        /// A sentence for a person.
        reason: String,
        /// Whether the client may ask again on the same socket.
        keep_open: bool,
        /// The HTTP status when `connect` runs during the upgrade; `None` = 403.
        status: Option<u16>,
    },
    /// Not the client's fault: it is told `busy`. The text is for the operator.
    Failed(String),
}

impl Refusal {
    /// Refuses with a reason for the client; the socket is closed with 4003. With `server.connect_on = "upgrade"` there is no socket yet,
    /// and the answer is HTTP 403.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> Self {
        Self::Refused { reason: reason.into(), keep_open: false, status: None }
    }

    /// As [`Self::new`], with HTTP 401 during an upgrade: the client has to say who it is, or to say it better.
    #[must_use]
    pub fn unauthorized(reason: impl Into<String>) -> Self {
        Self::Refused { reason: reason.into(), keep_open: false, status: Some(401) }
    }

    /// Leaves the socket open, so that the client can ask again; means nothing during an upgrade.
    #[must_use]
    pub fn keep_open(self) -> Self {
        match self {
            Self::Refused { reason, status, .. } => Self::Refused { reason, keep_open: true, status },
            failed @ Self::Failed(_) => failed,
        }
    }

    /// Chooses the HTTP status of a refusal during an upgrade: 400 to 499, or 503. The host answers one that HTTP has no name for as 403.
    ///
    /// Any other status is a defect of the handler: it makes this [`Self::Failed`], so the client is told `busy` and the operator why.
    #[must_use]
    pub fn with_status(self, status: u16) -> Self {
        match self {
            Self::Refused { reason, keep_open, .. } if matches!(status, 400..=499 | 503) => {
                Self::Refused { reason, keep_open, status: Some(status) }
            }
            Self::Refused { .. } => Self::Failed(format!("a refusal's status is 400 to 499, or 503, not {status}")),
            failed @ Self::Failed(_) => failed,
        }
    }

    pub(crate) fn into_wire(self) -> Result<RefusalWire, String> {
        match self {
            Self::Refused { reason, keep_open, status } => Ok(RefusalWire { reason, keep_open, status }),
            Self::Failed(error) => Err(error),
        }
    }
}

impl From<serde_json::Error> for Refusal {
    fn from(error: serde_json::Error) -> Self {
        Self::new(format!("the registration's data does not fit: {error}")).keep_open()
    }
}

impl From<ContextError> for Refusal {
    fn from(error: ContextError) -> Self {
        Self::Failed(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusals_status_must_be_one() {
        assert_eq!(Refusal::new("no").with_status(429).into_wire().unwrap().status, Some(429));
        assert_eq!(Refusal::unauthorized("who?").keep_open().into_wire().unwrap().status, Some(401));
        for status in [0, 101, 200, 399, 500, 502, 504, 999] {
            let error = Refusal::new("no").with_status(status).into_wire().unwrap_err();
            assert!(error.ends_with(&format!("not {status}")), "{error}");
        }
        let wire = serde_json::to_value(Refusal::new("no").into_wire().unwrap()).unwrap();
        assert_eq!(wire, serde_json::json!({"reason": "no", "keep_open": false}), "as hosts without statuses know it");
    }
}

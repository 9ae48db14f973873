//! One message from a client: who sent it, its data, and the facts about it.

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::call::{MessageCall, Meta};

/// One message from a connection that has registered; with the flat protocol also, at the handler's `action`, from one that has not.
#[derive(Debug, Clone)]
pub struct Message {
    action: String,
    connection_id: String,
    user_id: Option<String>,
    data: Option<Box<RawValue>>,
    meta: Meta,
}

impl Message {
    pub(crate) fn from_call(call: MessageCall<'_>) -> Self {
        Self {
            action: call.action.into_owned(),
            connection_id: call.connection_id.into_owned(),
            user_id: call.user_id,
            data: call.data.map(ToOwned::to_owned),
            meta: call.meta,
        }
    }

    /// The action's name.
    #[must_use]
    pub fn action(&self) -> &str {
        &self.action
    }

    /// The sender's connection: what [`Context::to`](crate::Context::to) takes. Empty when the client has not registered, which only the
    /// flat protocol lets through, and only to the handler's [`action`](crate::Handler::action): then there is no user either.
    #[must_use]
    pub fn connection_id(&self) -> &str {
        &self.connection_id
    }

    /// The sender's user, when the handler gave one.
    #[must_use]
    pub fn user_id(&self) -> Option<&str> {
        self.user_id.as_deref()
    }

    /// The data as a serde type; absent data is `null`.
    ///
    /// # Errors
    /// Serde's, when the data does not fit; `?` in a handler turns it into the sender's `bad_data`.
    pub fn data<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.raw_data())
    }

    /// The data's JSON text, as the client sent it; `null` when there was none.
    #[must_use]
    pub fn raw_data(&self) -> &str {
        self.data.as_deref().map_or("null", RawValue::get)
    }

    /// When and where it came in, which attempt this is, and its stable id.
    #[must_use]
    pub fn meta(&self) -> &Meta {
        &self.meta
    }
}

//! What the handler knows of a connection before it is admitted.

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::call::ConnectCall;

/// A client that asks to be registered.
#[derive(Debug, Clone)]
pub struct ConnectRequest(ConnectCall);

impl ConnectRequest {
    pub(crate) fn from_call(call: ConnectCall) -> Self {
        Self(call)
    }

    /// The id the connection has unless the handler chooses another.
    #[must_use]
    pub fn connection_id(&self) -> &str {
        &self.0.connection_id
    }

    /// Data of the `register` frame as a serde type; absent data is `null`.
    ///
    /// # Errors
    /// Serde's, when the data does not fit; `?` in `connect` turns it into a refusal that keeps the socket open.
    pub fn data<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.raw_data())
    }

    /// The data's JSON text, as the client sent it; `null` when there was none.
    #[must_use]
    pub fn raw_data(&self) -> &str {
        self.0.data.as_deref().map_or("null", RawValue::get)
    }

    /// The node that holds the connection.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.0.node
    }

    /// The client's address.
    #[must_use]
    pub fn ip(&self) -> &str {
        &self.0.ip
    }

    /// Path of the upgrade request.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.0.path
    }

    /// Query string of the upgrade request, without `?`, still percent-encoded.
    #[must_use]
    pub fn query(&self) -> &str {
        &self.0.query
    }

    /// The first header of this name, case ignored.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// All headers of the upgrade request in their order, names in lower case.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Claims of the client's token, which the host has checked; `None` when it checks none (`[server.token]` without keys).
    ///
    /// The token itself is taken out of headers, query and data before the handler is asked.
    #[must_use]
    pub fn claims(&self) -> Option<&Map<String, Value>> {
        self.0.claims.as_ref()
    }

    /// One claim as a serde type; `None` when it is absent or of another type.
    #[must_use]
    pub fn claim<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        self.claims()?.get(name).and_then(|value| T::deserialize(value).ok())
    }
}

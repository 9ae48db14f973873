//! Builders for what a plugin is called with.

use std::borrow::Cow;

use serde_json::Value;
use serde_json::value::to_raw_value;

use crate::call::{ConnectCall, MessageCall, Meta};
use crate::connect::ConnectRequest;
use crate::message::Message;

/// A message for this action, from connection `c1` without a user, without data, with id `m1`.
pub fn message(action: &str) -> MessageBuilder {
    let meta = Meta {
        time: 1_700_000_000_000,
        node: "test".to_owned(),
        ip: "127.0.0.1".to_owned(),
        attempt: 1,
        message_id: "m1".to_owned(),
        client_id: None,
    };
    MessageBuilder { action: action.to_owned(), connection: "c1".to_owned(), user: None, data: None, meta }
}

/// Builds a [`Message`]; see [`message`].
#[derive(Debug, Clone)]
#[must_use]
pub struct MessageBuilder {
    action: String,
    connection: String,
    user: Option<String>,
    data: Option<Value>,
    meta: Meta,
}

impl MessageBuilder {
    /// The sender's connection.
    pub fn connection(mut self, id: &str) -> Self {
        id.clone_into(&mut self.connection);
        self
    }

    /// The sender's user.
    pub fn user(mut self, id: &str) -> Self {
        self.user = Some(id.to_owned());
        self
    }

    /// The data.
    pub fn data(mut self, data: Value) -> Self {
        self.data = Some(data);
        self
    }

    /// The facts about it.
    pub fn meta(mut self, meta: Meta) -> Self {
        self.meta = meta;
        self
    }

    /// The message.
    #[must_use]
    pub fn build(self) -> Message {
        let data = self.data.and_then(|data| to_raw_value(&data).ok());
        Message::from_call(MessageCall {
            action: Cow::Owned(self.action),
            connection_id: Cow::Owned(self.connection),
            user_id: self.user,
            data: data.as_deref(),
            meta: self.meta,
            deadline_ms: 0,
        })
    }
}

/// A registration of a connection with this proposed id, from 127.0.0.1, without data and headers.
pub fn connect_request(connection: &str) -> ConnectRequestBuilder {
    ConnectRequestBuilder(ConnectCall {
        connection_id: connection.to_owned(),
        data: None,
        node: "test".to_owned(),
        ip: "127.0.0.1".to_owned(),
        path: "/".to_owned(),
        query: String::new(),
        headers: Vec::new(),
        claims: None,
    })
}

/// Builds a [`ConnectRequest`]; see [`connect_request`].
#[derive(Debug, Clone)]
#[must_use]
pub struct ConnectRequestBuilder(ConnectCall);

impl ConnectRequestBuilder {
    /// Data of the `register` frame.
    #[expect(clippy::needless_pass_by_value)] // `data(json!({…}))` is how it is called.
    pub fn data(mut self, data: Value) -> Self {
        self.0.data = to_raw_value(&data).ok();
        self
    }

    /// Claims of the client's token, as `json!` makes them; anything but an object means that no token was checked.
    #[expect(clippy::needless_pass_by_value)] // `claims(json!({…}))` is how it is called.
    pub fn claims(mut self, claims: Value) -> Self {
        self.0.claims = claims.as_object().cloned();
        self
    }

    /// The client's address.
    pub fn ip(mut self, ip: &str) -> Self {
        ip.clone_into(&mut self.0.ip);
        self
    }

    /// Path and query of the upgrade request, as `/chat?token=7`.
    pub fn target(mut self, target: &str) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        path.clone_into(&mut self.0.path);
        query.clone_into(&mut self.0.query);
        self
    }

    /// Adds a header; its name is put in lower case.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.0.headers.push((name.to_ascii_lowercase(), value.to_owned()));
        self
    }

    /// The request.
    #[must_use]
    pub fn build(self) -> ConnectRequest {
        ConnectRequest::from_call(self.0)
    }
}

//! One message for clients, or for the sessions that hold them, in the outgoing queue: a header and untouched data.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::envelope::ClientId;
use super::ids::SessionId;
use super::json::Json;

/// Whom a delivery is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// One session: replies go there.
    Session(SessionId),
    /// A public connection id.
    Connection(String),
    /// Every connection of a user.
    User(String),
    /// Every connection in a group.
    Group(String),
    /// Every registered connection.
    All,
}

/// What is to be done there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A frame.
    Message {
        /// The frame's action.
        action: String,
        /// The frame's data.
        data: Json,
    },
    /// The answer to a message; the session passes on only the first one for each message.
    Reply {
        /// The frame's action.
        action: String,
        /// The request's id.
        client_id: Option<ClientId>,
        /// The frame's data.
        data: Json,
    },
    /// An `error` that answers a message.
    Failure {
        /// The request's id.
        client_id: Option<ClientId>,
        /// Our code or the plugin's own.
        code: String,
        /// A sentence for a person.
        message: String,
    },
    /// The connection joins a group.
    Join(String),
    /// The connection leaves a group.
    Leave(String),
    /// The connection is closed by the application, with this reason.
    Close(String),
}

/// Which call made a delivery: the owning session drops a reply that it has already passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The message the call was for.
    pub message: MessageName,
    /// The call's outputs are counted from 0.
    pub index: u32,
}

/// Names a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageName {
    /// By its sequence, where the delivery is for the session that sent it, as replies are.
    Own(u64),
    /// By its id.
    Id(String),
}

#[derive(Serialize, Deserialize)]
struct OriginHeader {
    message_id: String,
    index: u32,
}

/// A delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// All of these, each connection once.
    pub to: Vec<Address>,
    /// A connection to leave out.
    pub except: Option<String>,
    /// What is to be done.
    pub body: Body,
    /// The call that made it; absent for the tool, HTTP and PHP.
    pub origin: Option<Origin>,
}

/// Why bytes are no delivery.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeliveryError {
    /// The header is not what it should be.
    #[error("delivery header can't be read: {0}")]
    Header(#[source] serde_json::Error),
    /// The data is no JSON.
    #[error("delivery data is no JSON: {0}")]
    Data(#[source] serde_json::Error),
    /// Its address has a session or client id that is none.
    #[error("delivery has a bad {0}")]
    Id(&'static str),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AddressHeader {
    #[serde(rename = "s")]
    Session(String),
    #[serde(rename = "c")]
    Connection(String),
    #[serde(rename = "u")]
    User(String),
    #[serde(rename = "g")]
    Group(String),
    #[serde(rename = "all")]
    All,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Message { a: String },
    Reply { a: String, i: Option<String> },
    Failure { i: Option<String>, code: String, message: String },
    Join(String),
    Leave(String),
    Close(String),
}

#[derive(Serialize, Deserialize)]
struct Header {
    to: Vec<AddressHeader>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    except: Option<String>,
    kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<OriginHeader>,
}

impl Delivery {
    /// A frame for one address, from outside of any call.
    #[must_use]
    pub fn message(to: Address, action: impl Into<String>, data: Json) -> Self {
        Self { to: vec![to], except: None, body: Body::Message { action: action.into(), data }, origin: None }
    }

    /// The fields of the outgoing stream: `h` (JSON) and `d` (data as it is, empty for kinds without).
    #[must_use]
    pub fn to_fields(&self) -> (Bytes, Bytes) {
        let client_id = |id: &Option<ClientId>| id.as_ref().map(|id| id.as_json().to_owned());
        let (kind, data) = match &self.body {
            Body::Message { action, data } => (Kind::Message { a: action.clone() }, data.clone().into_bytes()),
            Body::Reply { action, client_id: id, data } => (Kind::Reply { a: action.clone(), i: client_id(id) }, data.clone().into_bytes()),
            Body::Failure { client_id: id, code, message } => {
                (Kind::Failure { i: client_id(id), code: code.clone(), message: message.clone() }, Bytes::new())
            }
            Body::Join(group) => (Kind::Join(group.clone()), Bytes::new()),
            Body::Leave(group) => (Kind::Leave(group.clone()), Bytes::new()),
            Body::Close(reason) => (Kind::Close(reason.clone()), Bytes::new()),
        };
        let to = self.to.iter().map(|address| match address {
            Address::Session(id) => AddressHeader::Session(id.to_string()),
            Address::Connection(id) => AddressHeader::Connection(id.clone()),
            Address::User(id) => AddressHeader::User(id.clone()),
            Address::Group(id) => AddressHeader::Group(id.clone()),
            Address::All => AddressHeader::All,
        });
        let header = Header { to: to.collect(), except: self.except.clone(), kind, origin: self.origin_header() };
        (serde_json::to_vec(&header).unwrap_or_default().into(), data)
    }

    fn origin_header(&self) -> Option<OriginHeader> {
        let Origin { message, index } = self.origin.as_ref()?;
        let message_id = match (message, self.to.first()) {
            (MessageName::Id(id), _) => id.clone(),
            (MessageName::Own(sequence), Some(Address::Session(session))) => format!("{session}-{sequence}"),
            (MessageName::Own(_), _) => return None,
        };
        Some(OriginHeader { message_id, index: *index })
    }

    /// Reads [`Self::to_fields`] back.
    ///
    /// # Errors
    /// [`DeliveryError`]
    pub fn from_fields(header: &[u8], data: Bytes) -> Result<Self, DeliveryError> {
        let header: Header = serde_json::from_slice(header).map_err(DeliveryError::Header)?;
        let client_id = |id: Option<String>| match id {
            None => Ok(None),
            Some(json) => ClientId::parse(&json).map(Some).ok_or(DeliveryError::Id("client id")),
        };
        let json = |data| Json::parse(data).map_err(DeliveryError::Data);
        let body = match header.kind {
            Kind::Message { a: action } => Body::Message { action, data: json(data)? },
            Kind::Reply { a: action, i } => Body::Reply { action, client_id: client_id(i)?, data: json(data)? },
            Kind::Failure { i, code, message } => Body::Failure { client_id: client_id(i)?, code, message },
            Kind::Join(group) => Body::Join(group),
            Kind::Leave(group) => Body::Leave(group),
            Kind::Close(reason) => Body::Close(reason),
        };
        let to = header.to.into_iter().map(|address| {
            Ok(match address {
                AddressHeader::Session(id) => Address::Session(SessionId::parse(&id).ok_or(DeliveryError::Id("session id"))?),
                AddressHeader::Connection(id) => Address::Connection(id),
                AddressHeader::User(id) => Address::User(id),
                AddressHeader::Group(id) => Address::Group(id),
                AddressHeader::All => Address::All,
            })
        });
        let origin = header.origin.map(|OriginHeader { message_id, index }| Origin { message: MessageName::Id(message_id), index });
        Ok(Self { to: to.collect::<Result<_, DeliveryError>>()?, except: header.except, body, origin })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ids::NodeId;

    #[test]
    fn fields_come_back() {
        let session = SessionId::random(&NodeId::random().unwrap()).unwrap();
        let data = Json::encode(&[1, 2]).unwrap();
        let bodies = [
            Body::Message { action: "a".to_owned(), data: data.clone() },
            Body::Reply { action: "a".to_owned(), client_id: ClientId::parse("7"), data },
            Body::Failure { client_id: None, code: "failed".to_owned(), message: "x".to_owned() },
            Body::Join("g".to_owned()),
            Body::Leave("g".to_owned()),
            Body::Close("bye".to_owned()),
        ];
        for body in bodies {
            let delivery = Delivery {
                to: vec![Address::Session(session.clone()), Address::User("7".to_owned()), Address::All],
                except: Some("c".to_owned()),
                body,
                origin: Some(Origin { message: MessageName::Id("m".to_owned()), index: 2 }),
            };
            let (header, data) = delivery.to_fields();
            assert_eq!(Delivery::from_fields(&header, data).unwrap(), delivery);
        }
    }
}

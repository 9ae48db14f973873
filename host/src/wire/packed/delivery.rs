//! Deliveries to one node, several packed into one field of a stream entry.

use bytes::Bytes;

use super::{PackedError, Parts, VERSION, put_number, put_text};
use crate::wire::delivery::{Address, Body, Delivery, MessageName, Origin};
use crate::wire::envelope::ClientId;
use crate::wire::ids::SessionId;
use crate::wire::json::Json;

/// The field's name.
pub const DELIVERIES_FIELD: &str = "b";

const HAS_EXCEPT: u8 = 1;
const HAS_ORIGIN: u8 = 2;
const HAS_CLIENT_ID: u8 = 4;
/// The origin is a message of the session it is for, by its sequence.
const IS_OWN: u8 = 8;
/// Longest packed length: one more byte for each seven bits.
const LENGTH_BYTES: usize = 5;

/// What a field of deliveries begins with.
pub const DELIVERIES_HEAD: [u8; 1] = [VERSION];

/// Appends a delivery to those of a field that begins with [`DELIVERIES_HEAD`], or to some that will be appended to one.
pub fn put_delivery(field: &mut Vec<u8>, delivery: &Delivery) {
    // Its length is known only afterwards.
    let start = field.len();
    field.extend_from_slice(&[0; LENGTH_BYTES]);
    put_one(field, delivery);
    let mut length = field.len() - start - LENGTH_BYTES;
    for (index, byte) in field[start..start + LENGTH_BYTES].iter_mut().enumerate() {
        *byte = length.to_le_bytes()[0] & 0x7f | if index + 1 < LENGTH_BYTES { 0x80 } else { 0 };
        length >>= 7;
    }
}

fn put_one(bytes: &mut Vec<u8>, delivery: &Delivery) {
    let Delivery { to, except, body, origin } = delivery;
    let (kind, client_id) = match body {
        Body::Message { .. } => (0, None),
        Body::Reply { client_id, .. } => (1, client_id.as_ref()),
        Body::Failure { client_id, .. } => (2, client_id.as_ref()),
        Body::Join(_) => (3, None),
        Body::Leave(_) => (4, None),
        Body::Close(_) => (5, None),
    };
    let mut flags = 0;
    let is_own = origin.as_ref().is_some_and(|origin| matches!(origin.message, MessageName::Own(_)));
    let parts = [(HAS_EXCEPT, except.is_some()), (HAS_ORIGIN, origin.is_some()), (HAS_CLIENT_ID, client_id.is_some()), (IS_OWN, is_own)];
    for (flag, is_set) in parts {
        flags |= if is_set { flag } else { 0 };
    }
    bytes.extend_from_slice(&[kind, flags]);
    put_number(bytes, to.len() as u64);
    for address in to {
        let (kind, id) = match address {
            Address::Session(id) => (0, id.as_str()),
            Address::Connection(id) => (1, id.as_str()),
            Address::User(id) => (2, id.as_str()),
            Address::Group(id) => (3, id.as_str()),
            Address::All => (4, ""),
        };
        bytes.push(kind);
        put_text(bytes, id);
    }
    if let Some(except) = except {
        put_text(bytes, except);
    }
    if let Some(Origin { message, index }) = origin {
        match message {
            MessageName::Own(sequence) => put_number(bytes, *sequence),
            MessageName::Id(id) => put_text(bytes, id),
        }
        put_number(bytes, u64::from(*index));
    }
    if let Some(client_id) = client_id {
        put_text(bytes, client_id.as_json());
    }
    match body {
        Body::Message { action, data } | Body::Reply { action, data, .. } => {
            put_text(bytes, action);
            bytes.extend_from_slice(data.as_bytes());
        }
        Body::Failure { code, message, .. } => {
            put_text(bytes, code);
            put_text(bytes, message);
        }
        Body::Join(text) | Body::Leave(text) | Body::Close(text) => put_text(bytes, text),
    }
}

/// The deliveries of a field, one after the other; one that can't be read leaves the others, as long as lengths can.
pub struct Deliveries<'field> {
    field: &'field Bytes,
    at: usize,
}

impl<'field> Deliveries<'field> {
    /// Of a whole field.
    ///
    /// # Errors
    /// [`PackedError::Version`], [`PackedError::Short`]
    pub fn of(field: &'field Bytes) -> Result<Self, PackedError> {
        Parts { rest: field }.version()?;
        Ok(Self { field, at: 1 })
    }
}

impl Iterator for Deliveries<'_> {
    type Item = Result<Delivery, PackedError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut parts = Parts { rest: self.field.get(self.at..).filter(|rest| !rest.is_empty())? };
        let one = match parts.bytes() {
            Ok(one) => one,
            Err(error) => {
                self.at = self.field.len();
                return Some(Err(error));
            }
        };
        self.at = self.field.len() - parts.rest.len();
        Some(take_one(one, self.field))
    }
}

/// `one` is a part of `field`, whose memory its data keeps. That the data is JSON is not checked again: whoever packed it has.
fn take_one(one: &[u8], field: &Bytes) -> Result<Delivery, PackedError> {
    let mut parts = Parts { rest: one };
    let (kind, flags) = (parts.byte()?, parts.byte()?);
    let count = parts.small("addresses")?;
    let mut to = Vec::with_capacity(if count == 1 { 1 } else { 0 });
    for _ in 0..count {
        let (kind, id) = (parts.byte()?, parts.text("address")?);
        to.push(match kind {
            0 => Address::Session(SessionId::parse(id).ok_or(PackedError::Bad("session id"))?),
            1 => Address::Connection(id.to_owned()),
            2 => Address::User(id.to_owned()),
            3 => Address::Group(id.to_owned()),
            4 => Address::All,
            _ => return Err(PackedError::Bad("address")),
        });
    }
    let except = if flags & HAS_EXCEPT == 0 { None } else { Some(parts.text("excepted connection")?.to_owned()) };
    let message = match flags & (HAS_ORIGIN | IS_OWN) {
        HAS_ORIGIN => Some(MessageName::Id(parts.text("message id")?.to_owned())),
        0 | IS_OWN => None,
        _ => Some(MessageName::Own(parts.number()?)),
    };
    let origin = match message {
        Some(message) => Some(Origin { message, index: parts.small("index")? }),
        None => None,
    };
    let client_id = match flags & HAS_CLIENT_ID {
        0 => None,
        _ => Some(ClientId::parse(parts.text("client id")?).ok_or(PackedError::Bad("client id"))?),
    };
    let body = match kind {
        0 => Body::Message { action: parts.text("action")?.to_owned(), data: Json::known(field.slice_ref(parts.rest)) },
        1 => Body::Reply { action: parts.text("action")?.to_owned(), client_id, data: Json::known(field.slice_ref(parts.rest)) },
        2 => Body::Failure { client_id, code: parts.text("code")?.to_owned(), message: parts.text("message")?.to_owned() },
        3 => Body::Join(parts.text("group")?.to_owned()),
        4 => Body::Leave(parts.text("group")?.to_owned()),
        5 => Body::Close(parts.text("reason")?.to_owned()),
        _ => return Err(PackedError::Bad("kind")),
    };
    Ok(Delivery { to, except, body, origin })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ids::NodeId;

    fn deliveries() -> Vec<Delivery> {
        let session = SessionId::random(&NodeId::random().unwrap()).unwrap();
        let data = Json::known(Bytes::from_static(b"{\"a\":[1,2]}"));
        let client_id = ClientId::parse("\"x\"");
        let to = [Address::Session(session), Address::User("u".into()), Address::Group("g".into()), Address::All];
        let bodies = [
            Body::Message { action: "news".into(), data: data.clone() },
            Body::Reply { action: "echo".into(), client_id: client_id.clone(), data: data.clone() },
            Body::Reply { action: "echo".into(), client_id: None, data: Json::NULL },
            Body::Failure { client_id, code: "no".into(), message: "not you".into() },
            Body::Join("g".into()),
            Body::Leave("g".into()),
            Body::Close(String::new()),
        ];
        let one = |(index, body)| Delivery {
            to: to.iter().take(index % to.len() + 1).cloned().collect(),
            except: (index % 2 == 0).then(|| "not-me".to_owned()),
            body,
            origin: (index % 3 == 0)
                .then(|| Origin { message: if index == 0 { MessageName::Own(300) } else { MessageName::Id("m-1".to_owned()) }, index: 7 }),
        };
        bodies.into_iter().enumerate().map(one).collect()
    }

    fn field(deliveries: &[Delivery]) -> Bytes {
        let mut field = DELIVERIES_HEAD.to_vec();
        deliveries.iter().for_each(|delivery| put_delivery(&mut field, delivery));
        field.into()
    }

    #[test]
    fn deliveries_come_back_in_order() {
        let deliveries = deliveries();
        let found: Result<Vec<_>, _> = Deliveries::of(&field(&deliveries)).unwrap().collect();
        assert_eq!(found, Ok(deliveries));
    }

    /// Nodes and workers of two releases run together.
    #[test]
    fn the_form_is_golden() {
        let session = SessionId::parse("0123456789ab.0123456789abcdefghjkmnpq").unwrap();
        let data = Json::known(Bytes::from_static(b"{\"a\":1}"));
        let reply = Delivery {
            to: vec![Address::Session(session)],
            except: None,
            body: Body::Reply { action: "echo".into(), client_id: ClientId::parse("7"), data },
            origin: Some(Origin { message: MessageName::Id("m-1".to_owned()), index: 7 }),
        };
        let golden = b"\x01\xbd\x80\x80\x80\x00\x01\x06\x01\x00\x250123456789ab.0123456789abcdefghjkmnpq\x03m-1\x07\x017\x04echo{\"a\":1}";
        assert_eq!(&field(&[reply])[..], golden);
    }

    #[test]
    fn one_that_cannot_be_read_leaves_the_others() {
        let deliveries = deliveries();
        let mut bytes = field(&deliveries).to_vec();
        bytes[1 + LENGTH_BYTES] = 99; // The first one's kind.
        let bytes = Bytes::from(bytes);
        let found: Vec<_> = Deliveries::of(&bytes).unwrap().collect();
        assert_eq!(found.len(), deliveries.len());
        assert_eq!(found[0], Err(PackedError::Bad("kind")));
        assert_eq!(found[1].as_ref(), Ok(&deliveries[1]));
    }

    #[test]
    fn what_is_cut_ends_with_an_error() {
        let whole = field(&deliveries()[..1]);
        assert_eq!(Deliveries::of(&Bytes::new()).err(), Some(PackedError::Short));
        for length in 2..whole.len() {
            let cut = whole.slice(..length);
            let found: Vec<_> = Deliveries::of(&cut).unwrap().collect();
            assert!(matches!(&found[..], [Err(PackedError::Short)]), "{length}: {found:?}");
        }
    }
}

//! One item of the PHP package's outgoing list.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::delivery::{Address, Body, Delivery};
use super::json::{Json, nests_deeper_than};

/// As deep as PHP's `json_encode` goes unless told otherwise.
const DEPTH_MAX: usize = 512;

/// Why an item is no delivery.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PhpItemError {
    /// Longer than the configured limit; checked before any parsing.
    #[error("item is {size} bytes, the limit is {limit} bytes")]
    TooLarge {
        /// The item's length.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// Nested too deep.
    #[error("item nests deeper than {DEPTH_MAX} levels")]
    TooDeep,
    /// Not JSON, or not of the package's shape.
    #[error("item is not like {{\"to\": {{…}}, \"action\": \"…\", \"data\": …}}: {0}")]
    Syntax(#[source] serde_json::Error),
    /// No usable key in `to`.
    #[error("item is addressed to nobody")]
    Nobody,
    /// A key of `to` holds neither text nor an integer.
    #[error("`{0}` is no id: ids are strings and integers")]
    BadId(&'static str),
    /// Its action is empty.
    #[error("item has no action")]
    NoAction,
}

#[derive(Deserialize)]
struct Item<'item> {
    to: To,
    action: String,
    #[serde(borrow, default)]
    data: Option<&'item RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct To {
    connection_id: Value,
    user_id: Value,
    group: Value,
    broadcast: Value,
    except: Value,
}

/// Reads one list item, at most `limit` bytes. Ids may be numbers; several keys of `to` are all served.
///
/// # Errors
/// [`PhpItemError`]
pub fn parse(item: &[u8], limit: usize) -> Result<Delivery, PhpItemError> {
    if item.len() > limit {
        return Err(PhpItemError::TooLarge { size: item.len(), limit });
    }
    if nests_deeper_than(item, DEPTH_MAX) {
        return Err(PhpItemError::TooDeep);
    }
    let item: Item<'_> = serde_json::from_slice(item).map_err(PhpItemError::Syntax)?;
    if item.action.is_empty() {
        return Err(PhpItemError::NoAction);
    }
    let connection = id_text("connection_id", &item.to.connection_id)?.map(Address::Connection);
    let user = id_text("user_id", &item.to.user_id)?.map(Address::User);
    let group = id_text("group", &item.to.group)?.map(Address::Group);
    let except = id_text("except", &item.to.except)?;
    let to = if is_truthy(&item.to.broadcast) { vec![Address::All] } else { connection.into_iter().chain(user).chain(group).collect() };
    if to.is_empty() {
        return Err(PhpItemError::Nobody);
    }
    let data = item.data.map_or(Json::NULL, Json::from);
    Ok(Delivery { to, except, body: Body::Message { action: item.action, data }, origin: None })
}

/// An id by its decimal text: Laravel's user ids are numbers. `None` for one that is empty as PHP sees it.
fn id_text(name: &'static str, id: &Value) -> Result<Option<String>, PhpItemError> {
    match id {
        Value::Null | Value::Bool(false) => Ok(None),
        Value::String(text) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
        Value::Array(list) if list.is_empty() => Ok(None),
        Value::Object(members) if members.is_empty() => Ok(None),
        Value::Number(number) => match number.as_f64() {
            // What PHP has calculated may be a float, and still a whole number.
            Some(float) if number.is_f64() && float.fract() == 0.0 => Ok(Some(format!("{float:.0}"))),
            _ if number.is_f64() => Err(PhpItemError::BadId(name)),
            _ => Ok(Some(number.to_string())),
        },
        _ => Err(PhpItemError::BadId(name)),
    }
}

/// As PHP's `if` sees it.
fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(is_true) => *is_true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty() && text != "0",
        Value::Array(list) => !list.is_empty(),
        Value::Object(members) => !members.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(json: &str) -> Result<Vec<Address>, PhpItemError> {
        parse(format!(r#"{{"to":{json},"action":"a"}}"#).as_bytes(), 1 << 20).map(|delivery| delivery.to)
    }

    #[test]
    fn an_item_keeps_its_data_as_it_is() {
        let item = br#"{"to":{"user_id":7,"except":12},"action":"news","data":{"url":"http:\/\/x\/","n":1.0},"meta":{"time":1}}"#;
        let delivery = parse(item, 1 << 20).unwrap();
        let Body::Message { action, data } = &delivery.body else { panic!("not a message") };
        assert_eq!((delivery.to, delivery.except), (vec![Address::User("7".to_owned())], Some("12".to_owned())));
        assert_eq!((action.as_str(), data.as_bytes()), ("news", &br#"{"url":"http:\/\/x\/","n":1.0}"#[..]));
    }

    #[test]
    fn missing_data_is_null() {
        let delivery = parse(br#"{"to":{"group":"g"},"action":"a"}"#, 100).unwrap();
        assert_eq!(delivery.body, Body::Message { action: "a".to_owned(), data: Json::NULL });
    }

    #[test]
    fn all_keys_are_served() {
        let addresses = to(r#"{"connection_id":"c","user_id":7.0,"group":3,"broadcast":false}"#).unwrap();
        assert_eq!(addresses, [Address::Connection("c".to_owned()), Address::User("7".to_owned()), Address::Group("3".to_owned())]);
    }

    #[test]
    fn what_is_no_id_is_refused_and_what_is_empty_is_absent() {
        for bad in ["7.5", "true", "[7]", "{\"id\":7}"] {
            for name in ["connection_id", "user_id", "group", "except"] {
                let bad = to(&format!(r#"{{"broadcast":true,"{name}":{bad}}}"#));
                assert!(matches!(bad, Err(PhpItemError::BadId(found)) if found == name), "{bad:?}");
            }
        }
        for empty in ["null", "false", "\"\"", "[]", "{}"] {
            assert_eq!(to(&format!(r#"{{"user_id":{empty},"except":{empty},"group":"g"}}"#)).unwrap(), [Address::Group("g".to_owned())]);
        }
        for (id, text) in
            [("0", "0"), ("-7", "-7"), ("9007199254740993", "9007199254740993"), ("-9223372036854775808", "-9223372036854775808")]
        {
            assert_eq!(to(&format!(r#"{{"user_id":{id}}}"#)).unwrap(), [Address::User(text.to_owned())]);
        }
    }

    #[test]
    fn broadcast_follows_php() {
        for truthy in ["true", "1", "-1", "\"1\"", "\"false\"", "[0]", "{\"a\":0}", "0.5"] {
            assert_eq!(to(&format!(r#"{{"broadcast":{truthy}}}"#)).unwrap(), [Address::All], "{truthy}");
        }
        for falsy in ["false", "0", "0.0", "\"\"", "\"0\"", "null", "[]", "{}"] {
            assert!(matches!(to(&format!(r#"{{"broadcast":{falsy}}}"#)), Err(PhpItemError::Nobody)), "{falsy}");
        }
    }

    #[test]
    fn garbage_is_refused_with_its_reason() {
        assert!(matches!(parse(b"x", 100), Err(PhpItemError::Syntax(_))));
        assert!(matches!(parse(b"[1]", 100), Err(PhpItemError::Syntax(_))));
        assert!(matches!(parse(b"xxxx", 3), Err(PhpItemError::TooLarge { size: 4, limit: 3 })));
        assert!(matches!(parse("[".repeat(1000).as_bytes(), 1 << 20), Err(PhpItemError::TooDeep)));
        assert!(matches!(to("{\"user_id\":null}"), Err(PhpItemError::Nobody)));
        assert!(matches!(parse(br#"{"to":{"user_id":7},"action":""}"#, 100), Err(PhpItemError::NoAction)));
        let deep = |levels: usize| format!(r#"{{"to":{{"user_id":7}},"action":"a","data":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
        assert!(parse(deep(511).as_bytes(), 1 << 20).is_ok());
        assert!(matches!(parse(deep(512).as_bytes(), 1 << 20), Err(PhpItemError::TooDeep)));
    }
}

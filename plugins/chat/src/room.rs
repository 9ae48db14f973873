//! What handler and actions share about rooms: names, the keys of the store, and what a member is called.

use plugsocket_plugin::prelude::*;
use serde::Deserialize;

/// Longest room name, in characters.
const NAME_CHARS_MAX: usize = 40;

/// A request that names a room and nothing else.
#[derive(Deserialize)]
pub struct RoomRequest {
    pub room: RoomName,
}

/// A room's name: 1 to 40 characters, no control characters.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct RoomName(String);

impl TryFrom<String> for RoomName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let chars = name.chars().count();
        if (1..=NAME_CHARS_MAX).contains(&chars) && !name.chars().any(char::is_control) && name.trim() == name {
            Ok(Self(name))
        } else {
            Err(format!("a room's name has 1 to {NAME_CHARS_MAX} characters, no spaces at its ends and no control characters"))
        }
    }
}

impl RoomName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The group of everybody in the room.
    pub fn group(&self) -> String {
        group(&self.0)
    }

    /// Where its history is stored.
    pub fn history_key(&self) -> String {
        format!("history:{}", self.0)
    }
}

/// The group of everybody in a room.
pub fn group(room: &str) -> String {
    format!("room:{room}")
}

/// Where a connection's nickname is stored.
pub fn nickname_key(connection: &str) -> String {
    format!("nick:{connection}")
}

/// Where the rooms of a connection are stored.
pub fn rooms_key(connection: &str) -> String {
    format!("rooms:{connection}")
}

/// The rooms a connection is in.
pub fn rooms_of(context: &Context, connection: &str) -> Result<Vec<String>, ContextError> {
    Ok(context.store().get_json(&rooms_key(connection))?.unwrap_or_default())
}

/// What the door knows the connection as; `guest` when that is lost.
pub fn nickname_of(context: &Context, connection: &str) -> Result<String, ContextError> {
    Ok(context.store().get(&nickname_key(connection))?.unwrap_or_else(|| "guest".to_owned()))
}

/// The newest `count` messages of a room, oldest first.
pub fn history_of(context: &Context, room: &RoomName, count: u32) -> Result<Vec<Value>, ContextError> {
    if count == 0 { Ok(Vec::new()) } else { context.store().range_json(&room.history_key(), count) }
}

#[cfg(test)]
mod tests {
    use super::RoomName;

    #[test]
    fn names_have_limits() {
        for good in ["a", "Lobby 2", "räume", &"x".repeat(40)] {
            assert!(RoomName::try_from(good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["", " ", " a", "a\n", &"x".repeat(41)] {
            assert!(RoomName::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
    }
}

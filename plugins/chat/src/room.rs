//! What handler and actions share about rooms: names, the keys of the store, and what a member is called.

use plugsocket_plugin::prelude::*;
use serde::Deserialize;

/// Longest room name, in characters.
const NAME_CHARS_MAX: usize = 40;

/// Longest history that is told, in bytes: an answer is one frame, by default of 1 MiB at most.
const HISTORY_BYTES_MAX: usize = 512 * 1024;

/// A request that names a room and nothing else.
#[derive(Deserialize)]
pub struct RoomRequest {
    pub room: RoomName,
}

/// A room's name: 1 to 40 characters, all of which can be seen.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct RoomName(String);

impl TryFrom<String> for RoomName {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let chars = name.chars().count();
        if (1..=NAME_CHARS_MAX).contains(&chars) && !name.chars().any(is_unseen) && name.trim() == name {
            Ok(Self(name))
        } else {
            Err(format!("a room's name has 1 to {NAME_CHARS_MAX} characters, no spaces at its ends and none that can't be seen"))
        }
    }
}

/// Characters that show nothing, or turn the text around them: two rooms must not look alike by them.
fn is_unseen(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
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

/// Nobody acts in a room from outside of it.
pub fn must_be_in(context: &Context, connection: &str, room: &RoomName) -> Result<(), Failure> {
    if rooms_of(context, connection)?.iter().any(|joined| joined == room.as_str()) {
        return Ok(());
    }
    Err(Failure::reject("not_in_room", format!("you are not in `{}`; send `join` first", room.as_str())))
}

/// What a connection is called at present; `guest` when that is lost.
pub fn nickname_of(context: &Context, connection: &str) -> Result<String, ContextError> {
    Ok(context.store().get(&nickname_key(connection))?.unwrap_or_else(|| "guest".to_owned()))
}

/// The newest `count` messages of a room, oldest first; fewer when they are too long together.
pub fn history_of(context: &Context, room: &RoomName, count: u32) -> Result<Vec<Value>, ContextError> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let lines = context.store().range(&room.history_key(), count)?;
    let mut bytes = 0;
    let fitting = lines.iter().rev().take_while(|line| {
        bytes += line.len();
        bytes <= HISTORY_BYTES_MAX
    });
    let first = lines.len() - fitting.count();
    // A line that an earlier version kept in another form is no reason to fail for ever.
    Ok(lines.iter().skip(first).filter_map(|line| serde_json::from_str(line).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::RoomName;

    #[test]
    fn names_have_limits() {
        for good in ["a", "Lobby 2", "räume", &"x".repeat(40)] {
            assert!(RoomName::try_from(good.to_owned()).is_ok(), "{good}");
        }
        for bad in ["", " ", " a", "a\n", "a\u{200b}", "\u{202e}a", &"x".repeat(41)] {
            assert!(RoomName::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
    }
}

//! `nickname`: another name while connected, by the rules of the door.

use plugsocket_plugin::prelude::*;
use serde::Deserialize;

use crate::room;
use crate::settings::Settings;

/// Longest nickname, in characters.
const NICKNAME_CHARS_MAX: usize = 24;

/// Letters of Hangul that show nothing: whoever is called one of them has no name.
const INVISIBLE: [char; 4] = ['\u{115f}', '\u{1160}', '\u{3164}', '\u{ffa0}'];

#[derive(Deserialize)]
struct Request {
    nickname: String,
}

/// Renames the sender and tells the rooms it is in.
pub struct Nickname;

impl Nickname {
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        Settings::read(config).map(|_| Self)
    }
}

impl Action for Nickname {
    fn handle(&self, message: &Message, context: &Context) -> Outcome {
        let Request { nickname } = message.data()?;
        check(&nickname).map_err(|reason| Failure::reject("bad_nickname", reason))?;
        let sender = message.connection_id();
        let former = room::nickname_of(context, sender)?;
        if former != nickname {
            for room in room::rooms_of(context, sender)? {
                let renamed = json!({ "room": room, "connection_id": sender, "from": former, "to": nickname });
                context.to_group(room::group(&room)).except(sender).send("renamed", &renamed)?;
            }
            // Last, so that an attempt that failed before still knows the former name and tells everybody.
            context.store().set(&room::nickname_key(sender), &nickname)?;
        }
        Ok(Reply::json(json!({ "nickname": nickname })))
    }
}

/// What a nickname must be, at the door and later; the error is a sentence for whoever chose it.
pub fn check(nickname: &str) -> Result<(), String> {
    let chars = nickname.chars().count();
    let allowed =
        |character: char| (character.is_alphanumeric() && !INVISIBLE.contains(&character)) || matches!(character, '_' | '-' | ' ');
    if !(1..=NICKNAME_CHARS_MAX).contains(&chars) {
        Err(format!("a nickname has 1 to {NICKNAME_CHARS_MAX} characters, this one has {chars}"))
    } else if nickname.starts_with(' ') || nickname.ends_with(' ') {
        Err("a nickname has no spaces at its ends".to_owned())
    } else if let Some(character) = nickname.chars().find(|character| !allowed(*character)) {
        Err(format!("a nickname has letters, digits, `_`, `-` and spaces only, not {character:?}"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use plugsocket_plugin::call::Target;
    use plugsocket_plugin::testing::{self, MockContext};

    use super::*;

    fn ada_in(rooms: &[&str]) -> MockContext {
        let context = MockContext::new();
        context.store().set("nick:c1", "Ada").unwrap();
        context.store().set_json("rooms:c1", rooms).unwrap();
        context
    }

    fn rename(context: &MockContext, nickname: &str) -> Outcome {
        Nickname.handle(&testing::message("nickname").data(json!({ "nickname": nickname })).build(), context)
    }

    #[test]
    fn the_others_in_every_room_are_told_once() {
        let context = ada_in(&["lobby", "attic"]);
        for _ in 0..2 {
            assert_eq!(rename(&context, "Eve"), Ok(Reply::json(json!({ "nickname": "Eve" }))));
        }
        assert_eq!(context.store().get("nick:c1").unwrap().as_deref(), Some("Eve"));
        let renamed = |room| json!({ "room": room, "connection_id": "c1", "from": "Ada", "to": "Eve" });
        assert_eq!(context.sent_as("renamed"), [renamed("lobby"), renamed("attic")]);
        assert_eq!(context.sent()[0].to, Target::Group("room:lobby".to_owned()));
        assert!(context.sent().iter().all(|sent| sent.except.as_deref() == Some("c1")));
    }

    #[test]
    fn an_unreachable_store_is_tried_again() {
        let context = ada_in(&["lobby"]);
        context.fail_with(Some("store is away"));
        assert_eq!(rename(&context, "Eve"), Err(Failure::retry("store is away")));
    }

    #[test]
    fn the_rules_are_those_of_the_door() {
        let long = "x".repeat(25);
        for (bad, named) in [("", "1 to 24"), (long.as_str(), "has 25"), ("Ada ", "spaces"), ("<b>", "'<'"), ("\u{3164}", "letters")] {
            let context = ada_in(&["lobby"]);
            match rename(&context, bad) {
                Err(Failure::Reject { code, message }) => assert!(code == "bad_nickname" && message.contains(named), "{code}: {message}"),
                other => panic!("{other:?}"),
            }
            assert_eq!((context.sent().len(), context.store().get("nick:c1").unwrap().as_deref()), (0, Some("Ada")));
        }
    }
}

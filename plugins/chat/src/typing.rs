//! `typing`: the others in a room see that somebody writes.

use std::time::Duration;

use plugsocket_plugin::prelude::*;

use crate::room::{self, RoomRequest};
use crate::settings::Settings;

/// Shortest time between two notices of a connection that the room is told of; who shows them lets them lapse after a few seconds.
const PAUSE: Duration = Duration::from_secs(1);

/// Passes a notice on to everybody else in the room. It is kept nowhere, and needs no answer: send it without `id`.
pub struct Typing;

impl Typing {
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        Settings::read(config).map(|_| Self)
    }
}

impl Action for Typing {
    fn handle(&self, message: &Message, context: &Context) -> Outcome {
        let RoomRequest { room } = message.data()?;
        let sender = message.connection_id();
        room::must_be_in(context, sender, &room)?;
        let told = format!("typing:{sender}:{}", room.as_str());
        // Messages of one connection come one after another, so nobody else looks meanwhile.
        if context.store().get(&told)?.is_none() {
            let nickname = room::nickname_of(context, sender)?;
            let notice = json!({ "room": room.as_str(), "nickname": nickname, "connection_id": sender });
            context.to_group(room.group()).except(sender).send("typing", &notice)?;
            context.store().set_for(&told, "1", PAUSE)?;
        }
        Ok(Reply::none())
    }
}

#[cfg(test)]
mod tests {
    use plugsocket_plugin::call::Target;
    use plugsocket_plugin::testing::{self, MockContext};

    use super::*;

    fn type_in(context: &MockContext, room: &str) -> Outcome {
        Typing.handle(&testing::message("typing").data(json!({ "room": room })).build(), context)
    }

    fn joined() -> MockContext {
        let context = MockContext::new();
        context.store().set_json("rooms:c1", &["lobby", "attic"]).unwrap();
        context.store().set("nick:c1", "Ada").unwrap();
        context
    }

    #[test]
    fn the_others_are_told_and_nothing_is_kept() {
        let context = joined();
        assert_eq!(type_in(&context, "lobby"), Ok(Reply::none()));
        let sent = &context.sent()[0];
        assert_eq!((&sent.to, sent.except.as_deref()), (&Target::Group("room:lobby".to_owned()), Some("c1")));
        assert_eq!(sent.data, json!({ "room": "lobby", "nickname": "Ada", "connection_id": "c1" }));
        assert!(context.store().range("history:lobby", 9).unwrap().is_empty());
    }

    #[test]
    fn once_a_second_in_each_room_is_enough() {
        let context = joined();
        for room in ["lobby", "lobby", "attic"] {
            type_in(&context, room).unwrap();
        }
        assert_eq!(context.sent_as("typing").iter().map(|notice| notice["room"].clone()).collect::<Vec<_>>(), ["lobby", "attic"]);
        context.advance(PAUSE);
        type_in(&context, "lobby").unwrap();
        assert_eq!(context.sent().len(), 3);
    }

    #[test]
    fn outsiders_are_told_to_come_in() {
        match type_in(&joined(), "cellar") {
            Err(Failure::Reject { code, message }) => assert!(code == "not_in_room" && message.contains("`cellar`"), "{code}: {message}"),
            other => panic!("{other:?}"),
        }
    }
}

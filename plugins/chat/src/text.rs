//! `chat_text`: one line of talk in a room.

use plugsocket_plugin::prelude::*;
use serde::Deserialize;

use crate::room::{self, RoomName};
use crate::settings::Settings;

/// Longest text, in characters.
const TEXT_CHARS_MAX: usize = 2000;

#[derive(Deserialize)]
struct Request {
    room: RoomName,
    text: String,
}

/// Sends a text to everybody in the room, the sender included, and keeps it in the room's history.
pub struct ChatText {
    history_limit: u32,
}

impl ChatText {
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        Ok(Self { history_limit: Settings::read(config)?.history_limit })
    }

    /// The store does not deduplicate, so a message that is tried again must look for itself before it is kept.
    fn keep(&self, room: &RoomName, line: &Value, context: &Context) -> Result<(), ContextError> {
        if self.history_limit == 0 {
            return Ok(());
        }
        let key = room.history_key();
        if context.attempt() > 1 {
            let kept = room::history_of(context, room, self.history_limit)?;
            if kept.iter().any(|known| known["message_id"] == line["message_id"]) {
                return Ok(());
            }
        }
        context.store().push_capped_json(&key, line, self.history_limit)
    }
}

/// What a text must be, in a room and in private.
pub fn check(text: &str) -> Result<(), Failure> {
    if (1..=TEXT_CHARS_MAX).contains(&text.chars().count()) {
        return Ok(());
    }
    Err(Failure::reject("bad_text", format!("a text has 1 to {TEXT_CHARS_MAX} characters")))
}

impl Action for ChatText {
    fn handle(&self, message: &Message, context: &Context) -> Outcome {
        let Request { room, text } = message.data()?;
        check(&text)?;
        let sender = message.connection_id();
        room::must_be_in(context, sender, &room)?;
        let line = json!({
            "room": room.as_str(),
            "nickname": room::nickname_of(context, sender)?,
            "connection_id": sender,
            "text": text,
            "time": message.meta().time,
            "message_id": context.message_id(),
        });
        self.keep(&room, &line, context)?;
        context.to_group(room.group()).send("chat_text", &line)?;
        Ok(Reply::json(json!({ "message_id": context.message_id() })))
    }
}

#[cfg(test)]
mod tests {
    use plugsocket_plugin::call::Target;
    use plugsocket_plugin::testing::{self, MockContext};

    use super::*;

    fn joined() -> MockContext {
        let context = MockContext::new();
        context.store().set_json("rooms:c1", &["lobby"]).unwrap();
        context.store().set("nick:c1", "Ada").unwrap();
        context
    }

    fn say(context: &MockContext, text: &str) -> Outcome {
        let action = ChatText::new(&Config::from(json!({ "history_limit": 2 }))).unwrap();
        action.handle(&testing::message("chat_text").data(json!({ "room": "lobby", "text": text })).build(), context)
    }

    #[test]
    fn reaches_the_room_and_its_history() {
        let context = joined();
        assert_eq!(say(&context, "hello"), Ok(Reply::json(json!({ "message_id": "m1" }))));
        let sent = context.sent();
        assert_eq!((&sent[0].to, &sent[0].except), (&Target::Group("room:lobby".to_owned()), &None));
        let line = json!({
            "room": "lobby", "nickname": "Ada", "connection_id": "c1", "text": "hello", "time": 1_700_000_000_000_u64, "message_id": "m1"
        });
        assert_eq!(sent[0].data, line);
        assert_eq!(context.store().range_json::<Value>("history:lobby", 9).unwrap(), [line]);
    }

    #[test]
    fn history_keeps_the_newest() {
        let context = joined();
        for text in ["one", "two", "three"] {
            say(&context, text).unwrap();
        }
        let kept = context.store().range_json::<Value>("history:lobby", 9).unwrap();
        assert_eq!(kept.iter().map(|line| line["text"].as_str().unwrap()).collect::<Vec<_>>(), ["two", "three"]);
    }

    #[test]
    fn a_second_attempt_is_kept_once() {
        let context = joined();
        say(&context, "hello").unwrap();
        let context = context.with_attempt(2);
        say(&context, "hello").unwrap();
        assert_eq!(context.store().range("history:lobby", 9).unwrap().len(), 1);
    }

    #[test]
    fn outsiders_and_bad_texts_are_refused() {
        let code = |outcome: Outcome| match outcome {
            Err(Failure::Reject { code, .. }) => code,
            other => panic!("{other:?}"),
        };
        assert_eq!(code(say(&MockContext::new(), "hello")), "not_in_room");
        assert_eq!(code(say(&joined(), "")), "bad_text");
        assert_eq!(code(say(&joined(), &"é".repeat(2001))), "bad_text");
        assert!(say(&joined(), &"é".repeat(2000)).is_ok());
        let action = ChatText::new(&Config::default()).unwrap();
        assert_eq!(code(action.handle(&testing::message("chat_text").build(), &joined())), "bad_data");
    }

    #[test]
    fn an_unreachable_store_is_tried_again() {
        let context = joined();
        context.fail_with(Some("store is away"));
        assert_eq!(say(&context, "hello"), Err(Failure::retry("store is away")));
    }
}

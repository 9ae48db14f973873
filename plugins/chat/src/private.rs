//! `private_text`: one line of talk to a user, wherever it is connected.

use plugsocket_plugin::prelude::*;
use serde::Deserialize;

use crate::settings::Settings;
use crate::{room, text};

#[derive(Deserialize)]
struct Request {
    to_user: Id,
    text: String,
}

/// Sends a text to every connection of a user, and to the sender's own others. It is kept nowhere.
pub struct PrivateText;

impl PrivateText {
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        Settings::read(config).map(|_| Self)
    }
}

impl Action for PrivateText {
    fn handle(&self, message: &Message, context: &Context) -> Outcome {
        let Request { to_user, text } = message.data()?;
        text::check(&text)?;
        let sender = message.connection_id();
        let there = context.user_connections(&to_user)?;
        let Some(first) = there.first() else {
            return Err(Failure::reject("user_offline", "this user is not online; `members` tells who is"));
        };
        let to_user = to_user.to_string();
        let line = json!({
            "user_id": message.user_id(),
            "nickname": room::nickname_of(context, sender)?,
            "connection_id": sender,
            "to_user": to_user,
            "to_nickname": room::nickname_of(context, &first.connection_id)?,
            "text": text,
            "time": message.meta().time,
            "message_id": context.message_id(),
        });
        // Whoever writes to itself reaches its other connections, and once.
        context.to_user(&to_user).except(sender).send("private_text", &line)?;
        if let Some(own) = message.user_id().filter(|own| *own != to_user) {
            context.to_user(own).except(sender).send("private_text", &line)?;
        }
        Ok(Reply::json(json!({ "message_id": context.message_id() })))
    }
}

#[cfg(test)]
mod tests {
    use plugsocket_plugin::call::Target;
    use plugsocket_plugin::testing::{self, MockContext};

    use super::*;

    fn world() -> MockContext {
        let context = MockContext::new().with_connection("c1", Some("ada"), &[]).with_connection("c2", Some("7"), &[]);
        context.store().set("nick:c1", "Ada").unwrap();
        context.store().set("nick:c2", "Bob").unwrap();
        context
    }

    fn whisper(context: &MockContext, to_user: &Value, text: &str) -> Outcome {
        PrivateText.handle(&testing::message("private_text").user("ada").data(json!({ "to_user": to_user, "text": text })).build(), context)
    }

    fn code(outcome: Outcome) -> String {
        match outcome {
            Err(Failure::Reject { code, .. }) => code,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn reaches_the_user_and_the_senders_other_connections() {
        for to_user in [json!(7), json!("7")] {
            let context = world();
            assert_eq!(whisper(&context, &to_user, "psst"), Ok(Reply::json(json!({ "message_id": "m1" }))));
            let sent = context.sent();
            let targets: Vec<_> = sent.iter().map(|sent| (sent.to.clone(), sent.except.as_deref())).collect();
            assert_eq!(targets, [(Target::User("7".to_owned()), Some("c1")), (Target::User("ada".to_owned()), Some("c1"))]);
            let line = json!({
                "user_id": "ada", "nickname": "Ada", "connection_id": "c1", "to_user": "7", "to_nickname": "Bob", "text": "psst",
                "time": 1_700_000_000_000_u64, "message_id": "m1"
            });
            assert_eq!(context.sent_as("private_text"), [line.clone(), line]);
        }
    }

    #[test]
    fn a_note_to_oneself_is_sent_once() {
        let context = world();
        whisper(&context, &json!("ada"), "remember").unwrap();
        assert_eq!(context.sent().len(), 1);
        assert_eq!(context.sent()[0].except.as_deref(), Some("c1"));
    }

    #[test]
    fn nobody_there_and_bad_texts_are_refused() {
        assert_eq!(code(whisper(&world(), &json!("eve"), "psst")), "user_offline");
        assert_eq!(code(whisper(&world(), &json!(7), "")), "bad_text");
        assert_eq!(code(whisper(&world(), &json!(7), &"é".repeat(2001))), "bad_text");
        assert_eq!(code(whisper(&world(), &json!([7]), "psst")), "bad_data");
        let context = world();
        context.fail_with(Some("queue is away"));
        assert_eq!(whisper(&context, &json!(7), "psst"), Err(Failure::retry("queue is away")));
    }
}

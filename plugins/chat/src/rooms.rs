//! `join`, `leave` and `history`: into a room, out of it, and what was said there.

use plugsocket_plugin::prelude::*;
use serde::Deserialize;

use crate::members;
use crate::room::{self, RoomName, RoomRequest};
use crate::settings::Settings;

/// Most rooms one connection may be in.
const ROOMS_MAX: usize = 32;

/// Puts the sender into a room and tells it who is there and what was said.
pub struct Join {
    history_limit: u32,
}

impl Join {
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        Ok(Self { history_limit: Settings::read(config)?.history_limit })
    }
}

impl Action for Join {
    fn handle(&self, message: &Message, context: &Context) -> Outcome {
        let RoomRequest { room } = message.data()?;
        let sender = message.connection_id();
        // Messages of one connection come one after another, so nobody else writes this key meanwhile.
        let mut rooms = room::rooms_of(context, sender)?;
        if !rooms.iter().any(|joined| joined == room.as_str()) {
            if rooms.len() >= ROOMS_MAX {
                return Err(Failure::reject("too_many_rooms", format!("leave a room first: {ROOMS_MAX} at once is the limit")));
            }
            rooms.push(room.as_str().to_owned());
            context.store().set_json(&room::rooms_key(sender), &rooms)?;
        }
        context.join(&room.group(), sender)?;
        let nickname = room::nickname_of(context, sender)?;
        let joined = json!({ "room": room.as_str(), "nickname": nickname, "connection_id": sender, "user_id": message.user_id() });
        context.to_group(room.group()).send("joined", &joined)?;
        if context.connection(sender)?.is_none() {
            // It went while this waited in the queue. Its goodbye may have been before it came in, and there is no other.
            context
                .to_group(room.group())
                .send("left", &json!({ "room": room.as_str(), "nickname": nickname, "connection_id": sender }))?;
            rooms.retain(|joined| joined != room.as_str());
            if rooms.is_empty() {
                context.store().delete(&room::rooms_key(sender))?;
            } else {
                context.store().set_json(&room::rooms_key(sender), &rooms)?;
            }
            return Ok(Reply::none());
        }
        let (members, total) = members::list(room.as_str(), message, context)?;
        Ok(Reply::json(json!({
            "room": room.as_str(),
            "members": members,
            "members_total": total,
            "history": room::history_of(context, &room, self.history_limit)?,
        })))
    }
}

/// Takes the sender out of a room; nothing happens when it is not in.
pub struct Leave;

impl Leave {
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        Settings::read(config).map(|_| Self)
    }
}

impl Action for Leave {
    fn handle(&self, message: &Message, context: &Context) -> Outcome {
        let RoomRequest { room } = message.data()?;
        let sender = message.connection_id();
        let mut rooms = room::rooms_of(context, sender)?;
        if let Some(position) = rooms.iter().position(|joined| joined == room.as_str()) {
            let nickname = room::nickname_of(context, sender)?;
            context
                .to_group(room.group())
                .send("left", &json!({ "room": room.as_str(), "nickname": nickname, "connection_id": sender }))?;
            context.leave(&room.group(), sender)?;
            // Last, so that an attempt that failed before is made again in full.
            rooms.remove(position);
            context.store().set_json(&room::rooms_key(sender), &rooms)?;
        }
        Ok(Reply::json(json!({ "room": room.as_str() })))
    }
}

#[derive(Deserialize)]
struct HistoryRequest {
    room: RoomName,
    count: Option<u32>,
}

/// What was said in a room, oldest first; open to everybody who is registered.
pub struct History {
    history_limit: u32,
}

impl History {
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        Ok(Self { history_limit: Settings::read(config)?.history_limit })
    }
}

impl Action for History {
    fn handle(&self, message: &Message, context: &Context) -> Outcome {
        let HistoryRequest { room, count } = message.data()?;
        let count = count.unwrap_or(self.history_limit).min(self.history_limit);
        Ok(Reply::json(json!({ "room": room.as_str(), "messages": room::history_of(context, &room, count)? })))
    }
}

#[cfg(test)]
mod tests {
    use plugsocket_plugin::testing::{self, MockContext};

    use super::*;

    fn join(context: &MockContext, room: &str) -> Outcome {
        let action = Join::new(&Config::default()).unwrap();
        action.handle(&testing::message("join").user("ada").data(json!({ "room": room })).build(), context)
    }

    fn history(context: &MockContext, data: Value) -> Outcome {
        History::new(&Config::default()).unwrap().handle(&testing::message("history").data(data).build(), context)
    }

    #[test]
    fn joining_tells_the_room_and_shows_it_to_the_newcomer() {
        let context = MockContext::new().with_connection("c2", Some("7"), &["room:lobby"]).with_connection("c3", None, &["room:other"]);
        context.store().set("nick:c1", "Ada").unwrap();
        context.store().set("nick:c2", "Bob").unwrap();
        context.store().push_capped_json("history:lobby", &json!({ "text": "old" }), 50).unwrap();
        let reply = join(&context, "lobby").unwrap().to_json().unwrap();
        let ada = json!({ "connection_id": "c1", "user_id": "ada", "nickname": "Ada" });
        assert_eq!(reply["members"], json!([ada, { "connection_id": "c2", "user_id": "7", "nickname": "Bob" }]));
        assert_eq!(reply["history"], json!([{ "text": "old" }]));
        assert_eq!(context.joined(), [("room:lobby".to_owned(), "c1".to_owned())]);
        assert_eq!(context.sent_as("joined"), [json!({ "room": "lobby", "nickname": "Ada", "connection_id": "c1", "user_id": "ada" })]);
    }

    #[test]
    fn who_went_before_its_join_was_run_leaves_at_once() {
        let context = MockContext::new().with_connection("c1", Some("ada"), &[]);
        context.disconnect("c1", "its goodbye was before").unwrap();
        assert_eq!(join(&context, "lobby"), Ok(Reply::none()));
        assert_eq!((context.sent_as("joined").len(), context.sent_as("left").len()), (1, 1));
        assert_eq!(context.store().get("rooms:c1").unwrap(), None);
    }

    #[test]
    fn rooms_are_remembered_once_and_limited() {
        let context = MockContext::new();
        join(&context, "lobby").unwrap();
        join(&context, "lobby").unwrap();
        assert_eq!(room::rooms_of(&context, "c1").unwrap(), ["lobby"]);
        for number in 1..ROOMS_MAX {
            join(&context, &format!("room {number}")).unwrap();
        }
        assert!(matches!(join(&context, "one more"), Err(Failure::Reject { code, .. }) if code == "too_many_rooms"));
        assert!(join(&context, "lobby").is_ok(), "being in already costs nothing");
    }

    #[test]
    fn leaving_tells_the_room_once() {
        let context = MockContext::new();
        join(&context, "lobby").unwrap();
        let leave = || Leave.handle(&testing::message("leave").data(json!({ "room": "lobby" })).build(), &context);
        assert_eq!(leave(), Ok(Reply::json(json!({ "room": "lobby" }))));
        assert_eq!(leave(), Ok(Reply::json(json!({ "room": "lobby" }))));
        assert_eq!(context.sent_as("left"), [json!({ "room": "lobby", "nickname": "guest", "connection_id": "c1" })]);
        assert_eq!(context.left(), [("room:lobby".to_owned(), "c1".to_owned())]);
        assert!(room::rooms_of(&context, "c1").unwrap().is_empty());
    }

    #[test]
    fn history_is_oldest_first_and_limited() {
        let context = MockContext::new();
        for number in 0..60 {
            context.store().push_capped_json("history:lobby", &number, 100).unwrap();
        }
        let messages = |data| history(&context, data).unwrap().to_json().unwrap()["messages"].clone();
        assert_eq!(messages(json!({ "room": "lobby", "count": 2 })), json!([58, 59]));
        assert_eq!(messages(json!({ "room": "lobby", "count": 99 })).as_array().unwrap().len(), 50);
        assert_eq!(messages(json!({ "room": "lobby", "count": 0 })), json!([]));
        assert_eq!(messages(json!({ "room": "empty" })), json!([]));
        for number in 0..20 {
            context.store().push_capped_json("history:long", &json!([number, "x".repeat(60_000)]), 100).unwrap();
        }
        let long = messages(json!({ "room": "long" }));
        assert_eq!((long.as_array().unwrap().len(), &long[7][0]), (8, &json!(19)), "the newest that fit into a frame");
        assert!(matches!(history(&context, json!({ "room": "" })), Err(Failure::Reject { code, .. }) if code == "bad_data"));
    }
}

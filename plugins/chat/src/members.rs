//! `members`: who is in a room, as `join` answers it too.

use plugsocket_plugin::prelude::*;
use serde::Deserialize;

use crate::room::{self, RoomName};
use crate::settings::Settings;

/// Most members that are listed; each costs a look into the store for its nickname.
const MEMBERS_MAX: usize = 100;

#[derive(Default, Deserialize)]
struct Request {
    room: Option<RoomName>,
}

/// Tells who is in a room that the sender is in; without `room`, in the one it joined last.
pub struct Members;

impl Members {
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        Settings::read(config).map(|_| Self)
    }
}

impl Action for Members {
    fn handle(&self, message: &Message, context: &Context) -> Outcome {
        let Request { room } = message.data::<Option<Request>>()?.unwrap_or_default();
        let sender = message.connection_id();
        let room = match room {
            Some(room) => {
                room::must_be_in(context, sender, &room)?;
                room.as_str().to_owned()
            }
            None => match room::rooms_of(context, sender)?.pop() {
                Some(last) => last,
                None => return Err(Failure::reject("not_in_room", "you are in no room; send `join` first")),
            },
        };
        let (members, total) = list(&room, message, context)?;
        Ok(Reply::json(json!({ "room": room, "members": members, "members_total": total })))
    }
}

/// Who is in the room, at most [`MEMBERS_MAX`], and how many there are. The sender comes first: it is one of them even while the news of
/// its joining is still on the way.
pub fn list(room: &str, message: &Message, context: &Context) -> Result<(Vec<Value>, usize), ContextError> {
    let sender = message.connection_id();
    let others = context.members(&room::group(room))?.into_iter().filter(|info| info.connection_id != sender);
    let mut connections = vec![(sender.to_owned(), message.user_id().map(ToOwned::to_owned))];
    connections.extend(others.map(|info| (info.connection_id, info.user_id)));
    let total = connections.len();
    let described = connections.into_iter().take(MEMBERS_MAX).map(|(connection, user)| {
        let nickname = context.store().get(&room::nickname_key(&connection))?;
        Ok(json!({ "connection_id": connection, "user_id": user, "nickname": nickname }))
    });
    Ok((described.collect::<Result<_, ContextError>>()?, total))
}

#[cfg(test)]
mod tests {
    use plugsocket_plugin::testing::{self, MockContext};

    use super::*;

    fn ask(context: &MockContext, data: Value) -> Outcome {
        Members.handle(&testing::message("members").user("ada").data(data).build(), context)
    }

    fn world() -> MockContext {
        let context = MockContext::new().with_connection("c2", Some("bob"), &["room:attic"]).with_connection("c3", None, &["room:lobby"]);
        context.store().set_json("rooms:c1", &["lobby", "attic"]).unwrap();
        context.store().set("nick:c1", "Ada").unwrap();
        context.store().set("nick:c2", "Bob").unwrap();
        context
    }

    #[test]
    fn tells_who_is_in_a_room_or_in_the_last_one() {
        let context = world();
        let ada = json!({ "connection_id": "c1", "user_id": "ada", "nickname": "Ada" });
        let attic = json!([ada, { "connection_id": "c2", "user_id": "bob", "nickname": "Bob" }]);
        for data in [json!({ "room": "attic" }), json!({}), Value::Null] {
            let reply = ask(&context, data).unwrap().to_json().unwrap();
            assert_eq!(reply, json!({ "room": "attic", "members": attic, "members_total": 2 }));
        }
        let lobby = ask(&context, json!({ "room": "lobby" })).unwrap().to_json().unwrap();
        assert_eq!(lobby["members"][1], json!({ "connection_id": "c3", "user_id": null, "nickname": null }));
    }

    #[test]
    fn a_full_room_is_told_in_part() {
        let mut context = world();
        for number in 0..200 {
            context = context.with_connection(&format!("n{number}"), None, &["room:lobby"]);
        }
        let reply = ask(&context, json!({ "room": "lobby" })).unwrap().to_json().unwrap();
        assert_eq!((reply["members"].as_array().unwrap().len(), &reply["members_total"]), (MEMBERS_MAX, &json!(202)));
    }

    #[test]
    fn outsiders_are_told_to_come_in() {
        for (context, data) in [(world(), json!({ "room": "cellar" })), (MockContext::new(), json!({}))] {
            assert!(
                matches!(ask(&context, data), Err(Failure::Reject { code, message }) if code == "not_in_room" && message.contains("join"))
            );
        }
        assert!(matches!(ask(&world(), json!({ "room": "" })), Err(Failure::Reject { code, .. }) if code == "bad_data"));
    }
}

//! The chat plugin that ships with Plugsocket: rooms with history, typing notices, private texts, an echo, a slow report, and the door to them.

mod door;
mod echo;
mod members;
mod nickname;
mod private;
mod report;
mod room;
mod rooms;
mod settings;
mod text;
mod typing;

use plugsocket_plugin::export_plugin;

export_plugin! {
    name: "chat",
    handler: door::Door::new,
    actions: {
        "chat_text" => text::ChatText::new,
        "join" => rooms::Join::new,
        "leave" => rooms::Leave::new,
        "history" => rooms::History::new,
        "members" => members::Members::new,
        "typing" => typing::Typing::new,
        "private_text" => private::PrivateText::new,
        "nickname" => nickname::Nickname::new,
        "echo" => echo::Echo::new,
        "report" => report::Report::new,
    },
}

/// The actions exported above, for the fallback's answer; a test compares the two.
const ACTIONS: [&str; 10] = ["chat_text", "join", "leave", "history", "members", "typing", "private_text", "nickname", "echo", "report"];

#[cfg(test)]
mod tests {
    use plugsocket_plugin::__export::Exported;
    use plugsocket_plugin::prelude::*;
    use plugsocket_plugin::testing::{self, MockContext};

    #[test]
    fn the_fallback_knows_every_action() {
        let exported: Vec<_> = super::PlugsocketExport::DEFINITION.actions.iter().map(|(name, _)| *name).collect();
        assert_eq!(exported, super::ACTIONS);
    }

    /// In the flat protocol a message's data is the client's whole object, its `action` and whatever else it says among it.
    #[test]
    fn every_action_ignores_members_it_does_not_know() {
        let data = |action: &str| {
            json!({
                "action": action, "handle": "x", "room": "lobby", "count": 1, "text": "hi", "to_user": "bob", "nickname": "Ada", "seconds": 0.1,
                "steps": 1
            })
        };
        for (action, construct) in super::PlugsocketExport::DEFINITION.actions {
            let context = MockContext::new().with_connection("c2", Some("bob"), &[]);
            context.store().set_json("rooms:c1", &["lobby"]).unwrap();
            let outcome = construct(&Config::default()).unwrap().handle(&testing::message(action).data(data(action)).build(), &context);
            assert!(outcome.is_ok(), "{action}: {outcome:?}");
        }
        let door = super::PlugsocketExport::DEFINITION.handler.unwrap()(&Config::default()).unwrap();
        let request = testing::connect_request("c1").data(data("register")).build();
        assert_eq!(door.connect(&request, &MockContext::new()).unwrap().user_id(), Some(&Id::from("ada")));
    }
}

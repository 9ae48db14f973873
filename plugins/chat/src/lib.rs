//! The chat plugin that ships with Plugsocket: rooms with history, an echo, a slow report, and the door to them.

mod door;
mod echo;
mod report;
mod room;
mod rooms;
mod settings;
mod text;

use plugsocket_plugin::export_plugin;

export_plugin! {
    name: "chat",
    handler: door::Door::new,
    actions: {
        "chat_text" => text::ChatText::new,
        "join" => rooms::Join::new,
        "leave" => rooms::Leave::new,
        "history" => rooms::History::new,
        "echo" => echo::Echo::new,
        "report" => report::Report::new,
    },
}

/// The actions exported above, for the fallback's answer; a test compares the two.
const ACTIONS: [&str; 6] = ["chat_text", "join", "leave", "history", "echo", "report"];

#[cfg(test)]
mod tests {
    use plugsocket_plugin::__export::Exported;

    #[test]
    fn the_fallback_knows_every_action() {
        let exported: Vec<_> = super::PlugsocketExport::DEFINITION.actions.iter().map(|(name, _)| *name).collect();
        assert_eq!(exported, super::ACTIONS);
    }
}

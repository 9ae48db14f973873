//! Laravel's broadcasting channels: `subscribe` and `unsubscribe`, with auth that the application signs for private and presence channels.

mod auth;
mod door;
mod presence;
mod subscribe;

#[cfg(test)]
mod tests;

use plugsocket_plugin::export_plugin;

export_plugin! {
    name: "channels",
    handler: door::Door::new,
    actions: {
        "subscribe" => subscribe::Subscribe::new,
        "unsubscribe" => subscribe::Unsubscribe::new,
    },
}

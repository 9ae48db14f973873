//! Write message handlers for the Plugsocket WebSocket server as native plugins.
//!
//! A plugin is a `cdylib` with any number of [`Action`]s, run by workers, and at most one [`Handler`], run by the server. Both speak to
//! everybody else through the [`Context`]. A whole plugin:
//!
//! ```
//! use plugsocket_plugin::prelude::*;
//!
//! /// What the client sends: `{"action": "chat_text", "data": {"room": "lobby", "text": "hello"}}`.
//! #[derive(serde::Serialize, serde::Deserialize)]
//! struct Text {
//!     room: String,
//!     text: String,
//! }
//!
//! struct ChatText {
//!     longest: usize,
//! }
//!
//! impl ChatText {
//!     /// Gets the table `[plugins.chat.config]`; an error refuses the load with its text.
//!     fn new(config: &Config) -> Result<Self, ConfigError> {
//!         Ok(Self { longest: config.get("longest")?.unwrap_or(2000) })
//!     }
//! }
//!
//! impl Action for ChatText {
//!     fn handle(&self, message: &Message, context: &Context) -> Outcome {
//!         let text: Text = message.data()?; // a mismatch is a clear `bad_data` to the sender
//!         if text.text.chars().count() > self.longest {
//!             return Err(Failure::reject("too_long", format!("at most {} characters, please", self.longest)));
//!         }
//!         context.to_group(&text.room).send("chat_text", &text)?; // also: to(connection), to_user(user), all()
//!         Ok(Reply::none())
//!     }
//! }
//!
//! struct Door;
//!
//! impl Door {
//!     fn new(_config: &Config) -> Result<Self, ConfigError> {
//!         Ok(Self)
//!     }
//! }
//!
//! impl Handler for Door {
//!     fn connect(&self, _request: &ConnectRequest, _context: &Context) -> Result<Identity, Refusal> {
//!         Ok(Identity::new().with_group("lobby"))
//!     }
//! }
//!
//! export_plugin! {
//!     name: "chat",
//!     handler: Door::new,
//!     actions: { "chat_text" => ChatText::new },
//! }
//!
//! // And its test, without any server:
//! use plugsocket_plugin::testing::{self, MockContext};
//!
//! let chat_text = ChatText::new(&Config::default())?;
//! let context = MockContext::new();
//! let message = testing::message("chat_text").data(json!({ "room": "lobby", "text": "hello" })).build();
//! assert_eq!(chat_text.handle(&message, &context), Ok(Reply::none()));
//! assert_eq!(context.sent()[0].data, json!({ "room": "lobby", "text": "hello" }));
//! # Ok::<(), ConfigError>(())
//! ```
//!
//! Reading order: [`Action`] and [`Handler`] are what you write, [`Message`], [`Context`] and [`Outcome`] what they work with,
//! [`export_plugin!`] what makes a library of them, [`testing`] how to test them. [`call`] and [`abi`] are the border to the host; plugins
//! need neither.

pub mod abi;
mod action;
pub mod call;
mod config;
mod connect;
mod context;
mod dispatch;
mod export;
mod handler;
mod id;
mod identity;
mod log;
mod message;
mod outcome;
mod panics;
pub mod prelude;
mod store;
pub mod testing;

pub use serde_json::{self, Value, json};
pub use tracing;

pub use action::Action;
pub use config::{Config, ConfigError};
pub use connect::ConnectRequest;
pub use context::{Context, ContextError, Sending};
pub use handler::Handler;
pub use id::Id;
pub use identity::{Identity, Refusal};
pub use message::Message;
pub use outcome::{Failure, Outcome, Reply};
pub use store::Store;

/// What `export_plugin!` expands to; no interface for people.
#[doc(hidden)]
pub mod __export {
    pub use abi_stable::library::LibHeader;

    pub use crate::abi::export::{Exported, header};
    pub use crate::export::{ActionConstructor, Definition, HandlerConstructor, action, handler};
}

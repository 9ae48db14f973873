//! What runs one named message on a worker.

use crate::context::Context;
use crate::message::Message;
use crate::outcome::Outcome;

/// A named message handler. One instance serves every message of its name, from several threads at once.
///
/// `handle` may block: it runs on the plugin's own threads (`[plugins.<name>] threads`), and only messages of the same connection wait
/// for it. It is called at least once per message, so what must not happen twice is keyed on [`Context::message_id`].
///
/// ```
/// use plugsocket_plugin::prelude::*;
/// use plugsocket_plugin::testing::{self, MockContext};
///
/// struct Double;
///
/// impl Action for Double {
///     fn handle(&self, message: &Message, _context: &Context) -> Outcome {
///         let number: i32 = message.data()?;
///         Ok(Reply::data(&(number * 2)))
///     }
/// }
///
/// let reply = Double.handle(&testing::message("double").data(json!(21)).build(), &MockContext::new());
/// assert_eq!(reply, Ok(Reply::json(json!(42))));
/// ```
pub trait Action: Send + Sync {
    /// Handles one message.
    ///
    /// # Errors
    /// [`Failure`](crate::Failure): `reject` answers the sender and is final, `retry` is another attempt.
    fn handle(&self, message: &Message, context: &Context) -> Outcome;

    /// Called once when the instance is retired, after its last message.
    fn shutdown(&self) {}
}

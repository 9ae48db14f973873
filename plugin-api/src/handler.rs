//! The single plugin object on the server: who may connect, what happens when they leave, the periodic turn, and the fallback.

use crate::connect::ConnectRequest;
use crate::context::Context;
use crate::identity::{Identity, Refusal};
use crate::message::Message;
use crate::outcome::{Failure, Outcome};

/// The server's own plugin object. Everything but [`connect`](Self::connect) has a default.
///
/// All methods may be called from several threads at once, `on_loop` never beside itself.
///
/// ```
/// use plugsocket_plugin::prelude::*;
/// use plugsocket_plugin::testing::{self, MockContext};
///
/// struct Door;
///
/// impl Handler for Door {
///     fn connect(&self, request: &ConnectRequest, _context: &Context) -> Result<Identity, Refusal> {
///         match request.header("x-api-key") {
///             Some("open sesame") => Ok(Identity::new().with_user_id(7_i64).with_group("guests")),
///             _ => Err(Refusal::new("the key is wrong")),
///         }
///     }
/// }
///
/// let request = testing::connect_request("c1").header("X-Api-Key", "open sesame").build();
/// assert_eq!(Door.connect(&request, &MockContext::new()).unwrap().groups(), ["guests"]);
/// ```
pub trait Handler: Send + Sync {
    /// Admits or refuses a connection.
    ///
    /// # Errors
    /// [`Refusal`]: told to the client. A store or send error through `?` is no refusal: the client is told `busy` and comes again.
    fn connect(&self, request: &ConnectRequest, context: &Context) -> Result<Identity, Refusal>;

    /// A connection that `connect` admitted has ended; `identity` is what was granted, its connection id filled in.
    ///
    /// `reason` is one of `client`, `application`, `idle`, `slow_consumer`, `draining`, `replaced`, `reregistered`, `policy`,
    /// `protocol`, `expired`, `lost`, `node_lost`; expect others from newer hosts.
    fn disconnect(&self, identity: &Identity, reason: &str, context: &Context) {
        let _ = (identity, reason, context);
    }

    /// The periodic turn (`[server] loop_interval`); skipped while the last one still runs.
    fn on_loop(&self, context: &Context) {
        let _ = context;
    }

    /// The fallback: a message whose action no plugin serves. Answers `unknown_action` unless overridden.
    ///
    /// # Errors
    /// As for [`Action::handle`](crate::Action::handle).
    fn action(&self, message: &Message, context: &Context) -> Outcome {
        let _ = context;
        Err(Failure::unknown_action(message.action()))
    }

    /// Called once when the instance is retired, after its last call.
    fn shutdown(&self) {}
}

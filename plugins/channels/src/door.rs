//! The handler, for an app that has none of its own: who its token names may come in, and presence channels hear who left.

use plugsocket_plugin::prelude::*;

use crate::auth::Secret;
use crate::{presence, subscribe};

/// Admits everybody when the host checks no tokens, as nobody in particular; otherwise whom the token's `sub` names.
pub struct Door;

impl Door {
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        Secret::new(config).map(|_| Self)
    }
}

impl Handler for Door {
    fn connect(&self, request: &ConnectRequest, _context: &Context) -> Result<Identity, Refusal> {
        if request.claims().is_none() {
            return Ok(Identity::new());
        }
        let user = request.claim::<Id>("sub").filter(|user| !user.to_string().is_empty());
        user.map(|user| Identity::new().with_user_id(user))
            .ok_or_else(|| Refusal::unauthorized("the token names no user: it needs a `sub`"))
    }

    fn disconnect(&self, identity: &Identity, _reason: &str, context: &Context) {
        let connection = identity.connection_id();
        if let Err(error) = leave_all(&connection, context) {
            // The rest expires by itself; the host has taken the connection out of its groups.
            tracing::warn!(connection, %error, "could not take a connection out of its channels");
        }
    }
}

fn leave_all(connection: &str, context: &Context) -> Result<(), ContextError> {
    for channel in subscribe::channels_of(context, connection)? {
        presence::depart(context, &channel, connection)?;
    }
    subscribe::forget(context, connection)
}

//! Which token a client has: at the upgrade, and at each `register`. The claims go into the handler's input, the token goes nowhere.

use std::sync::Arc;

use plugsocket_plugin::call::ConnectCall;

use super::node::{Node, ms, unix_ms};
use super::task::SessionTask;
use super::token::{TokenFault, Tokens, Verified};
use crate::config::ConnectOn;
use crate::wire::codes::{CloseCode, ErrorCode};
use crate::wire::envelope::ClientId;

/// Checks the token of an upgrade request. Answers its claims, and the subprotocol that came with it; no claims when no token is asked for, or
/// when it may still come with `register`.
///
/// # Errors
/// [`TokenFault`]
pub(crate) fn at_upgrade(node: &Node, call: &mut ConnectCall) -> Result<(Option<Arc<Verified>>, Option<String>), TokenFault> {
    let Some(tokens) = &node.tokens else { return Ok((None, None)) };
    match tokens.places.take(call)? {
        Some(found) => Ok((Some(known(call, tokens.check(&found.token)?)), found.subprotocol)),
        None if tokens.places.has_register() && node.settings.load().server.connect_on == ConnectOn::Register => Ok((None, None)),
        None => Err(TokenFault::Missing),
    }
}

/// The claims a `register` counts with: of the token in it, else those that are known of the client.
fn at_register(tokens: &Tokens, task: &SessionTask, call: &mut ConnectCall) -> Result<Arc<Verified>, TokenFault> {
    // What came with the upgrade has been looked at then.
    let _ = tokens.places.take(call);
    // Without a place of its own for it, `token` is the application's until there is something to renew.
    let fresh =
        if tokens.places.has_register() || task.registration.is_some() { tokens.places.take_register(&mut call.data)? } else { None };
    if let Some(token) = fresh {
        return Ok(known(call, tokens.check(&token)?));
    }
    let before = task.registration.as_ref().and_then(|registration| registration.verified.as_ref()).or(task.verified.as_ref());
    let before = before.ok_or(TokenFault::Missing)?;
    let leeway_ms = ms(tokens.settings.leeway);
    if unix_ms() >= before.expires_ms.saturating_add(leeway_ms) {
        return Err(TokenFault::Expired);
    }
    Ok(known(call, Arc::clone(before)))
}

fn known(call: &mut ConnectCall, verified: Arc<Verified>) -> Arc<Verified> {
    call.claims = Some(verified.claims.clone());
    verified
}

impl SessionTask {
    /// Puts the client's claims into the handler's input. `Err` when it is not let in, and has been told so: a client that is registered stays
    /// so, any other is sent away.
    pub(super) fn identify(&self, call: &mut ConnectCall, id: Option<&ClientId>) -> Result<Option<Arc<Verified>>, ()> {
        let Some(tokens) = &self.node.tokens else { return Ok(None) };
        let verified = at_register(tokens, self, call).inspect(|verified| self.session.expiry.defer(verified.expires_ms, &tokens.settings));
        verified.map(Some).map_err(|fault| {
            self.node.refusals.note(fault.cause(), self.session.ip, fault.text());
            self.session.send_error(id, ErrorCode::Refused, fault.text());
            if self.registration.is_none() {
                self.session.outlet.close(CloseCode::Refused, fault.text());
            }
        })
    }
}

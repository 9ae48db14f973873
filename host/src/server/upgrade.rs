//! Between the upgrade request and its answer: the client's token, and with `connect_on = "upgrade"` the handler's decision.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use plugsocket_plugin::call::{ConnectCall, RefusalWire};
use tokio_util::sync::CancellationToken;

use super::handler_calls::Afterwards;
use super::head::{self, Rejection};
use super::node::Node;
use super::registration::{self, Denial, Registration};
use super::session::Session;
use super::token::{TokenFault, Verified};
use super::{handshake, identify};
use crate::config::ConnectOn;
use crate::wire::codes::CloseCode;
use crate::wire::ids::SessionId;

/// Longest reason in an answer, in bytes.
const REASON_BYTES_MAX: usize = 1000;
const RETRY_AFTER: &str = "Retry-After: 1\r\n";
/// RFC 9110 §15.5.2: a 401 says how one can say who one is.
const CHALLENGE: &str = "WWW-Authenticate: Bearer\r\n";

/// A client that may have its WebSocket.
pub(crate) struct Admitted {
    /// Its session. Until it is answered it is in the roster only when it is registered.
    pub session: Arc<Session>,
    /// What its token says.
    pub verified: Option<Arc<Verified>>,
    /// What `connect` has granted; the `registered` frame waits in the session's outlet.
    pub registration: Option<Registration>,
}

/// Decides whether a client may have its WebSocket.
///
/// # Errors
/// The answer for it.
pub(crate) async fn admit(
    node: &Arc<Node>,
    request: &mut handshake::Request,
    (id, ip): (SessionId, IpAddr),
    stop: &CancellationToken,
) -> Result<Admitted, Rejection> {
    let is_asked = node.settings.load().server.connect_on == ConnectOn::Upgrade;
    let session = Arc::new(Session::new(
        (id, ip),
        Arc::clone(&node.settings),
        (Arc::clone(&node.backlog), Arc::clone(&node.refusals)),
        node.now_ms(),
    ));
    if !is_asked && node.tokens.is_none() {
        return Ok(Admitted { session, verified: None, registration: None });
    }
    let mut call = Box::new(request.head.connect_call(&session.id, &node.id, ip.to_string()));
    let (verified, subprotocol) = identify::at_upgrade(node, &mut call).map_err(TokenFault::rejection)?;
    if request.subprotocol.is_none() {
        request.subprotocol = subprotocol;
    }
    if !is_asked {
        if let Some(verified) = &verified {
            session.expiry.bound(verified.expires_ms, &node.settings.load().server.token);
        }
        return Ok(Admitted { session, verified, registration: None });
    }
    let registration = Some(connect(node, &session, (call, verified.clone())).await?);
    let admitted = Admitted { session, verified, registration };
    if stop.is_cancelled() {
        admitted.leave(node, CloseCode::Draining);
        return Err(head::DRAINING);
    }
    Ok(admitted)
}

impl Admitted {
    /// Ends what was granted to a client that has no WebSocket after all.
    pub fn leave(self, node: &Node, code: CloseCode) {
        self.session.outlet.end();
        match self.registration {
            Some(registration) => drop(registration.end(code.reason(), Afterwards::Gone)),
            None => drop(node.roster.remove(&self.session.id)),
        }
    }
}

/// Asks the handler. The session is in the roster meanwhile, so that it can be made a member, and is neither pinged nor timed.
async fn connect(
    node: &Arc<Node>,
    session: &Arc<Session>,
    (call, verified): (Box<ConnectCall>, Option<Arc<Verified>>),
) -> Result<Registration, Rejection> {
    session.stop_awaiting_registration();
    session.pause();
    if !node.roster.admit(Arc::clone(session)) {
        return Err(if node.hold.is_lost() { head::LOST } else { head::DRAINING });
    }
    let request = registration::Request { call, client_id: None, verified, previous: None };
    let registration = registration::carry_out(node, session, request).await.map_err(|denied| {
        drop(node.roster.remove(&session.id));
        rejection(denied.denial)
    })?;
    session.heard(node.now_ms());
    Ok(registration)
}

fn rejection(denial: Denial) -> Rejection {
    let unavailable =
        |cause, body: Cow<'static, str>| Rejection { cause, status: "503 Service Unavailable", headers: Cow::Borrowed(RETRY_AFTER), body };
    match denial {
        Denial::Refused(RefusalWire { reason, status, .. }) => {
            let status = status.map_or("403 Forbidden", status_line);
            let headers = match &status[..3] {
                "401" => CHALLENGE,
                "503" => RETRY_AFTER,
                _ => "",
            };
            Rejection { cause: "refused", status, headers: Cow::Borrowed(headers), body: Cow::Owned(shown(&reason)) }
        }
        Denial::Busy(reason) => unavailable("handler_busy", Cow::Owned(shown(&reason))),
        Denial::Unannounced => unavailable("queue", Cow::Borrowed("the queue can't be reached; try again")),
        Denial::Unusable => {
            Rejection::new("handler_unusable", "500 Internal Server Error", "the handler gave an identity that can't be used")
        }
    }
}

/// What of a handler's words may stand in an answer.
fn shown(reason: &str) -> String {
    let mut shown = String::new();
    for character in reason.chars().filter(|character| !character.is_control()) {
        if shown.len() + character.len_utf8() > REASON_BYTES_MAX {
            break;
        }
        shown.push(character);
    }
    shown
}

/// The statuses that HTTP has names for; any other, which an older or newer SDK may let pass, is 403.
fn status_line(status: u16) -> &'static str {
    match status {
        400 => "400 Bad Request",
        401 => "401 Unauthorized",
        402 => "402 Payment Required",
        404 => "404 Not Found",
        405 => "405 Method Not Allowed",
        406 => "406 Not Acceptable",
        407 => "407 Proxy Authentication Required",
        408 => "408 Request Timeout",
        409 => "409 Conflict",
        410 => "410 Gone",
        411 => "411 Length Required",
        412 => "412 Precondition Failed",
        413 => "413 Content Too Large",
        414 => "414 URI Too Long",
        415 => "415 Unsupported Media Type",
        416 => "416 Range Not Satisfiable",
        417 => "417 Expectation Failed",
        421 => "421 Misdirected Request",
        422 => "422 Unprocessable Content",
        423 => "423 Locked",
        424 => "424 Failed Dependency",
        425 => "425 Too Early",
        426 => "426 Upgrade Required",
        428 => "428 Precondition Required",
        429 => "429 Too Many Requests",
        431 => "431 Request Header Fields Too Large",
        451 => "451 Unavailable For Legal Reasons",
        503 => "503 Service Unavailable",
        _ => "403 Forbidden",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_becomes_one_answer_and_nothing_else() {
        let refused =
            |reason: &str, status| rejection(Denial::Refused(RefusalWire { reason: reason.to_owned(), keep_open: false, status }));
        let answer = refused("no\r\nSet-Cookie: a=b\r\n\r\n<b>", Some(200)).response();
        assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nnoSet-Cookie: a=b<b>\n") && answer.matches("\r\n\r\n").count() == 1, "{answer}");
        let long = refused(&"ä".repeat(9_000), None);
        assert_eq!((long.status, long.body.len()), ("403 Forbidden", 1000));
        for (status, headers) in [(401, "WWW-Authenticate: Bearer\r\n"), (503, "Retry-After: 1\r\n"), (429, "")] {
            let answer = refused("no", Some(status)).response();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
            assert!(answer.contains(&format!("Content-Length: 3\r\n{headers}Connection: close\r\n\r\n")), "{answer}");
        }
    }
}

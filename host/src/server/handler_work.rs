//! How one piece of handler work runs: time limits, attempts, and what the client is told.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use plugsocket_plugin::call::{IdentityWire, MessageCall, Meta, Operation, RefusalWire, RejectWire, Status};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::time::sleep;

use super::announce;
use super::handler_calls::{Admission, Afterwards, Connect, Disconnect, Fallback, Orphan, Told};
use super::node::{Node, unix_ms};
use super::registration::Registration;
use super::session::Session;
use super::sink;
use crate::context::Sender;
use crate::plugin::{Answer, Call, CallError, Interruptions};
use crate::wire::codes::ErrorCode;
use crate::wire::ids::SessionId;
use crate::wire::job::Job;
use crate::wire::json::Json;

/// Why a connection ended whose node died or lost its lease.
const NODE_LOST: &str = "node_lost";
/// Pause before the second attempt; doubled for each further one.
const RETRY_BACKOFF: Duration = Duration::from_millis(100);
const RETRY_BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
enum CallFailure {
    #[error("no handler is live")]
    NoHandler,
    #[error("the handler did not answer in time")]
    TimedOut,
    #[error("{0}")]
    Failed(String),
    #[error("the handler's runner ended during the call, and another call is to blame")]
    Interrupted { is_suspect: bool },
    #[error("others may make the call by now")]
    Unsure,
}

/// Decides a registration. Never tried again: the handler may have done half of it, and the client can ask once more.
pub(super) async fn connect(node: &Arc<Node>, session: &Arc<Session>, connect: Connect) {
    let Connect { call, claim, answer } = connect;
    if answer.is_closed() || !claim.take() {
        return;
    }
    let input = serde_json::to_vec(&call).unwrap_or_default().into();
    let limit = node.settings.load().server.handler_timeout;
    let work = Work { message_id: "", operation: Operation::Connect, input, limit, suspicions: 0 };
    let admission = match call_handler(node, (&session.id, None), work).await {
        Ok(answer) => admission_of(node, session, &answer),
        Err(failure) => {
            tracing::warn!(session = %session.id, %failure, "connect failed");
            Admission::Busy(failure.to_string())
        }
    };
    // A session that is gone drops a granted registration, and that calls `disconnect`.
    let _ = answer.send(admission);
}

fn admission_of(node: &Arc<Node>, session: &Arc<Session>, answer: &Answer) -> Admission {
    let text = || String::from_utf8_lossy(&answer.bytes).into_owned();
    match answer.status {
        Status::Done if answer.bytes.is_empty() => granted(node, session, Box::default()),
        Status::Done => match serde_json::from_slice(&answer.bytes) {
            Ok(identity) => granted(node, session, identity),
            Err(error) => {
                tracing::error!(session = %session.id, %error, "connect answered an identity that can't be read; nobody can register");
                Admission::Busy("the handler's answer can't be read".to_owned())
            }
        },
        Status::Rejected => {
            let plain = || RefusalWire { reason: text(), keep_open: false, status: None };
            Admission::Refused(serde_json::from_slice(&answer.bytes).unwrap_or_else(|_| plain()))
        }
        Status::Retry | Status::Panicked | Status::Unsupported => {
            tracing::warn!(session = %session.id, status = ?answer.status, error = text(), "connect failed");
            Admission::Busy("the handler failed".to_owned())
        }
    }
}

fn granted(node: &Arc<Node>, session: &Arc<Session>, mut identity: Box<IdentityWire>) -> Admission {
    let registration = Registration::granted(Arc::clone(node), Arc::clone(session), &mut identity);
    Admission::Granted(registration, identity)
}

/// Runs a message through the handler's own action and answers it.
pub(super) async fn fallback(node: &Arc<Node>, session: &Arc<Session>, message: &Fallback) {
    let (attempts_max, limit) = attempts(node);
    let message_id = format!("{}-{}", session.id, message.sequence);
    let mut tries = Tries::default();
    let last = loop {
        let attempt = tries.failed + 1;
        let input = fallback_input(node, session, message, &message_id, attempt);
        let work =
            Work { message_id: &message_id, operation: Operation::Fallback, input, limit, suspicions: tries.interruptions.suspicions() };
        let failure = match call_handler(node, (&session.id, None), work).await {
            Ok(answer) => match settle(node, session, message, answer) {
                Ok(()) => return,
                Err(failure) => failure,
            },
            Err(failure) => failure,
        };
        if tries.is_interrupted(&failure) {
            continue;
        }
        metrics::counter!("plugsocket_handler_failures_total", "operation" => "fallback").increment(1);
        tries.failed = attempt;
        if attempt == attempts_max {
            break failure;
        }
        sleep(backoff(attempt + 1)).await;
    };
    tracing::warn!(session = %session.id, action = message.action, failure = %last, "fallback message given up");
    set_aside(node, session, message, attempts_max, &last);
    let code = match last {
        CallFailure::NoHandler => ErrorCode::Unavailable,
        CallFailure::TimedOut => ErrorCode::Timeout,
        CallFailure::Failed(_) | CallFailure::Unsure | CallFailure::Interrupted { .. } => ErrorCode::Failed,
    };
    send_answer(session, message, |session| session.send_error(message.client_id.as_ref(), code, given_up_text(code)));
}

/// Keeps what was given up where an operator finds it, beside the jobs that were.
fn set_aside(node: &Arc<Node>, session: &Session, message: &Fallback, attempts: u32, failure: &CallFailure) {
    let job = Job {
        session: session.id.clone(),
        connection_id: message.connection_id.clone().unwrap_or_default(),
        user_id: message.user_id.clone(),
        action: message.action.clone(),
        sequence: message.sequence,
        time_ms: message.time_ms,
        client_id: message.client_id.clone(),
        ip: session.ip.to_string(),
        attempts,
        unserved: 0,
        scheduled_id: None,
        data: message.data.clone(),
    };
    let version = node.plugins.handler().map(|handler| handler.version.to_string()).unwrap_or_default();
    let reason = format!("the handler's fallback: {failure}");
    let queue = node.queue.clone();
    // Beside: neither its client nor the messages behind it wait for the queue.
    node.calls.run_beside(async move {
        let (message_id, action) = (job.message_id(), job.action.clone());
        if let Err(error) = queue.inbox.set_aside(job, &reason, &version).await {
            tracing::warn!(job = message_id, action, %error, "a fallback message that was given up has no dead letter");
        }
    });
}

fn given_up_text(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Unavailable => "nothing serves this action at present",
        ErrorCode::Timeout => "the action did not end in time",
        _ => "the action failed",
    }
}

fn fallback_input(node: &Node, session: &Session, message: &Fallback, message_id: &str, attempt: u32) -> Bytes {
    let limit = node.settings.load().server.handler_timeout;
    let call = MessageCall {
        action: Cow::Borrowed(&message.action),
        // Plugins compiled before there was none read a text.
        connection_id: Cow::Borrowed(message.connection_id.as_deref().unwrap_or_default()),
        user_id: message.user_id.as_deref().map(str::to_owned),
        data: message.data.raw().ok(),
        meta: Meta {
            time: message.time_ms,
            node: node.id.to_string(),
            ip: session.ip.to_string(),
            attempt,
            message_id: message_id.to_owned(),
            client_id: message.client_id.as_ref().map(|id| id.as_json().to_owned()),
        },
        deadline_ms: unix_ms() + u64::try_from(limit.as_millis()).unwrap_or_default(),
    };
    serde_json::to_vec(&call).unwrap_or_default().into()
}

/// Answers the client, or says why another attempt is due.
fn settle(node: &Node, session: &Session, message: &Fallback, answer: Answer) -> Result<(), CallFailure> {
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let id = message.client_id.as_ref();
    let reply = match answer.status {
        Status::Done if answer.bytes.is_empty() => id.map(|_| Ok(session.message(&message.action, id, &Json::NULL))),
        Status::Done => {
            let data = Json::parse(answer.bytes).map_err(|error| CallFailure::Failed(format!("the reply is no JSON: {error}")))?;
            Some(Ok(session.message(&message.action, id, &data)))
        }
        Status::Rejected => {
            let reject: RejectWire = serde_json::from_slice(&answer.bytes)
                .unwrap_or_else(|_| RejectWire { code: ErrorCode::Failed.as_str().to_owned(), message: text(&answer.bytes) });
            Some(Err(reject))
        }
        Status::Retry | Status::Panicked => return Err(CallFailure::Failed(text(&answer.bytes))),
        Status::Unsupported => return Err(CallFailure::NoHandler),
    };
    let frame_bytes_max = node.settings.load().limits.frame_out_max.as_u64();
    if let Some(reply) = reply {
        send_answer(session, message, |session| {
            let bytes = reply.as_ref().map_or_else(|reject| reject.message.len(), Bytes::len);
            match reply {
                _ if bytes as u64 > frame_bytes_max => {
                    tracing::warn!(session = %session.id, action = message.action, bytes, "reply is over limits.frame_out_max");
                    session.send_error(id, ErrorCode::Failed, "the reply is too large");
                }
                Ok(reply) => session.send(reply),
                Err(reject) => session.send_failure(id, &reject.code, &reject.message),
            }
        });
    }
    Ok(())
}

fn send_answer(session: &Session, message: &Fallback, send: impl FnOnce(&Session)) {
    session.answer(message.sequence, message.client_id.is_some(), send);
}

/// Tells the handler that an identity has ended, then the queue. What may be a cleaner's to tell comes back.
pub(super) async fn disconnect(node: &Arc<Node>, session: &Arc<Session>, disconnect: Box<Disconnect>) -> Result<(), Box<Disconnect>> {
    let is_ours = || !disconnect.is_announced || node.hold.is_held();
    match tell(node, &session.id, (&disconnect.identity, disconnect.reason), None, is_ours).await {
        Ok(()) => {}
        Err(CallFailure::Unsure) => return Err(disconnect),
        Err(_) => metrics::counter!("plugsocket_disconnects_given_up_total").increment(1),
    }
    let Disconnect { afterwards, done, .. } = *disconnect;
    match afterwards {
        Afterwards::Stay => {}
        Afterwards::Leave => announce::leave(node, &session.id, false).await,
        Afterwards::Gone => {
            let (node, id) = (Arc::clone(node), session.id.clone());
            node.clone().calls.run_beside(async move { announce::leave(&node, &id, true).await });
        }
    }
    drop(done);
    Ok(())
}

/// Ends an identity on a node that is lost: its cleaner makes the call, and tells the queue.
pub(super) fn forget(node: &Node, session: &Session, disconnect: Disconnect) {
    match disconnect.afterwards {
        Afterwards::Stay => {}
        Afterwards::Leave => drop(node.roster.vacate(&session.id)),
        Afterwards::Gone => drop(node.roster.remove(&session.id)),
    }
    drop(disconnect.done);
}

/// Tells the handler that a connection of a dead node has ended, unless another cleaner may be doing so.
pub(super) async fn orphan(node: &Arc<Node>, orphan: Orphan) {
    let Orphan { entry, estate, done } = orphan;
    let sender =
        Sender { connection_id: entry.connection_id.as_str().into(), user_id: entry.user_id.as_deref().map(Into::into), ip: String::new() };
    let given_up = match tell(node, &entry.session, (&entry.identity, NODE_LOST), Some(sender), || estate.is_ours()).await {
        Ok(()) => false,
        Err(CallFailure::Unsure) => return,
        Err(CallFailure::NoHandler) => {
            let _ = done.send(Told::NoHandler);
            return;
        }
        Err(CallFailure::TimedOut | CallFailure::Failed(_) | CallFailure::Interrupted { .. }) => true,
    };
    node.calls.run_beside(async move {
        let told = match estate.bury(&entry).await {
            Ok(()) => Told::Buried { given_up },
            Err(error) => {
                tracing::warn!(session = %entry.session, %error, "the queue was not told yet that an orphan had its `disconnect`");
                Told::Unburied { given_up }
            }
        };
        let _ = done.send(told);
    });
}

/// Calls `disconnect`, up to its attempts, as long as `is_ours`; after the last the failure is told.
async fn tell(
    node: &Arc<Node>,
    session: &SessionId,
    (identity, reason): (&Bytes, &str),
    sender: Option<Sender>,
    is_ours: impl Fn() -> bool,
) -> Result<(), CallFailure> {
    #[derive(Serialize)]
    struct Call<'call> {
        identity: Option<&'call RawValue>,
        reason: &'call str,
    }
    let call = Call { identity: serde_json::from_slice(identity).ok(), reason };
    let input = Bytes::from(serde_json::to_vec(&call).unwrap_or_default());
    let (attempts_max, limit) = attempts(node);
    let is_contained = node.plugins.handler().is_some_and(|version| version.callee.ends_calls());
    // Where it can't be ended, a call that takes long is not made a second time: the handler may be in the middle of it.
    let limit = if is_contained { limit } else { limit.saturating_mul(attempts_max) };
    let mut tries = Tries::default();
    loop {
        if !is_ours() {
            return Err(CallFailure::Unsure);
        }
        let work = Work {
            message_id: "",
            operation: Operation::Disconnect,
            input: input.clone(),
            limit,
            suspicions: tries.interruptions.suspicions(),
        };
        let failure = match call_handler(node, (session, sender.clone()), work).await {
            // A handler that refuses a disconnect has been told all the same.
            Ok(Answer { status: Status::Done | Status::Rejected | Status::Unsupported, .. }) => return Ok(()),
            Ok(answer) => CallFailure::Failed(String::from_utf8_lossy(&answer.bytes).into_owned()),
            Err(failure) => failure,
        };
        if tries.is_interrupted(&failure) {
            continue;
        }
        tries.failed += 1;
        let attempt = tries.failed;
        metrics::counter!("plugsocket_handler_failures_total", "operation" => "disconnect").increment(1);
        tracing::warn!(%session, reason, attempt, %failure, "disconnect failed");
        if attempt == attempts_max || (matches!(failure, CallFailure::TimedOut) && !is_contained) {
            return Err(failure);
        }
        sleep(backoff(attempt + 1)).await;
    }
}

/// How often a call was made.
#[derive(Default)]
struct Tries {
    failed: u32,
    interruptions: Interruptions,
}

impl Tries {
    /// Whether it is to be made again without counting: its runner ended, for another call's sake or for one that is not known.
    fn is_interrupted(&mut self, failure: &CallFailure) -> bool {
        let CallFailure::Interrupted { is_suspect } = failure else { return false };
        self.interruptions.add(*is_suspect);
        true
    }
}

/// Attempts, and the time limit of each.
fn attempts(node: &Node) -> (u32, Duration) {
    let server = &node.settings.load().server;
    (server.handler_attempts.max(1), server.handler_timeout)
}

fn backoff(attempt: u32) -> Duration {
    RETRY_BACKOFF.saturating_mul(1 << attempt.saturating_sub(2).min(16)).min(RETRY_BACKOFF_MAX)
}

/// One call of the handler.
struct Work<'work> {
    /// Empty for calls that belong to no message.
    message_id: &'work str,
    operation: Operation,
    input: Bytes,
    limit: Duration,
    /// As in [`Call::suspicions`].
    suspicions: u32,
}

async fn call_handler(node: &Arc<Node>, (session, sender): (&SessionId, Option<Sender>), work: Work<'_>) -> Result<Answer, CallFailure> {
    let version = node.plugins.handler().ok_or(CallFailure::NoHandler)?;
    let sink = sink::open(node, &version, work.message_id.to_owned(), Some(session.clone()), sender);
    let call = Call { suspicions: work.suspicions, ..Call::new(work.operation, work.input, sink).within(work.limit) };
    version.callee.call(call).await.map_err(|error| match error {
        CallError::TimedOut | CallError::Late => CallFailure::TimedOut,
        CallError::Interrupted { is_suspect } => CallFailure::Interrupted { is_suspect },
        error => CallFailure::Failed(error.to_string()),
    })
}

//! One instance of a plugin and the way of a call through it: bytes in, the author's method, status and bytes out.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::action::Action;
use crate::call::{ConnectCall, CreateRequest, DisconnectCall, MessageCall, Operation, RejectWire, Role, SYSTEM_ACTIONS, Status};
use crate::config::Config;
use crate::connect::ConnectRequest;
use crate::context::{CallFacts, Context, HostLink};
use crate::export::Definition;
use crate::handler::Handler;
use crate::identity::Identity;
use crate::message::Message;
use crate::outcome::{Failure, Outcome};
use crate::panics;

/// Longest action name, in bytes; what a client's frame allows.
const ACTION_BYTES_MAX: usize = 128;

/// The actions, or the handler, of one library.
pub(crate) struct Instance {
    actions: BTreeMap<&'static str, Box<dyn Action>>,
    handler: Option<Box<dyn Handler>>,
}

impl Instance {
    /// Builds what the request's role asks for. The error is for the operator.
    pub(crate) fn create(definition: &Definition, request: &[u8]) -> Result<Self, String> {
        check_actions(definition)?;
        let request: CreateRequest =
            serde_json::from_slice(request).map_err(|error| format!("the host's request is not readable: {error}"))?;
        let config = Config::from(request.config);
        let mut instance = Self { actions: BTreeMap::new(), handler: None };
        match request.role {
            Role::Handler => {
                let new = definition.handler.ok_or_else(|| {
                    format!(
                        "the plugin `{0}` has no handler: add `handler: …` to its `export_plugin!`, or name another plugin",
                        definition.name
                    )
                })?;
                instance.handler = Some(built("the handler's constructor", || new(&config))?);
            }
            Role::Actions => {
                for (name, new) in definition.actions {
                    match built(&format!("the constructor of `{name}`"), || new(&config)) {
                        Ok(action) => instance.actions.insert(name, action),
                        Err(error) => {
                            instance.shutdown(); // What was built before it may have threads by now.
                            return Err(error);
                        }
                    };
                }
            }
        }
        Ok(instance)
    }

    /// Runs one operation.
    pub(crate) fn call(&self, operation: Operation, input: &[u8], link: Box<dyn HostLink>) -> (Status, Vec<u8>) {
        match (operation, &self.handler) {
            (Operation::Action, _) => self.action(input, link),
            (Operation::Connect, Some(handler)) => connect(handler.as_ref(), input, link),
            (Operation::Disconnect, Some(handler)) => disconnect(handler.as_ref(), input, link),
            (Operation::Loop, Some(handler)) => {
                handler.on_loop(&Context::new(link, CallFacts { attempt: 1, ..CallFacts::default() }));
                (Status::Done, Vec::new())
            }
            (Operation::Fallback, Some(handler)) => message(input, link, |message, context| handler.action(message, context)),
            (_, None) => (Status::Unsupported, b"this instance has no handler".to_vec()),
        }
    }

    fn action(&self, input: &[u8], link: Box<dyn HostLink>) -> (Status, Vec<u8>) {
        message(input, link, |message, context| match self.actions.get(message.action()) {
            Some(action) => action.handle(message, context),
            None => Err(Failure::reject("unavailable", format!("this plugin does not serve the action `{}`", message.action()))),
        })
    }

    /// Ends everything; one that panics does not keep the others from their end.
    pub(crate) fn shutdown(self) {
        for (name, action) in self.actions {
            end(name, "shutdown", || action.shutdown());
            end(name, "drop", || drop(action));
        }
        if let Some(handler) = self.handler {
            end("handler", "shutdown", || handler.shutdown());
            end("handler", "drop", || drop(handler));
        }
    }
}

/// Each step in a guard of its own: an object dropped while another panic unwinds would, if it panics as well, end the process.
fn end(name: &str, step: &str, work: impl FnOnce()) {
    if let Err(panic) = panics::guard(work) {
        tracing::error!(name, panic, "{step} panicked");
    }
}

/// A constructor's result, its panic included.
fn built<T>(what: &str, new: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    match panics::guard(new) {
        Ok(Ok(made)) => Ok(made),
        Ok(Err(error)) => Err(format!("{what} refused: {error}")),
        Err(panic) => Err(format!("{what} panicked: {panic}")),
    }
}

fn check_actions(definition: &Definition) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for (name, _) in definition.actions {
        let fault = if name.is_empty() {
            "is empty".to_owned()
        } else if name.len() > ACTION_BYTES_MAX {
            format!("is longer than {ACTION_BYTES_MAX} bytes")
        } else if name.chars().any(char::is_control) {
            "has control characters".to_owned()
        } else if SYSTEM_ACTIONS.contains(name) {
            "is reserved for the protocol".to_owned()
        } else if !seen.insert(name) {
            "is exported twice".to_owned()
        } else {
            continue;
        };
        return Err(format!("the plugin `{}` can't be loaded: its action {name:?} {fault}", definition.name));
    }
    Ok(())
}

fn message(input: &[u8], link: Box<dyn HostLink>, run: impl FnOnce(&Message, &Context) -> Outcome) -> (Status, Vec<u8>) {
    let call: MessageCall<'_> = match serde_json::from_slice(input) {
        Ok(call) => call,
        Err(error) => return unreadable(&error),
    };
    let facts = CallFacts { message_id: call.meta.message_id.clone(), attempt: call.meta.attempt.max(1), deadline_ms: call.deadline_ms };
    let context = Context::new(link, facts);
    match run(&Message::from_call(call), &context).and_then(crate::outcome::Reply::into_bytes) {
        Ok(reply) => (Status::Done, reply),
        Err(Failure::Reject { code, message }) => encoded(Status::Rejected, &RejectWire { code, message }),
        Err(Failure::Retry(error)) => (Status::Retry, error.into_bytes()),
    }
}

fn connect(handler: &dyn Handler, input: &[u8], link: Box<dyn HostLink>) -> (Status, Vec<u8>) {
    let call: ConnectCall = match decode(input) {
        Ok(call) => call,
        Err(answer) => return answer,
    };
    let context = Context::new(link, CallFacts { attempt: 1, ..CallFacts::default() });
    match handler.connect(&ConnectRequest::from_call(call), &context) {
        Ok(identity) => encoded(Status::Done, identity.wire()),
        Err(refusal) => match refusal.into_wire() {
            Ok(wire) => encoded(Status::Rejected, &wire),
            Err(error) => (Status::Retry, error.into_bytes()),
        },
    }
}

fn disconnect(handler: &dyn Handler, input: &[u8], link: Box<dyn HostLink>) -> (Status, Vec<u8>) {
    let call: DisconnectCall = match decode(input) {
        Ok(call) => call,
        Err(answer) => return answer,
    };
    let context = Context::new(link, CallFacts { attempt: 1, ..CallFacts::default() });
    handler.disconnect(&Identity::from_wire(call.identity), &call.reason, &context);
    (Status::Done, Vec::new())
}

fn decode<T: DeserializeOwned>(input: &[u8]) -> Result<T, (Status, Vec<u8>)> {
    serde_json::from_slice(input).map_err(|error| unreadable(&error))
}

fn unreadable(error: &serde_json::Error) -> (Status, Vec<u8>) {
    (Status::Retry, format!("the host's call is not readable: {error}").into_bytes())
}

fn encoded<T: Serialize>(status: Status, value: &T) -> (Status, Vec<u8>) {
    match serde_json::to_vec(value) {
        Ok(bytes) => (status, bytes),
        Err(error) => (Status::Retry, format!("the answer has no JSON form: {error}").into_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::ActionConstructor;

    const NONE: ActionConstructor = |_| Err("never built".to_owned());

    fn create(actions: &'static [(&'static str, ActionConstructor)], role: &str) -> String {
        let definition = Definition { name: "probe", version: "1.0.0", panic: "unwind", handler: None, actions };
        Instance::create(&definition, format!(r#"{{"role":"{role}"}}"#).as_bytes()).err().unwrap_or_default()
    }

    #[test]
    fn names_that_can_not_be_served_refuse_the_load() {
        let long: &'static str = Box::leak("x".repeat(129).into_boxed_str());
        let cases: [(Vec<(&'static str, ActionConstructor)>, &str); 5] = [
            (vec![("", NONE)], "empty"),
            (vec![("a\nb", NONE)], "control"),
            (vec![(long, NONE)], "128 bytes"),
            (vec![("a", NONE), ("b", NONE), ("a", NONE)], "\"a\" is exported twice"),
            (SYSTEM_ACTIONS.iter().map(|name| (*name, NONE)).collect(), "reserved"),
        ];
        for (actions, named) in cases {
            for role in ["actions", "handler"] {
                let error = create(Vec::leak(actions.clone()), role);
                assert!(error.contains("probe") && error.contains(named), "{error}");
            }
        }
    }

    #[test]
    fn a_role_without_anything_to_play_it_is_refused_or_empty() {
        assert!(create(&[], "handler").contains("has no handler"));
        assert_eq!(create(&[], "actions"), "");
        assert_eq!(create(&[("a", NONE)], "actions"), "the constructor of `a` refused: never built");
    }
}

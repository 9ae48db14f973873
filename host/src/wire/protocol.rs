//! The shapes that clients speak: ours, or those of the PHP package.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::codes::SYSTEM_ACTIONS;
use super::envelope::{ClientId, Envelope, EnvelopeError, EnvelopeLimits};
use super::json::Json;
use super::{flat, frame};

/// What the frames of a server's clients look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// `{"action", "data", "id"?}`, with answers and errors.
    Envelope,
    /// The PHP package's: data's members stand beside `action`; no answers to ids, no errors, no frames of the server's own.
    Flat,
}

impl Protocol {
    /// Reads one text frame.
    ///
    /// # Errors
    /// [`EnvelopeError`]: over a limit, or not a message in these shapes.
    pub fn parse<'frame>(self, frame: &'frame str, limits: &EnvelopeLimits) -> Result<Envelope<'frame>, EnvelopeError> {
        match self {
            Self::Envelope => Envelope::parse(frame, limits),
            Self::Flat => flat::parse(frame, limits),
        }
    }

    /// Whether the server answers this action itself.
    #[must_use]
    pub fn has_system_actions(self) -> bool {
        self == Self::Envelope
    }

    /// Whether the action is the server's own, so that nobody else may send it to clients. Flat clients know one such action only: the others are the
    /// application's, and its front ends may have used them for years.
    #[must_use]
    pub fn reserves(self, action: &str) -> bool {
        match self {
            Self::Envelope => SYSTEM_ACTIONS.contains(&action),
            Self::Flat => action == "register",
        }
    }

    /// Whether somebody other than the server may send this action to clients.
    ///
    /// # Errors
    /// A sentence that says why not.
    pub fn check_action(self, action: &str, action_bytes_max: usize) -> Result<(), String> {
        if self.reserves(action) {
            return Err(format!("`{action}` is a system action; choose another name"));
        }
        if action.is_empty() || action.len() > action_bytes_max || action.chars().any(char::is_control) {
            return Err(format!("the action must have 1 to {action_bytes_max} bytes and no control characters"));
        }
        Ok(())
    }

    /// Whether clients understand errors, answers without data, and what the server says of itself.
    #[must_use]
    pub fn has_system_frames(self) -> bool {
        self == Self::Envelope
    }

    /// Whether a client that does not register is sent away.
    #[must_use]
    pub fn needs_registration(self) -> bool {
        self == Self::Envelope
    }

    /// Whether several sockets may have one connection id: the newest gets what is sent to it, and the others stay.
    #[must_use]
    pub fn shares_ids(self) -> bool {
        self == Self::Flat
    }

    /// A message or a reply.
    #[must_use]
    pub fn message(self, action: &str, id: Option<&ClientId>, data: &Json) -> Bytes {
        match self {
            Self::Envelope => frame::message(action, id, data),
            Self::Flat => flat::message(action, data),
        }
    }

    /// The answer to a registration that was granted: `data` has the handler's fields and the two ids.
    ///
    /// # Errors
    /// When `data` has no JSON form.
    pub fn registered(self, id: Option<&ClientId>, mut data: Map<String, Value>) -> Result<Bytes, serde_json::Error> {
        match self {
            Self::Envelope => Ok(frame::message("registered", id, &Json::encode(&data)?)),
            Self::Flat => {
                data.insert("message".to_owned(), flat::REGISTERED_MESSAGE.into());
                Ok(flat::message(flat::REGISTERED, &Json::encode(&data)?))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_application_owns_every_action_but_one() {
        for action in ["error", "ping", "expiring"] {
            assert!(Protocol::Envelope.check_action(action, 128).unwrap_err().contains("system action"), "{action}");
            assert_eq!(Protocol::Flat.check_action(action, 128), Ok(()), "{action}");
        }
        for protocol in [Protocol::Envelope, Protocol::Flat] {
            assert!(protocol.check_action("register", 128).is_err());
            assert!(protocol.check_action("", 128).is_err() && protocol.check_action("a\n", 128).is_err() && protocol.check_action("abc", 2).is_err());
        }
    }
}

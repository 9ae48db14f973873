//! `echo`: the data back, and which build answered; shows a reload as it happens.

use plugsocket_plugin::prelude::*;

use crate::settings::Settings;

/// The build's own name when it was given one, else the crate's version.
pub const VERSION: &str = match option_env!("PLUGSOCKET_CHAT_BUILD") {
    Some(build) => build,
    None => env!("CARGO_PKG_VERSION"),
};

/// Answers what it was sent.
pub struct Echo;

impl Echo {
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        Settings::read(config).map(|_| Self)
    }
}

impl Action for Echo {
    fn handle(&self, message: &Message, _context: &Context) -> Outcome {
        Ok(Reply::json(json!({ "echo": message.data::<Value>()?, "version": VERSION })))
    }
}

#[cfg(test)]
mod tests {
    use plugsocket_plugin::testing::{self, MockContext};

    use super::*;

    #[test]
    fn says_what_it_heard() {
        for data in [json!({ "a": [1, null] }), json!("text"), Value::Null] {
            let reply = Echo.handle(&testing::message("echo").data(data.clone()).build(), &MockContext::new());
            assert_eq!(reply, Ok(Reply::json(json!({ "echo": data, "version": VERSION }))));
        }
    }
}

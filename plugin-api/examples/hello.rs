//! Greets whoever asks, and everybody else.

use plugsocket_plugin::prelude::*;

struct Hello {
    greeting: String,
}

impl Hello {
    fn new(config: &Config) -> Result<Self, ConfigError> {
        Ok(Self { greeting: config.get("greeting")?.unwrap_or_else(|| "Hello".to_owned()) })
    }
}

impl Action for Hello {
    fn handle(&self, message: &Message, context: &Context) -> Outcome {
        let name: String = message.data()?;
        let text = format!("{}, {name}!", self.greeting);
        context.all().except(message.connection_id()).send("hello", &text)?;
        Ok(Reply::data(&text))
    }
}

export_plugin! {
    name: "hello",
    actions: { "hello" => Hello::new },
}

#[test]
fn greets() {
    use plugsocket_plugin::testing::{self, MockContext};

    let context = MockContext::new();
    let hello = Hello::new(&Config::from(json!({ "greeting": "Ahoy" }))).unwrap();
    let reply = hello.handle(&testing::message("hello").data(json!("Ada")).build(), &context);
    assert_eq!(reply, Ok(Reply::json(json!("Ahoy, Ada!"))));
    assert_eq!(context.sent_as("hello"), [json!("Ahoy, Ada!")]);
}

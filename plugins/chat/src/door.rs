//! The handler: who may chat and under which nickname, what is cleaned up after them, the heartbeat, and messages nobody knows.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use plugsocket_plugin::prelude::*;
use serde::Deserialize;

use crate::settings::Settings;
use crate::{nickname, room};

/// Longest user id, in bytes; the longest nickname makes one of at most 144.
const USER_BYTES_MAX: usize = 200;

/// Characters of the connection's id that name a guest.
const GUEST_CHARS: usize = 4;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Registration {
    nickname: Option<String>,
    user_id: Option<Id>,
}

/// Lets everybody in who has an acceptable nickname.
///
/// This is a demonstration: unless the host checks tokens (`[server.token]`) there is no login, so a client says itself which user it is, and
/// anybody can be anybody.
pub struct Door {
    heartbeat: Duration,
    beaten: Mutex<Instant>,
}

impl Door {
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        Ok(Self { heartbeat: Settings::read(config)?.heartbeat()?, beaten: Mutex::new(Instant::now()) })
    }

    fn is_due(&self, now: Instant) -> bool {
        let mut beaten = self.beaten.lock().unwrap_or_else(PoisonError::into_inner);
        let due = !self.heartbeat.is_zero() && now.duration_since(*beaten) >= self.heartbeat;
        if due {
            *beaten = now;
        }
        due
    }

    fn beat(&self, context: &Context) -> Result<(), ContextError> {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        context.all().send("heartbeat", &json!({ "node_connections": context.connections()?.len(), "time": time }))
    }
}

impl Handler for Door {
    fn connect(&self, request: &ConnectRequest, context: &Context) -> Result<Identity, Refusal> {
        let Registration { nickname, user_id } = request.data::<Option<Registration>>()?.unwrap_or_default();
        let connection = request.connection_id();
        let nickname = nickname.unwrap_or_else(|| guest_name(connection));
        nickname::check(&nickname).map_err(|reason| Refusal::new(reason).keep_open())?;
        // Whoever has a token is who it says; without one anybody can be anybody.
        let user_id = request.claim::<Id>("sub").or(user_id).unwrap_or_else(|| Id::from(nickname.to_lowercase()));
        check_user(&user_id)?;
        context.store().set(&room::nickname_key(connection), &nickname)?;
        Ok(Identity::new().with_user_id(user_id).with_field("nickname", nickname))
    }

    fn disconnect(&self, identity: &Identity, reason: &str, context: &Context) {
        let connection = identity.connection_id();
        if let Err(error) = say_goodbye(identity, reason, context) {
            // The rest expires by itself; the host has taken the connection out of its groups.
            tracing::warn!(connection, %error, "could not clean up after a connection");
        }
    }

    fn on_loop(&self, context: &Context) {
        if self.is_due(Instant::now())
            && let Err(error) = self.beat(context)
        {
            tracing::warn!(%error, "heartbeat was not sent");
        }
    }

    fn action(&self, message: &Message, _context: &Context) -> Outcome {
        let known = crate::ACTIONS.join(", ");
        Err(Failure::reject("unknown_action", format!("the chat does not know `{}`; it knows {known}", message.action())))
    }
}

fn say_goodbye(identity: &Identity, reason: &str, context: &Context) -> Result<(), ContextError> {
    let connection = identity.connection_id();
    // The identity is as `connect` granted it; who was renamed meanwhile leaves under the newest name.
    let newest = context.store().get(&room::nickname_key(&connection))?;
    let nickname = newest.or_else(|| identity.field("nickname")).unwrap_or_else(|| "guest".to_owned());
    for room in room::rooms_of(context, &connection)? {
        let left = json!({ "room": room, "nickname": nickname, "connection_id": connection, "reason": reason });
        context.to_group(room::group(&room)).send("left", &left)?;
    }
    context.store().delete(&room::rooms_key(&connection))?;
    context.store().delete(&room::nickname_key(&connection))?;
    Ok(())
}

fn guest_name(connection: &str) -> String {
    let mut end: Vec<char> = connection.chars().rev().filter(char::is_ascii_alphanumeric).take(GUEST_CHARS).collect();
    end.reverse();
    format!("guest-{}", end.into_iter().collect::<String>())
}

fn check_user(user: &Id) -> Result<(), Refusal> {
    let text = user.to_string();
    if (1..=USER_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Refusal::new(format!("a user id has 1 to {USER_BYTES_MAX} bytes and no control characters")).keep_open())
}

#[cfg(test)]
mod tests {
    use plugsocket_plugin::testing::{self, MockContext};

    use super::*;

    fn door() -> Door {
        Door::new(&Config::default()).unwrap()
    }

    fn register(context: &MockContext, data: Value) -> Result<Identity, Refusal> {
        door().connect(&testing::connect_request("node.abcd1234").data(data).build(), context)
    }

    #[test]
    fn a_nickname_makes_the_user() {
        let context = MockContext::new();
        let identity = register(&context, json!({ "nickname": "Ada L" })).unwrap();
        assert_eq!(identity.field::<String>("nickname").as_deref(), Some("Ada L"));
        assert_eq!(identity.user_id(), Some(&Id::from("ada l")));
        assert_eq!(identity.connection_id(), "", "the proposed id stays");
        assert_eq!(context.store().get("nick:node.abcd1234").unwrap().as_deref(), Some("Ada L"));
        let longest = "\u{1f150}".repeat(24);
        assert_eq!(register(&context, json!({ "nickname": longest })).unwrap().field::<String>("nickname"), Some(longest));
        let identity = register(&context, json!({ "nickname": "Ada", "user_id": 7 })).unwrap();
        assert!(matches!(identity.user_id(), Some(Id::Number(7))), "keeps its JSON type");
    }

    #[test]
    fn a_token_says_who_one_is() {
        let request = testing::connect_request("node.abcd1234").data(json!({ "user_id": 8 })).claims(json!({ "sub": "7" })).build();
        assert_eq!(door().connect(&request, &MockContext::new()).unwrap().user_id(), Some(&Id::from("7")));
    }

    #[test]
    fn without_a_nickname_one_is_a_guest() {
        for data in [Value::Null, json!({})] {
            let identity = register(&MockContext::new(), data).unwrap();
            assert_eq!(identity.field::<String>("nickname").as_deref(), Some("guest-1234"));
        }
    }

    #[test]
    fn refusals_say_why_and_let_the_page_ask_again() {
        let long = "x".repeat(25);
        for (data, named) in [
            (json!({ "nickname": "" }), "1 to 24"),
            (json!({ "nickname": long }), "has 25"),
            (json!({ "nickname": " Ada" }), "spaces"),
            (json!({ "nickname": "<b>" }), "'<'"),
            (json!({ "nickname": "\u{3164}" }), "letters"),
            (json!({ "nickname": "Ada\u{202e}" }), "letters"),
            (json!({ "user_id": "x".repeat(201) }), "200 bytes"),
            (json!({ "nickname": 5 }), "string"),
            (json!({ "user_id": "" }), "user id"),
            (json!({ "user_id": [1] }), "does not fit"),
        ] {
            match register(&MockContext::new(), data) {
                Err(Refusal::Refused { reason, keep_open: true, .. }) => assert!(reason.contains(named), "{reason}"),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn an_unreachable_store_is_not_the_clients_fault() {
        let context = MockContext::new();
        context.fail_with(Some("store is away"));
        assert_eq!(register(&context, json!({})), Err(Refusal::Failed("store is away".to_owned())));
    }

    #[test]
    fn disconnect_tells_the_rooms_and_cleans_up() {
        let context = MockContext::new();
        context.store().set_json("rooms:c1", &["lobby", "attic"]).unwrap();
        context.store().set("nick:c1", "Ada").unwrap();
        let identity = Identity::new().with_connection_id("c1").with_field("nickname", "Ada");
        door().disconnect(&identity, "idle", &context);
        let left = |room| json!({ "room": room, "nickname": "Ada", "connection_id": "c1", "reason": "idle" });
        assert_eq!(context.sent_as("left"), [left("lobby"), left("attic")]);
        assert_eq!(context.store().get("rooms:c1").unwrap(), None);
        assert_eq!(context.store().get("nick:c1").unwrap(), None);
    }

    #[test]
    fn who_was_renamed_leaves_under_the_newest_name() {
        let identity = Identity::new().with_connection_id("c1").with_field("nickname", "Ada");
        for (stored, told) in [(Some("Eve"), "Eve"), (None, "Ada")] {
            let context = MockContext::new();
            context.store().set_json("rooms:c1", &["lobby"]).unwrap();
            if let Some(nickname) = stored {
                context.store().set("nick:c1", nickname).unwrap();
            }
            door().disconnect(&identity, "client", &context);
            assert_eq!(context.sent_as("left")[0]["nickname"], told);
        }
    }

    #[test]
    fn the_heartbeat_keeps_its_pause() {
        let (door, now) = (door(), Instant::now());
        assert!(!door.is_due(now + Duration::from_secs(9)));
        assert!(door.is_due(now + Duration::from_secs(11)));
        assert!(!door.is_due(now + Duration::from_secs(20)));
        let silent = Door::new(&Config::from(json!({ "heartbeat": "0s" }))).unwrap();
        assert!(!silent.is_due(now + Duration::from_secs(3600)));
        let context = MockContext::new().with_connection("c1", None, &[]).with_connection("c2", None, &[]);
        door.beat(&context).unwrap();
        assert_eq!(context.sent_as("heartbeat")[0]["node_connections"], 2);
    }

    #[test]
    fn the_fallback_names_what_there_is() {
        let outcome = door().action(&testing::message("dance").build(), &MockContext::new());
        let Err(Failure::Reject { code, message }) = outcome else { panic!("{outcome:?}") };
        assert_eq!(code, "unknown_action");
        assert!(message.contains("`dance`") && message.contains("history"), "{message}");
    }
}

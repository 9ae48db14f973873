//! The PHP package's config, read and checked: what each key may be, and words for what it may not.

use serde_json::{Map, Value};

/// Keys of `clients/php`, which reads them in PHP's own config.
const CLIENT_KEYS: [&str; 8] = ["transport", "connection", "url", "token", "timeout", "limit", "protocol", "secret"];
/// Longest text of a value that is kept as a comment.
const KEPT_CHARS_MAX: usize = 200;
/// Words in the name of a key whose value may be secret.
const SECRET_WORDS: [&str; 10] = ["secret", "passw", "passphrase", "pwd", "token", "key", "auth", "credential", "salt", "dsn"];
/// Longer ones are no names.
const NAME_BYTES_MAX: usize = 1024;
/// Most actions; each is a line.
const ACTIONS_MAX: usize = 10_000;

/// Why the config can't be used: a key, and what is wrong with it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{reason}", if key.is_empty() { String::new() } else { format!("`{key}`: ") })]
pub(super) struct PackageError {
    /// The key in PHP's file, dotted; empty for the whole.
    pub key: String,
    /// What is wrong with it, and what to do.
    pub reason: String,
}

/// The config of `jithinjose2/websocket` v2.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Package {
    /// Where it listens; absent = localhost.
    pub host: Option<String>,
    /// The port; absent = 8000.
    pub port: Option<u16>,
    /// Whether it has been meant to speak TLS.
    pub ssl: bool,
    /// The class that admits clients.
    pub handler: Option<String>,
    /// Action → class, by name.
    pub actions: Vec<(String, String)>,
    /// The name in its two lists.
    pub queue_name: Option<String>,
    /// Which Redis connection `clients/php` uses.
    pub connection: Option<String>,
    /// Keys of `clients/php` that are there.
    pub client_keys: Vec<String>,
    /// Keys that neither knows, with their values in a few characters.
    pub unknown: Vec<(String, String)>,
}

impl Package {
    /// Reads what PHP's file returned.
    ///
    /// # Errors
    /// [`PackageError`]: no array, or a key with a value that can't be meant.
    pub fn read(value: &Value) -> Result<Self, PackageError> {
        let fault = |reason: String| PackageError { key: String::new(), reason };
        let members = match value {
            Value::Object(members) if php_type(value).is_none() => members,
            Value::Array(items) if items.is_empty() => return Err(fault("returns an empty array: there is nothing to import".to_owned())),
            Value::Array(_) => return Err(fault("returns a list: the keys are host, port, handler, actions, queue_name".to_owned())),
            Value::Null => return Err(fault("is null: there is no such config, or the file returns none".to_owned())),
            other => return Err(fault(format!("must return an array, and returns {}", described(other)))),
        };
        let mut package = Self::default();
        for (key, value) in members {
            let fault = |reason: String| PackageError { key: key.clone(), reason };
            match key.as_str() {
                "host" => package.host = optional(value, text).map_err(fault)?,
                "port" => package.port = optional(value, port).map_err(fault)?,
                "ssl" => package.ssl = optional(value, truth).map_err(fault)?.unwrap_or(false),
                "handler" => package.handler = optional(value, class).map_err(fault)?,
                "queue_name" => package.queue_name = optional(value, text).map_err(fault)?,
                "actions" => package.actions = actions(value)?,
                _ if CLIENT_KEYS.contains(&key.as_str()) => {
                    package.client_keys.push(key.clone());
                    if key == "connection" {
                        package.connection = value.as_str().map(ToOwned::to_owned);
                    }
                }
                _ => package.unknown.push((key.clone(), kept(key, value))),
            }
        }
        Ok(package)
    }
}

/// `null` is as good as a key that is not there: `env()` without a default gives it. So is an empty text, which no key may be.
fn optional<T>(value: &Value, read: impl FnOnce(&Value) -> Result<T, String>) -> Result<Option<T>, String> {
    if value.is_null() || value.as_str() == Some("") { Ok(None) } else { read(value).map(Some) }
}

fn text(value: &Value) -> Result<String, String> {
    let text = value.as_str().ok_or_else(|| format!("must be a text, and is {}", described(value)))?;
    if text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control) {
        return Err("is too long, or has control characters".to_owned());
    }
    Ok(text.to_owned())
}

fn port(value: &Value) -> Result<u16, String> {
    let number = match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let port = number.and_then(|number| u16::try_from(number).ok()).filter(|port| *port > 0);
    port.ok_or_else(|| format!("must be a number from 1 to 65535, and is {}", described(value)))
}

fn truth(value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("must be true or false, and is {}", described(value)))
}

/// A class's name, as it stands: `websocket:work` is given just what the package's own server would have given it.
fn class(value: &Value) -> Result<String, String> {
    let name =
        value.as_str().ok_or_else(|| format!("must be the name of a class, such as ChatText::class, and is {}", described(value)))?;
    let is_word = |part: &str| {
        let is_letter = |character: char| character == '_' || character.is_ascii_alphabetic() || !character.is_ascii();
        part.starts_with(is_letter) && part.chars().all(|character| is_letter(character) || character.is_ascii_digit())
    };
    let is_class = name.len() <= NAME_BYTES_MAX && name.strip_prefix('\\').unwrap_or(name).split('\\').all(is_word);
    if is_class {
        Ok(name.to_owned())
    } else {
        Err(format!("{} is no name of a class, such as \\Chat\\Actions\\ChatText", described(value)))
    }
}

fn actions(value: &Value) -> Result<Vec<(String, String)>, PackageError> {
    let fault = |reason: String| PackageError { key: "actions".to_owned(), reason };
    let members = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(items) if items.is_empty() => return Ok(Vec::new()),
        Value::Object(members) if php_type(value).is_none() => members,
        Value::Array(_) => {
            return Err(fault("is a list: it must say which class serves which action: 'chat_text' => ChatText::class".to_owned()));
        }
        other => return Err(fault(format!("must be an array such as ['chat_text' => ChatText::class], and is {}", described(other)))),
    };
    if members.len() > ACTIONS_MAX {
        return Err(fault(format!("has {} actions; the most are {ACTIONS_MAX}", members.len())));
    }
    members.iter().map(|(name, value)| action(name, value)).collect()
}

fn action(name: &str, value: &Value) -> Result<(String, String), PackageError> {
    let fault = |reason: String| Err(PackageError { key: format!("actions.{}", shown(name)), reason });
    if name == "register" {
        return fault(
            "is answered by the server itself, and the PHP package never ran it either: remove it, or give it another name".to_owned(),
        );
    }
    if name.is_empty() || name.chars().any(char::is_control) {
        return fault("is no usable action name: empty, or with control characters".to_owned());
    }
    match class(value) {
        Ok(class) => Ok((name.to_owned(), class)),
        Err(reason) => fault(reason),
    }
}

/// What PHP has that JSON has not: an object's class, or the kind of value.
fn php_type(value: &Value) -> Option<&str> {
    let members = value.as_object()?;
    if members.len() == 1 { members.get("__php")?.as_str() } else { None }
}

/// A value in a few characters.
fn described(value: &Value) -> String {
    match (php_type(value), value) {
        (Some("Closure"), _) => "a closure, which no file can hold".to_owned(),
        (Some(kind), _) => format!("of PHP's type {}", shown(kind)),
        (None, Value::Object(members)) => format!("an array of {}", members.len()),
        (None, Value::Array(items)) => format!("a list of {}", items.len()),
        (None, value) => shown(&value.to_string()),
    }
}

/// A value as a comment keeps it; what may be secret is not shown.
fn kept(key: &str, value: &Value) -> String {
    let key = key.to_lowercase();
    let is_secret = |key: &str| SECRET_WORDS.iter().any(|word| key.contains(word));
    fn has_login(value: &Value) -> bool {
        match value {
            Value::Object(members) => members.values().any(has_login),
            Value::Array(items) => items.iter().any(has_login),
            Value::String(text) => text.split_once("://").is_some_and(|(_, place)| place.contains('@')),
            _ => false,
        }
    }
    fn any_key(value: &Value, test: &dyn Fn(&str) -> bool) -> bool {
        let inside = |members: &Map<String, Value>| members.iter().any(|(key, value)| test(&key.to_lowercase()) || any_key(value, test));
        match value {
            Value::Object(members) => inside(members),
            Value::Array(items) => items.iter().any(|item| any_key(item, test)),
            _ => false,
        }
    }
    if is_secret(&key) || any_key(value, &is_secret) || has_login(value) { "(not shown)".to_owned() } else { shown(&value.to_string()) }
}

/// One line of bounded length.
pub(super) fn shown(text: &str) -> String {
    let text = crate::tool::print::clean(text);
    match text.char_indices().nth(KEPT_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(value: &Value) -> String {
        Package::read(value).expect_err("accepted").to_string()
    }

    #[test]
    fn what_the_package_ships_is_read() {
        let package = Package::read(&json!({
            "host": "localhost", "port": "8000", "ssl": false, "handler": "\\Chat\\Wshandle", "queue_name": "chat",
            "actions": {"zebra": "A", "chat_text": "Chat\\Actions\\ChatText"}, "transport": "redis", "connection": "queue", "motto": "hi", "api_key": "k"
        }))
        .unwrap();
        let actions = [("chat_text", "Chat\\Actions\\ChatText"), ("zebra", "A")];
        assert_eq!(package.actions, actions.map(|(name, class)| (name.to_owned(), class.to_owned())));
        assert_eq!((package.host.as_deref(), package.port, package.ssl), (Some("localhost"), Some(8000), false));
        assert_eq!(package.connection.as_deref(), Some("queue"));
        assert_eq!(package.client_keys, ["connection", "transport"]);
        assert_eq!(package.unknown, [("api_key".to_owned(), "(not shown)".to_owned()), ("motto".to_owned(), "\"hi\"".to_owned())]);
        let nothing = Package::read(&json!({"host": "", "port": null, "ssl": null, "actions": [], "handler": "", "queue_name": null}));
        assert_eq!(nothing, Ok(Package::default()));
    }

    #[test]
    fn what_can_not_be_meant_is_refused_with_its_key() {
        for (value, words) in [
            (json!(null), "is null"),
            (json!(1), "must return an array, and returns 1"),
            (json!([]), "empty array"),
            (json!(["a"]), "returns a list"),
            (json!({"__php": "Closure"}), "returns a closure"),
            (json!({"port": "abc"}), "`port`: must be a number from 1 to 65535, and is \"abc\""),
            (json!({"port": 0}), "`port`: "),
            (json!({"port": 65536}), "`port`: "),
            (json!({"port": 80.5}), "and is 80.5"),
            (json!({"port": true}), "and is true"),
            (json!({"host": 7}), "`host`: must be a text, and is 7"),
            (json!({"host": "a\nb"}), "control characters"),
            (json!({"ssl": "yes"}), "`ssl`: must be true or false, and is \"yes\""),
            (json!({"handler": {"__php": "Closure"}}), "`handler`: must be the name of a class, such as ChatText::class, and is a closure"),
            (json!({"handler": "a b"}), "is no name of a class"),
            (json!({"actions": "Chat"}), "`actions`: must be an array"),
            (json!({"actions": ["A", "B"]}), "`actions`: is a list"),
            (json!({"actions": {"__php": "ArrayObject"}}), "of PHP's type ArrayObject"),
            (json!({"actions": {"chat": 7}}), "`actions.chat`: must be the name of a class"),
            (json!({"actions": {"chat": ["A", "run"]}}), "and is a list of 2"),
            (json!({"actions": {"chat": {"__php": "Closure"}}}), "a closure, which no file can hold"),
            (json!({"actions": {"chat": ""}}), "is no name of a class"),
            (json!({"actions": {"chat": "\\\\A"}}), "is no name of a class"),
            (json!({"actions": {"register": "A"}}), "`actions.register`: is answered by the server itself"),
            (json!({"actions": {"": "A"}}), "no usable action name"),
            (json!({"actions": {"a\u{1b}": "A"}}), "`actions.a\\u{1b}`"),
            (json!({"queue_name": []}), "`queue_name`: must be a text, and is a list of 0"),
        ] {
            let said = refused(&value);
            assert!(said.contains(words), "{value}: {said}");
        }
    }

    #[test]
    fn what_is_kept_is_one_line_and_no_secret() {
        assert_eq!(kept("motto", &json!("a\nb")), "\"a\\nb\"");
        assert_eq!(kept("x", &json!({"y": [{"Db_Password": "p"}]})), "(not shown)");
        for (key, value) in [("pwd", json!("p")), ("api_credentials", json!("p")), ("broker", json!([{"at": "amqp://u:p@h"}]))] {
            assert_eq!(kept(key, &value), "(not shown)", "{key}");
        }
        assert!(kept("x", &json!("y".repeat(1000))).ends_with('…'));
        for name in ["\\A\\B", "A", "Ä\\B1", "_x"] {
            assert_eq!(class(&json!(name)), Ok(name.to_owned()), "as it stands");
        }
    }
}

//! Laravel's `database.redis` as the URL of `queue` and the prefix of `[php]`.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};

/// Everything that could end a part of a URL.
const PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const SLASHED: &AsciiSet = &PART.remove(b'/');
const DEFAULT_PORT: &str = "6379";

/// Where the application's Redis is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// For `queue`; absent when it can't be told.
    pub url: Option<String>,
    /// The URL has a password in it.
    pub has_password: bool,
    /// What the application's client puts before every key; absent when it is not known.
    pub prefix: Option<String>,
    /// What is to be said about it.
    pub notes: Vec<String>,
}

/// Reads `redis`, Laravel's `database.redis`, for its connection `name`.
pub(super) fn place(redis: &Value, name: &str) -> Place {
    let mut place = Place::default();
    let Some(redis) = redis.as_object() else { return place };
    let connection = redis.get(name).and_then(Value::as_object);
    let shared = redis.get("options").and_then(|options| options.get("prefix"));
    let own = connection.and_then(|own| own.get("prefix").or_else(|| own.get("options")?.get("prefix")));
    place.prefix = own.or(shared).and_then(word);
    if redis.get("clusters").and_then(|clusters| clusters.get(name)).is_some() {
        place
            .notes
            .push(format!("the connection `{name}` is a Redis Cluster: put the URL of one of its nodes into `queue` (docs/operations.md)"));
        return place;
    }
    let Some(connection) = connection else {
        place.notes.push(format!("database.redis has no connection `{name}`: set `queue` yourself"));
        return place;
    };
    match url(connection) {
        Ok((url, has_password)) => (place.url, place.has_password) = (Some(url), has_password),
        Err(why) => place.notes.push(format!("the connection `{name}` {why}: set `queue` yourself")),
    }
    place
}

/// The URL, and whether a password is in it.
fn url(connection: &Map<String, Value>) -> Result<(String, bool), &'static str> {
    let text = |key: &str| connection.get(key).and_then(word).filter(|text| !text.is_empty());
    if let Some(url) = text("url") {
        // Laravel's own names for the two, and what it puts into the URL stands before what is beside it.
        let url = url.replacen("tcp://", "redis://", 1).replacen("tls://", "rediss://", 1);
        if !["redis://", "rediss://", "unix://"].iter().any(|scheme| url.starts_with(scheme)) || url.contains(['#', ' ']) {
            return Err("has a `url` that is not redis://, rediss://, tcp://, tls:// or unix://");
        }
        let has_password = url.split_once('@').is_some_and(|(before, _)| before.matches(':').count() > 1) || url.contains("pass=");
        return Ok((url, has_password));
    }
    if connection.get("host").is_some_and(Value::is_array) {
        return Err("has several hosts");
    }
    let (username, password) = (text("username"), text("password"));
    let encoded = |text: &str| utf8_percent_encode(text, PART).to_string();
    let database = text("database").filter(|number| number != "0");
    let path = text("path").or_else(|| text("host").and_then(|host| host.strip_prefix("unix:").map(ToOwned::to_owned)));
    if let Some(path) = path.or_else(|| text("host").filter(|host| host.starts_with('/'))) {
        let path = format!("/{}", path.trim_start_matches('/'));
        let parts = [("db", database), ("user", username), ("pass", password.clone())];
        let query: Vec<String> = parts.iter().filter_map(|(key, value)| Some(format!("{key}={}", encoded(value.as_ref()?)))).collect();
        let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
        return Ok((format!("unix://{}{query}", utf8_percent_encode(&path, SLASHED)), password.is_some()));
    }
    let host = text("host").ok_or("names no host")?;
    let (scheme, host) =
        host.split_once("://").map_or((text("scheme").unwrap_or_default(), host.as_str()), |(scheme, host)| (scheme.to_owned(), host));
    let scheme = if matches!(scheme.as_str(), "tls" | "ssl" | "rediss") { "rediss" } else { "redis" };
    let is_v6 = host.contains(':') && !host.starts_with('[');
    if host.contains(['/', '@', '?', '#', ' ']) {
        return Err("has a `host` that is none");
    }
    let host = if is_v6 { format!("[{host}]") } else { host.to_owned() };
    let login = match (username, &password) {
        (None, None) => String::new(),
        (name, password) => format!("{}:{}@", encoded(&name.unwrap_or_default()), encoded(password.as_deref().unwrap_or_default())),
    };
    let port = text("port").unwrap_or_else(|| DEFAULT_PORT.to_owned());
    if port.parse::<u16>().is_err() {
        return Err("has a `port` that is no number");
    }
    let database = database.map_or(String::new(), |number| format!("/{number}"));
    Ok((format!("{scheme}://{login}{host}:{port}{database}"), password.is_some()))
}

/// A text, or a number by its digits: `env()` gives texts, a config may have either.
fn word(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_way_to_write_a_connection_is_understood() {
        for (connection, url, has_password) in [
            (json!({"host": "127.0.0.1", "password": null, "port": "6379", "database": "0"}), "redis://127.0.0.1:6379", false),
            (json!({"host": "cache", "password": "p@:/#", "port": 6380, "database": 2}), "redis://:p%40%3A%2F%23@cache:6380/2", true),
            (json!({"host": "cache", "username": "web", "password": "p"}), "redis://web:p@cache:6379", true),
            (json!({"host": "tls://cache"}), "rediss://cache:6379", false),
            (json!({"host": "cache", "scheme": "tls"}), "rediss://cache:6379", false),
            (json!({"host": "::1"}), "redis://[::1]:6379", false),
            (
                json!({"host": "/run/redis.sock", "port": 0, "password": "p q", "database": "1"}),
                "unix:///run/redis.sock?db=1&pass=p%20q",
                true,
            ),
            (json!({"scheme": "unix", "path": "/run/redis.sock"}), "unix:///run/redis.sock", false),
            (json!({"url": "tcp://:p@h:1?x=1", "host": "other"}), "redis://:p@h:1?x=1", true),
            (json!({"url": "tls://h:1"}), "rediss://h:1", false),
        ] {
            let found = place(&json!({"default": connection}), "default");
            assert_eq!((found.url.as_deref(), found.has_password), (Some(url), has_password), "{found:?}");
        }
    }

    #[test]
    fn what_has_no_url_is_said() {
        for (redis, words) in [
            (json!({}), "no connection `default`"),
            (json!({"default": {"host": ["a", "b"]}}), "several hosts"),
            (json!({"default": {"port": 1}}), "names no host"),
            (json!({"default": {"url": "http://x"}}), "`url` that is not"),
            (json!({"default": {"url": "rediss://x#insecure"}}), "`url` that is not"),
            (json!({"default": {"host": "a/b"}}), "`host` that is none"),
            (json!({"default": {"host": "a", "port": "x"}}), "`port` that is no number"),
            (json!({"clusters": {"default": [{"host": "a"}]}}), "is a Redis Cluster"),
        ] {
            let found = place(&redis, "default");
            assert!(found.url.is_none() && found.notes.iter().any(|note| note.contains(words)), "{redis}: {found:?}");
        }
        assert_eq!(place(&Value::Null, "default"), Place::default());
    }

    #[test]
    fn the_prefix_nearest_to_the_connection_counts() {
        let redis = json!({"options": {"prefix": "app_"}, "default": {"host": "a"}, "a": {"host": "a", "prefix": ""}, "b": {"host": "b", "options": {"prefix": "b_"}}});
        for (name, prefix) in [("default", "app_"), ("a", ""), ("b", "b_")] {
            assert_eq!(place(&redis, name).prefix.as_deref(), Some(prefix));
        }
        assert_eq!(place(&json!({"default": {"host": "a"}}), "default").prefix, None);
    }
}

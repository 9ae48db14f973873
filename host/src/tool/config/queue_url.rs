//! Laravel's `database.redis` as the URL of `queue` and the prefix of `[php]`.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
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
        place.notes.push(format!(
            "the connection `{name}` is a Redis Cluster, which the server does not speak to yet: set `queue` to a Redis of its own"
        ));
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
    let Some(url) = connection.get("url").and_then(word).filter(|url| !url.is_empty()) else { return url_of_parts(connection) };
    if url.starts_with("unix://") && !url.contains(['#', ' ']) {
        let has_password = url.contains("pass=");
        return Ok((url, has_password));
    }
    url_of_parts(&with_parts_of(&url, connection)?)
}

/// The connection with what its `url` says of it: as in Laravel, that stands before what is beside it, and what it leaves out does not.
fn with_parts_of(url: &str, connection: &Map<String, Value>) -> Result<Map<String, Value>, &'static str> {
    const WRONG: &str = "has a `url` that is not redis://, rediss://, tcp://, tls:// or unix://";
    let (scheme, rest) = url.split_once("://").ok_or(WRONG)?;
    if !["redis", "rediss", "tcp", "tls"].contains(&scheme) || url.contains(['#', ' ']) {
        return Err(WRONG);
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    if database.contains(['@', ':']) {
        return Err("has a `url` with a password that is not percent-encoded");
    }
    let (login, place) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (username, password) = login.split_once(':').unwrap_or((login, ""));
    // What is behind the brackets of an IPv6 address, or all of another.
    let behind = place.rfind(']').map_or(0, |end| end + 1);
    let (host, port) = place[behind..].find(':').map_or((place, ""), |at| (&place[..behind + at], &place[behind + at + 1..]));
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let mut parts = connection.clone();
    let scheme = if matches!(scheme, "rediss" | "tls") { Some("tls") } else { None };
    for (key, part) in [("host", host), ("port", port), ("username", username), ("password", password), ("database", database)] {
        if !part.is_empty() {
            parts.insert(key.to_owned(), decoded(part).into());
        }
    }
    for (key, value) in query.split('&').filter_map(|option| option.split_once('=')) {
        parts.insert(decoded(key), decoded(&value.replace('+', " ")).into());
    }
    parts.extend(scheme.map(|scheme| ("scheme".to_owned(), scheme.into())));
    Ok(parts)
}

fn url_of_parts(connection: &Map<String, Value>) -> Result<(String, bool), &'static str> {
    let text = |key: &str| connection.get(key).and_then(word).filter(|text| !text.is_empty());
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
    // Laravel logs in only when there is a password.
    let login =
        password.as_deref().map_or(String::new(), |password| format!("{}:{}@", encoded(&username.unwrap_or_default()), encoded(password)));
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
            (json!({"url": "tcp://:p@h:1?x=1", "host": "other"}), "redis://:p@h:1", true),
            (json!({"url": "tls://h:1"}), "rediss://h:1", false),
            (json!({"url": "redis://h", "port": "1", "password": "p", "database": "3"}), "redis://:p@h:1/3", true),
            (json!({"url": "redis://u%40:p%3A@[::1]:2/4", "password": "q", "database": "3"}), "redis://u%40:p%3A@[::1]:2/4", true),
            (json!({"url": "redis://h?password=a+b&database=2", "port": 1}), "redis://:a%20b@h:1/2", true),
            (json!({"host": "h", "username": "default"}), "redis://h:6379", false),
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
            (json!({"default": {"url": "redis://:a/b@x"}}), "not percent-encoded"),
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

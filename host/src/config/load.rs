//! From a file, the environment and flags to checked settings; every error names its file, line, key and reason.

use std::ffi::OsString;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::de::{DeTable, DeValue};

use super::check::{Fault, check};
use super::settings::Settings;

/// Variables with this prefix override keys: `PLUGSOCKET_SERVER__LISTEN` is `server.listen`.
const ENV_PREFIX: &str = "PLUGSOCKET_";
/// Variables with the prefix that are not keys of the file.
const ENV_OTHER: [&str; 2] = ["PLUGSOCKET_CONFIG", "PLUGSOCKET_CHAT_BUILD"];

/// What a cluster sets in every container beside a service called `plugsocket`; none of it is meant for us.
const ENV_SERVICE: [&str; 3] = ["PLUGSOCKET_SERVICE_HOST", "PLUGSOCKET_SERVICE_PORT", "PLUGSOCKET_PORT"];

/// One key set from outside of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// Where it comes from, for errors: a variable's name or a flag.
    pub source: String,
    /// The key, dotted.
    pub key: String,
    /// Its value: TOML, or plain text.
    pub value: String,
}

/// Why a config can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{path} can't be read (--config FILE names another)")]
    Read {
        /// The file.
        path: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// An edit left nothing in it: most often an editor is about to write it anew.
    #[error("{path} is empty")]
    Empty {
        /// The file.
        path: String,
    },
    /// Something in the file is wrong.
    #[error("{path}:{line}: {}{reason}", KeyPrefix(key))]
    File {
        /// The file.
        path: String,
        /// The line, from 1.
        line: usize,
        /// The key, dotted; empty when it is not known.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something set from outside of the file is wrong.
    #[error("{source_name}: {}{reason}", KeyPrefix(key))]
    Outside {
        /// The variable or flag.
        source_name: String,
        /// The key, dotted.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
}

struct KeyPrefix<'key>(&'key str);

impl fmt::Display for KeyPrefix<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(formatter, "`{}`: ", self.0) }
    }
}

/// The overrides in the environment, sorted by name. Names and values that are not text are no keys of ours, or will be told as wrong.
pub fn environment(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Vec<Override> {
    let is_service = |name: &str| {
        ENV_SERVICE.iter().any(|known| name.strip_prefix(known).is_some_and(|tail| tail.is_empty() || tail.starts_with('_')))
            && !name.contains("__")
    };
    let mut overrides: Vec<_> = variables
        .into_iter()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
        .filter(|(name, _)| !ENV_OTHER.contains(&name.as_str()) && !is_service(name))
        .filter_map(|(name, value)| {
            let key = name.strip_prefix(ENV_PREFIX)?.to_lowercase().replace("__", ".");
            Some(Override { source: name, key, value })
        })
        .collect();
    overrides.sort_by(|one, two| one.source.cmp(&two.source));
    overrides
}

/// Reads `path`, applies `overrides` in their order, checks the whole. Relative paths in it are resolved against the file's folder.
///
/// # Errors
/// [`ConfigError`], naming where and why.
pub fn load(path: &Path, overrides: &[Override]) -> Result<Settings, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.display().to_string(), source })?;
    load_text(path, &text, overrides)
}

/// Reads and checks `text` as [`load`] would if it stood in `path`.
///
/// # Errors
/// [`ConfigError`], naming where and why.
pub fn check_text(path: &Path, text: &str) -> Result<Settings, ConfigError> {
    load_text(path, text, &[])
}

/// As [`load`], with the file's text already read.
pub(super) fn load_text(path: &Path, text: &str, overrides: &[Override]) -> Result<Settings, ConfigError> {
    let mut settings = parse(path, text, overrides)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    // Against the current folder once and for all, so that it does not matter where the process goes later.
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let options = &mut settings.queue_options;
    let (tls, token) = (&mut settings.server.tls, &mut settings.server.token);
    let files = [&mut options.tls_ca_file, &mut options.tls_cert_file, &mut options.tls_key_file, &mut tls.cert_file, &mut tls.key_file];
    let files = files.into_iter().flatten().chain(token.keys.iter_mut().map(|key| &mut key.file));
    for path in [&mut settings.plugins_dir, &mut settings.state_dir, &mut settings.plugins_lock].into_iter().chain(files) {
        *path = normalize(&folder.join(&*path));
    }
    Ok(settings)
}

/// `a/config/../plugins` is shown as `a/plugins`; text only, so that a missing folder is no error here.
fn normalize(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut clean, component| {
        match component {
            std::path::Component::ParentDir if clean.file_name().is_some() => {
                clean.pop();
            }
            other => clean.push(other),
        }
        clean
    })
}

fn parse(path: &Path, text: &str, overrides: &[Override]) -> Result<Settings, ConfigError> {
    let in_file = |span: Option<Range<usize>>, key: Option<String>, reason: &str| {
        let offset = span.map_or(0, |span| span.start);
        ConfigError::File {
            path: path.display().to_string(),
            line: line_of(text, offset),
            key: key.unwrap_or_else(|| key_at(text, offset)),
            reason: reason.trim_end().to_owned(),
        }
    };
    let mut settings: Settings = toml::from_str(text).map_err(|error| in_file(error.span(), None, error.message()))?;
    let mut table: toml::Table = toml::from_str(text).map_err(|error| in_file(error.span(), None, error.message()))?;
    for one in overrides {
        let outside = |reason: String| ConfigError::Outside { source_name: one.source.clone(), key: one.key.clone(), reason };
        set(&mut table, &one.key, value_of(&one.value)).map_err(outside)?;
        // After each one, so that the one to blame is known.
        settings = match Settings::deserialize(table.clone()) {
            Ok(settings) => settings,
            Err(error) => {
                // A name or token may look like a number, and need not be quoted for that.
                set(&mut table, &one.key, toml::Value::String(one.value.clone())).map_err(outside)?;
                Settings::deserialize(table.clone()).map_err(|_| outside(error.message().trim_end().to_owned()))?
            }
        };
    }
    check(&settings).map_err(|Fault { key, reason }| match overrides.iter().rev().find(|one| one.key == key) {
        Some(one) => ConfigError::Outside { source_name: one.source.clone(), key, reason },
        None => {
            let span = span_of(text, &key);
            in_file(span, Some(key), &reason)
        }
    })?;
    Ok(settings)
}

/// `value` as TOML when it is that, else as text: addresses and names need no quotes in the environment.
fn value_of(value: &str) -> toml::Value {
    toml::from_str::<toml::Table>(&format!("value = {value}"))
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.to_owned()))
}

fn set(table: &mut toml::Table, key: &str, value: toml::Value) -> Result<(), String> {
    let (parents, last) = key.rsplit_once('.').map_or((None, key), |(parents, last)| (Some(parents), last));
    let mut place = table;
    for part in parents.into_iter().flat_map(|parents| parents.split('.')) {
        let child = place.entry(part).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        place = child.as_table_mut().ok_or_else(|| format!("`{part}` is not a table"))?;
    }
    place.insert(last.to_owned(), value);
    Ok(())
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// The dotted key whose text or value holds `offset`; empty when the file does not parse that far.
fn key_at(text: &str, offset: usize) -> String {
    let (table, _) = DeTable::parse_recoverable(text);
    let mut path = Vec::new();
    let mut place = Some(table.get_ref());
    while let Some(table) = place.take() {
        for (key, value) in table {
            let child = value.get_ref().as_table();
            if key.span().contains(&offset) || value.span().contains(&offset) || child.is_some_and(|child| holds(child, offset)) {
                path.push(key.get_ref().to_string());
                place = child;
                break;
            }
        }
    }
    path.join(".")
}

/// The span of a table is its header's only; its keys may stand anywhere below.
fn holds(table: &DeTable<'_>, offset: usize) -> bool {
    table.iter().any(|(key, value)| {
        key.span().contains(&offset)
            || value.span().contains(&offset)
            || value.get_ref().as_table().is_some_and(|child| holds(child, offset))
    })
}

fn span_of(text: &str, dotted: &str) -> Option<Range<usize>> {
    let (table, _) = DeTable::parse_recoverable(text);
    let mut place: Option<&DeTable<'_>> = Some(table.get_ref());
    let mut span = None;
    // An action's name may have dots itself: the longest key that fits comes first.
    let mut rest = dotted;
    while let Some(table) = place.take() {
        let fits = |key: &str| rest.strip_prefix(key).is_some_and(|tail| tail.is_empty() || tail.starts_with('.'));
        let Some((key, value)) = table.iter().filter(|(key, _)| fits(key.get_ref())).max_by_key(|(key, _)| key.get_ref().len()) else {
            break;
        };
        span = Some(key.span());
        rest = rest[key.get_ref().len()..].trim_start_matches('.');
        place = match value.get_ref() {
            DeValue::Table(child) if !rest.is_empty() => Some(child),
            _ => None,
        };
    }
    span
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SHIPPED: &str = include_str!("../../../config/plugsocket.toml");

    fn parse_text(text: &str) -> Result<Settings, String> {
        parse(Path::new("x.toml"), text, &[]).map_err(|error| error.to_string())
    }

    fn with(source: &str, key: &str, value: &str) -> Vec<Override> {
        vec![Override { source: source.to_owned(), key: key.to_owned(), value: value.to_owned() }]
    }

    #[test]
    fn the_shipped_file_states_every_key_and_its_default() {
        let shipped = parse_text(SHIPPED).unwrap();
        let defaults = Settings {
            server: super::super::ServerSettings { handler: Some("chat".to_owned()), ..Default::default() },
            actions: shipped.actions.clone(),
            plugins: shipped.plugins.clone(),
            ..Settings::default()
        };
        assert_eq!(shipped, defaults);
        assert_eq!(
            shipped.plugins["chat"],
            super::super::PluginSettings { config: shipped.plugins["chat"].config.clone(), ..Default::default() }
        );
        // `Debug` prints every field of every table, so a key that the file does not name is found.
        let printed = format!("{:#?}", Settings { actions: Default::default(), plugins: Default::default(), ..shipped });
        for line in printed.lines() {
            let Some((key, _)) = line.trim().split_once(": ") else { continue };
            let named = |text: &str| SHIPPED.lines().any(|line| line.trim_start_matches(['#', ' ', '[']).starts_with(text));
            assert!(named(key), "config/plugsocket.toml does not mention `{key}`");
        }
    }

    #[test]
    fn errors_name_line_and_key() {
        for (text, expected) in [
            ("app = 7", "x.toml:1: `app`: invalid type: integer `7`, expected a string"),
            ("\n[server]\nlisten = \"nowhere\"", "x.toml:3: `server.listen`: `nowhere` is no address: write IP:PORT"),
            ("[server]\nlisen = \"127.0.0.1:1\"", "x.toml:2: `server.lisen`: unknown field `lisen`, expected one of"),
            ("[limits]\nping_interval = \"soon\"", "x.toml:2: `limits.ping_interval`: "),
            ("[actions]\na = 7", "x.toml:2: `actions.a`: expected a plugin's name, or a table"),
            ("[actions]\na = { list = \"l\" }", "x.toml:2: `actions.a`: a `list` needs a `handle` too"),
            ("[actions]\na = { handle = \"C\" }", "x.toml:2: `actions.a`: a `handle` needs a `list` too"),
            ("[actions]\na = { plugin = \"p\", list = \"l\" }", "x.toml:2: `actions.a`: has a `plugin` and a `list`"),
            ("[actions]\na = { list = \"l\", handle = \"C\", attempts = 2 }", "x.toml:2: `actions.a`: an action of a list has no"),
            ("[actions]\na = { timeout = \"1s\" }", "x.toml:2: `actions.a`: needs a `plugin`, or"),
            (
                "[actions]\na = { list = \"queues:plugsocket_out\", handle = \"C\" }",
                "x.toml:2: `actions.a`: `list` is one of `[php] lists`",
            ),
            ("queue = \"memory\"\n[actions]\na = { list = \"l\", handle = \"C\" }", "x.toml:3: `actions.a`: a `list` needs Redis"),
            ("[server]\nprotocol = \"wamp\"", "x.toml:2: `server.protocol`: unknown variant `wamp`, expected `envelope` or `flat`"),
            ("[actions]\n\n\"a.b\" = \"\"", "x.toml:3: `actions.a.b`: "),
            ("[actions]\nping = \"chat\"", "x.toml:2: `actions.ping`: "),
            ("app = \"a b\"", "x.toml:1: `app`: "),
            ("app = ", "x.toml:1: "),
            ("log_level = \"inof\"", "x.toml:1: `log_level`: `inof` is no level"),
            ("log_level = \"info,plugsocket=lots\"", "x.toml:1: `log_level`: "),
            ("queue = \"reddis://user:secret@host\"", "x.toml:1: `queue`: must be"),
            ("queue = \"rediss://user:secret@host#insecure\"", "x.toml:1: `queue`: must not end in #insecure"),
            ("[queue_options]\ntls_ca_file = \"a\"", "x.toml:2: `queue_options.tls_ca_file`: is only for rediss://"),
            ("[server]\nsubprotocols = [\"a b\"]", "x.toml:2: `server.subprotocols`: `a b` can't stand in a header"),
            ("[server]\ntrusted_proxies = [\"proxy\"]", "x.toml:2: `server.trusted_proxies`: `proxy` is no address and no network"),
            ("[limits]\naccepts_burst = 0", "x.toml:2: `limits.accepts_burst`: must be more than zero"),
            ("queue = \"rediss://h\"\n[queue_options]\ntls_key_file = \"a\"", "x.toml:3: `queue_options.tls_key_file`: needs"),
            ("[limits]\norigins = [\"*\", \"example.org\"]", "x.toml:2: `limits.origins`: `example.org` is no origin"),
            ("[limits]\norigins = [\"https://*.example.org\"]", "x.toml:2: `limits.origins`: "),
            ("[server]\ndrain_timeout = \"500000years\"", "x.toml:2: `server.drain_timeout`: must be at most"),
            ("[limits]\noutgoing_max = \"1B\"", "x.toml:2: `limits.outgoing_max`: must be at least"),
            ("[plugins.chat]\nisolation = \"none\"", "x.toml:2: `plugins.chat.isolation`: unknown variant `none`"),
            ("[plugins.chat]\nmemory_max = \"1MiB\"", "x.toml:2: `plugins.chat.memory_max`: must be at least 16MiB"),
            ("[plugins.chat]\nrunners = 0", "x.toml:2: `plugins.chat.runners`: must be 1 to 64"),
            ("[probation]\nerrors_max = 5.0", "x.toml:2: `probation.errors_max`: must be a share"),
        ] {
            let error = parse_text(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}\n  gave {error}\n  not  {expected}");
        }
    }

    #[test]
    fn the_environment_and_flags_override_in_turn() {
        use std::os::unix::ffi::OsStringExt as _;
        let variables = [
            ("PLUGSOCKET_SERVER__LISTEN", "127.0.0.1:9"),
            ("PLUGSOCKET_WORKER__SLOTS", "3"),
            ("PLUGSOCKET_LIMITS__ORIGINS", "[\"*\"]"),
            ("PLUGSOCKET_OPS__TOKEN", "12345"),
            ("PLUGSOCKET_CONFIG", "elsewhere"),
            ("PLUGSOCKET_SERVICE_PORT_WS", "80"),
            ("PLUGSOCKET_PORT_8000_TCP_ADDR", "10.0.0.1"),
            ("HOME", "x"),
        ];
        let not_text = (OsString::from_vec(vec![0xFF]), OsString::from_vec(vec![0xFF]));
        let variables = variables.map(|(name, value)| (name.into(), value.into()));
        let overrides = environment(variables.into_iter().chain([not_text]));
        let settings = parse(Path::new("x.toml"), "[worker]\ntimeout = \"2s\"", &overrides).unwrap();
        assert_eq!(settings.server.listen.port(), 9);
        assert_eq!((settings.worker.slots, settings.worker.timeout), (3, Duration::from_secs(2)));
        assert_eq!(settings.limits.origins, ["*"]);
        assert_eq!(settings.ops.token.as_deref(), Some("12345"), "text, though it looks like a number");
    }

    #[test]
    fn an_override_that_is_wrong_is_named() {
        let text = |overrides: &[Override]| parse(Path::new("x.toml"), "", overrides).unwrap_err().to_string();
        let error = text(&with("PLUGSOCKET_SERVER__LISTEN", "server.listen", "here"));
        assert!(error.starts_with("PLUGSOCKET_SERVER__LISTEN: `server.listen`: `here` is no address: write IP:PORT"), "{error}");
        let error = text(&with("--set", "worker.slots", "0"));
        assert!(error.starts_with("--set: `worker.slots`: "), "{error}");
        assert!(text(&with("PLUGSOCKET_TYPO", "typo", "1")).contains("unknown field `typo`"));
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.toml");
        std::fs::write(&path, "plugins_dir = \"../up\"").unwrap();
        let settings = load(&path, &[]).unwrap();
        assert_eq!(settings.plugins_dir, dir.path().parent().unwrap().join("up"));
        let missing = load(&dir.path().join("none.toml"), &[]).unwrap_err().to_string();
        assert!(missing.contains("--config FILE"), "{missing}");
    }
}

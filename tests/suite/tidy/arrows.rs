//! Which room names which: imports go downwards only.

use super::source::{Source, is_word};

/// The rooms of `host/src` by height; a room may name lower ones only. `lanes` is a leaf that names nothing of ours.
const ROOMS: [(&str, u8); 12] = [
    ("wire", 0),
    ("lanes", 0),
    ("config", 1),
    ("queue", 2),
    ("plugin", 2),
    ("context", 3),
    ("server", 4),
    ("worker", 4),
    ("ops", 4),
    ("tool", 4),
    ("run", 5),
    ("bin", 6),
];

fn height(room: &str) -> Option<u8> {
    ROOMS.iter().find(|(name, _)| *name == room).map(|(_, height)| *height)
}

/// Imports that go upwards or sideways, and rooms that no arrow is drawn for.
pub fn check(sources: &[Source]) -> Vec<String> {
    sources.iter().flat_map(check_file).collect()
}

fn check_file(source: &Source) -> Vec<String> {
    let Some(place) = source.path.strip_prefix("host/src/").filter(|place| source.is_rust() && *place != "lib.rs") else {
        return Vec::new();
    };
    let room = place.split('/').next().unwrap_or_default().trim_end_matches(".rs");
    let Some(own) = height(room) else {
        return vec![format!("{}: room `{room}` has no place in tests/suite/tidy/arrows.rs; give it its height", source.path)];
    };
    if room == "bin" {
        return Vec::new();
    }
    let code = source.code();
    let mut named = after(&code, "crate::");
    for other in after(&code, "super::super::").into_iter().filter(|other| height(other).is_some()) {
        named.push(other);
    }
    if place == format!("{room}/mod.rs") || place == format!("{room}.rs") {
        // A room's own root reaches its neighbours with one `super`; its inline tests mean their own file by it, and name no room.
        named.extend(after(&code, "super::").into_iter().filter(|other| height(other).is_some()));
    }
    named.sort();
    named.dedup();
    named
        .iter()
        .filter(|other| *other != room)
        .filter_map(|other| match height(other) {
            Some(theirs) if theirs < own => None,
            Some(_) => Some(format!("{}: `{room}` names `{other}`; imports go downwards only (DESIGN: the rooms)", source.path)),
            None if other.chars().next().is_some_and(char::is_lowercase) => {
                Some(format!("{}: names `crate::{other}`, which is no room", source.path))
            }
            None => None,
        })
        .collect()
}

/// The first names behind every `prefix`, those in braces included.
fn after(code: &str, prefix: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|character| is_word(character) || character == ':' || character == '$') {
            continue;
        }
        let rest = code[at + prefix.len()..].trim_start();
        match rest.strip_prefix('{') {
            Some(list) => names.extend(listed(list)),
            None => names.push(word(rest)),
        }
    }
    names
}

fn word(text: &str) -> String {
    text.chars().take_while(|character| is_word(*character)).collect()
}

/// First names of the entries of a brace list, up to its closing brace.
fn listed(list: &str) -> Vec<String> {
    let (mut names, mut depth, mut entry) = (Vec::new(), 0, String::new());
    for character in list.chars() {
        match character {
            '}' if depth == 0 => break,
            ',' if depth == 0 => names.push(word(entry.split_off(0).trim_start())),
            '{' => depth += 1,
            '}' => depth -= 1,
            _ if depth == 0 => entry.push(character),
            _ => {}
        }
    }
    names.push(word(entry.trim_start()));
    names.retain(|name| !name.is_empty());
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> usize {
        check(&[Source { path: path.to_owned(), text: text.to_owned() }]).len()
    }

    #[test]
    fn downward_imports_pass() {
        for (path, text) in [
            ("host/src/server/session.rs", "use crate::wire::ids::Id;\nuse crate::{config::Settings, queue::{Inbox, Queue}, plugin};"),
            ("host/src/queue/mod.rs", "use crate::lanes::Lanes; use crate::queue::memory; mod t { use super::*; }"),
            ("host/src/run/mod.rs", "use crate::{server, worker, ops, tool};"),
            ("host/src/bin/plugsocket.rs", "use plugsocket::run;"),
            ("host/src/queue/redis/inbox.rs", "use super::keys; // crate::server\nlet text = \"crate::worker\";"),
            ("plugin-api/src/lib.rs", "use crate::whatever::Else;"),
        ] {
            assert_eq!(found(path, text), 0, "{path}: {text}");
        }
    }

    #[test]
    fn upward_and_sideways_imports_fail() {
        for (path, text) in [
            ("host/src/server/session.rs", "use crate::worker::Dispatch;"),
            ("host/src/worker/mod.rs", "fn f() { crate::server::run() }"),
            ("host/src/queue/redis/mod.rs", "use crate::{wire::job::Job, plugin::Plugins};"),
            ("host/src/plugin/mod.rs", "use crate::queue::Queue;"),
            ("host/src/plugin/mod.rs", "use super::queue::Queue;"),
            ("host/src/queue/redis/inbox.rs", "use super::super::server::X;"),
            ("host/src/wire/job.rs", "use crate::config::Settings;"),
            ("host/src/config/mod.rs", "use crate::{\n  wire::a,\n  context::b,\n};"),
            ("host/src/context/mod.rs", "use crate::ops;"),
            ("host/src/lanes.rs", "use crate::wire::ids;"),
            ("host/src/common/mod.rs", "use crate::wire::ids;"),
            ("host/src/tool/mod.rs", "use crate::helpers::x;"),
            ("host/src/tool/dev.rs", "use crate::run::dev;"),
        ] {
            assert_eq!(found(path, text), 1, "{path}: {text}");
        }
    }
}

//! The tidy test: what stays in its room, what names what, how long files are. Each check is a function over sources, so that it can be seen to fail.

mod arrows;
mod source;

use source::{Source, is_word, read_all};

use crate::harness::plugin::workspace;

/// Most lines of a `.rs` file; files of unit tests are exempt.
const LINES_MAX: usize = 400;

/// A word and the only places whose shipped code may have it.
struct Kept {
    what: &'static str,
    found: fn(&str) -> bool,
    within: &'static str,
    rooms: &'static [&'static str],
}

const KEPT: [Kept; 4] = [
    Kept {
        what: "the crate `redis`",
        found: names_redis,
        within: "host/src/",
        rooms: &["host/src/queue/redis/", "host/src/queue/redis.rs"],
    },
    Kept { what: "`tungstenite`", found: names_tungstenite, within: "host/src/", rooms: &["host/src/server/"] },
    Kept { what: "`unsafe`", found: names_unsafe, within: "", rooms: &["host/src/plugin/", "plugin-api/src/abi/", "plugin-api/abi/src/"] },
    Kept { what: "`tokio::spawn` (a TaskTracker owns each task)", found: names_bare_spawn, within: "host/src/", rooms: &[] },
];

#[test]
fn sources_are_tidy() {
    let sources = read_all(workspace());
    assert!(sources.len() > 20, "the sources were not found");
    let found: Vec<String> = [arrows::check, kept, crates, shape, ignored].iter().flat_map(|check| check(&sources)).collect();
    assert!(found.is_empty(), "{} untidy places:\n{}", found.len(), found.join("\n"));
}

/// Names that leave their rooms.
fn kept(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        let code = source.shipped_code();
        for rule in &KEPT {
            let at_home = rule.rooms.iter().any(|room| source.path.starts_with(room));
            if source.path.starts_with(rule.within) && !at_home && (rule.found)(&code) {
                found.push(format!("{}: {} stays in {:?}", source.path, rule.what, rule.rooms));
            }
        }
    }
    found
}

/// Whether the crate is named, not our room of the same name: `redis::…` without a path before it, unless the file imports the room.
fn names_redis(code: &str) -> bool {
    let room_imported = code.split(';').any(|statement| {
        statement.contains("use ")
            && (statement.contains("queue::redis") || statement.contains("queue::{") || statement.contains("super::redis"))
    });
    words(code, "redis").any(|(before, after)| {
        let crate_path = before.ends_with("::") && !before[..before.len() - 2].ends_with(|last: char| is_word(last) || last == '>');
        let imported = before.ends_with("use ") && after.starts_with([';', ':', ' ']);
        let bare = !before.ends_with(':') && !before.ends_with("use ") && after.starts_with("::") && !room_imported;
        crate_path || imported || bare
    })
}

fn names_tungstenite(code: &str) -> bool {
    words(code, "tungstenite").chain(words(code, "tokio_tungstenite")).next().is_some()
}

fn names_unsafe(code: &str) -> bool {
    words(code, "unsafe").next().is_some()
}

fn names_bare_spawn(code: &str) -> bool {
    words(code, "spawn").any(|(before, _)| before.ends_with("tokio::") || before.ends_with("tokio::task::"))
}

/// What stands before and after each whole word `name`.
fn words<'code>(code: &'code str, name: &'code str) -> impl Iterator<Item = (&'code str, &'code str)> {
    code.match_indices(name)
        .map(move |(at, _)| (&code[..at], &code[at + name.len()..]))
        .filter(|(before, after)| !before.ends_with(is_word) && !after.starts_with(is_word))
}

/// Crates that name what they must not: a plugin the host, the plugin API anything of ours.
fn crates(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        let forbidden: &[&str] = match source.path.split('/').next() {
            Some("plugins") => &["plugsocket"],
            Some("plugin-api") => &["plugsocket", "chat", "channels"],
            _ => continue,
        };
        for name in forbidden {
            let named = if source.is_rust() {
                words(&source.code(), name).any(|(_, after)| after.starts_with("::"))
            } else {
                source.text.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.trim_start().starts_with(['=', '.'])))
            };
            if named {
                found.push(format!("{}: must not depend on the crate `{name}`", source.path));
            }
        }
    }
    found
}

/// Files without their sentence of purpose, and files that are too long.
fn shape(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        if !source.text.starts_with("//! ") {
            found.push(format!("{}: does not begin with a `//!` sentence of purpose", source.path));
        }
        let lines = source.text.lines().count();
        if lines > LINES_MAX && !source.path.ends_with("/tests.rs") {
            found.push(format!("{}: has {lines} lines, limit is {LINES_MAX}; cut it where the way of a message shows better", source.path));
        }
    }
    found
}

/// Tests that are switched off.
fn ignored(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        for (number, line) in source.code().lines().enumerate() {
            let attribute = line.trim_start().starts_with("#[");
            if attribute && words(line, "ignore").next().is_some() {
                found.push(format!("{}:{}: a test that does not run proves nothing; fix or remove it", source.path, number + 1));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(check: fn(&[Source]) -> Vec<String>, path: &str, text: &str) -> usize {
        check(&[Source { path: path.to_owned(), text: text.to_owned() }]).len()
    }

    #[test]
    fn redis_stays_in_its_room() {
        for text in [
            "use redis::Client;",
            "use redis;",
            "let client = redis::Client::open();",
            "fn f(c: ::redis::Client) {}",
            "use ::redis::Client;",
        ] {
            assert_eq!(of(kept, "host/src/queue/mod.rs", text), 1, "{text}");
            assert_eq!(of(kept, "host/src/queue/redis/inbox.rs", text), 0, "{text}");
            assert_eq!(of(kept, "host/src/queue/redis/tests.rs", text), 0, "{text}");
        }
        for text in [
            "pub mod redis;",
            "self::redis::open()",
            "use crate::queue::redis; fn f() { redis::open() }",
            "// redis::Client",
            "redis_url::x",
        ] {
            assert_eq!(of(kept, "host/src/run/mod.rs", text), 0, "{text}");
        }
    }

    #[test]
    fn tungstenite_stays_in_the_server() {
        for text in ["use tokio_tungstenite::WebSocketStream;", "fn f(m: tungstenite::Message) {}"] {
            assert_eq!(of(kept, "host/src/ops/mod.rs", text), 1, "{text}");
            assert_eq!(of(kept, "host/src/server/session.rs", text), 0, "{text}");
            assert_eq!(of(kept, "host/src/ops/mod.rs", &format!("#[cfg(test)]\nmod tests {{ {text} }}")), 0, "{text}");
        }
    }

    #[test]
    fn unsafe_stays_at_the_border() {
        let text = "fn f() { unsafe { g() } }";
        for (path, count) in [
            ("host/src/server/mod.rs", 1),
            ("plugins/chat/src/lib.rs", 1),
            ("plugin-api/src/call.rs", 1),
            ("host/src/plugin/library.rs", 0),
        ] {
            assert_eq!(of(kept, path, text), count, "{path}");
        }
        assert_eq!(of(kept, "host/src/server/mod.rs", "#![forbid(unsafe_code)] // unsafe"), 0);
    }

    #[test]
    fn tasks_have_an_owner() {
        for (text, count) in
            [("fn f() { tokio::spawn(g()); }", 1), ("fn f() { tokio::task::spawn(g()); }", 1), ("fn f() { tasks.spawn(g()); }", 0)]
        {
            assert_eq!(of(kept, "host/src/server/mod.rs", text), count, "{text}");
        }
        assert_eq!(of(kept, "host/src/server/mod.rs", "#[cfg(test)]\nmod tests { fn f() { tokio::spawn(g()); } }"), 0);
    }

    #[test]
    fn crates_depend_on_what_is_below_them() {
        for (path, text, count) in [
            ("plugins/chat/src/lib.rs", "use plugsocket::wire;", 1),
            ("plugins/chat/src/lib.rs", "use plugsocket_plugin::prelude::*;", 0),
            ("plugins/chat/Cargo.toml", "plugsocket.workspace = true", 1),
            ("plugins/chat/Cargo.toml", "plugsocket-plugin.workspace = true", 0),
            ("plugin-api/Cargo.toml", "chat = { path = \"../plugins/chat\" }", 1),
            ("plugin-api/src/lib.rs", "fn f() { chat::x() }", 1),
            ("host/src/lib.rs", "use plugsocket::wire;", 0),
        ] {
            assert_eq!(of(crates, path, text), count, "{path}: {text}");
        }
    }

    #[test]
    fn files_have_a_purpose_and_an_end() {
        let long = format!("//! Long.\n{}", "x\n".repeat(LINES_MAX));
        for (path, text, count) in [
            ("host/src/a.rs", "//! A.\n", 0),
            ("host/src/a.rs", "use b;\n", 1),
            ("host/src/a.rs", "//!\n", 1),
            ("host/src/a.rs", &long, 1),
            ("host/src/a/tests.rs", &long, 0),
            ("host/Cargo.toml", "[package]\n", 0),
        ] {
            assert_eq!(of(shape, path, text), count, "{path}");
        }
    }

    #[test]
    fn no_test_is_switched_off() {
        for (text, count) in [
            ("#[ignore]\nfn a() {}", 1),
            ("    #[ignore = \"slow\"]", 1),
            ("#[cfg_attr(ci, ignore)]", 1),
            ("// #[ignore]\nlet ignore = 1;", 0),
        ] {
            assert_eq!(of(ignored, "tests/suite/a.rs", text), count, "{text}");
        }
    }
}

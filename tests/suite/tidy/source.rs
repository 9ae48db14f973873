//! Source files as the checks see them: Rust code without comments, strings and, where asked, tests.

use std::fs;
use std::path::Path;

/// Folders with sources of ours, and the kinds of files in them that the checks read.
const FOLDERS: [&str; 5] = ["host", "plugin-api", "plugins", "tests", "scripts"];
const LEFT_OUT: [&str; 3] = ["target", "node_modules", "vendor"];

/// One file.
pub struct Source {
    /// Path from the workspace's root, with `/`.
    pub path: String,
    /// Its text.
    pub text: String,
}

impl Source {
    /// Whether it is Rust.
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether the whole file is tests.
    pub fn is_test_file(&self) -> bool {
        self.path.starts_with("tests/") || self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// The code: comments, strings and characters are blank, lines stay where they are.
    pub fn code(&self) -> String {
        blank(&self.text)
    }

    /// The code without `#[cfg(test)]` items; empty for a file of tests.
    pub fn shipped_code(&self) -> String {
        if self.is_test_file() { String::new() } else { without_tests(&self.code()) }
    }
}

/// Every `.rs` and `Cargo.toml` of the workspace.
pub fn read_all(workspace: &Path) -> Vec<Source> {
    let mut sources = Vec::new();
    for folder in FOLDERS {
        read_folder(workspace, &workspace.join(folder), &mut sources);
    }
    sources.sort_by(|one, other| one.path.cmp(&other.path));
    sources
}

fn read_folder(workspace: &Path, folder: &Path, sources: &mut Vec<Source>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let entry = entry.unwrap();
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if entry.file_type().unwrap().is_dir() {
            if !LEFT_OUT.contains(&name.as_str()) {
                read_folder(workspace, &path, sources);
            }
        } else if name.ends_with(".rs") || name == "Cargo.toml" {
            let place = path.strip_prefix(workspace).unwrap().to_string_lossy().replace('\\', "/");
            sources.push(Source { path: place, text: fs::read_to_string(&path).unwrap() });
        }
    }
}

/// Blanks comments, strings and characters; every other byte and every line end stays in place.
fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let in_word = code.chars().next_back().is_some_and(is_word);
        let skipped = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => quoted(rest, 1),
            'r' | 'b' | 'c' if !in_word => string_prefix(rest),
            '\'' => character(rest),
            _ => 0,
        };
        let taken = if skipped == 0 { first.len_utf8() } else { skipped };
        let (part, next) = rest.split_at(taken);
        if skipped == 0 {
            code.push_str(part);
        } else {
            code.extend(part.chars().map(|character| if character == '\n' { '\n' } else { ' ' }));
        }
        rest = next;
    }
    code
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// Length of a string whose content begins at `start`; a backslash hides the next byte.
fn quoted(text: &str, start: usize) -> usize {
    let bytes = text.as_bytes();
    let mut at = start;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// Length of a string with a prefix (`r#"…"#`, `b"…"`, `c"…"`, `br"…"`); 0 when this is a word.
fn string_prefix(text: &str) -> usize {
    let prefix = text.find(|character: char| !matches!(character, 'r' | 'b' | 'c')).unwrap_or(text.len());
    let raw = text[..prefix].ends_with('r');
    let after = &text[prefix..];
    let hashes = after.len() - after.trim_start_matches('#').len();
    if prefix > 2 || !after[hashes..].starts_with('"') || (hashes > 0 && !raw) {
        return 0;
    }
    let start = prefix + hashes + 1;
    if !raw {
        return quoted(text, start);
    }
    let end = format!("\"{}", "#".repeat(hashes));
    text[start..].find(&end).map_or(text.len(), |at| start + at + end.len())
}

/// Length of a character such as `'"'` or `'\n'`; 0 when this is a lifetime.
fn character(text: &str) -> usize {
    let mut characters = text.char_indices().skip(1);
    match (characters.next(), characters.next()) {
        (Some((_, '\\')), Some((at, escaped))) => {
            let from = at + escaped.len_utf8();
            text[from..].find('\'').map_or(0, |end| from + end + 1)
        }
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 0,
    }
}

/// Blanks the items under `#[cfg(test)]`; `code` has no comments or strings any more.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find(MARK) {
        kept.push_str(&rest[..at]);
        let item = &rest[at..];
        let end = item_end(item, MARK.len());
        kept.extend(item[..end].chars().filter(|character| *character == '\n'));
        rest = &item[end..];
    }
    kept + rest
}

/// Where an item ends: at its `;`, or at the brace that closes its first one.
fn item_end(item: &str, start: usize) -> usize {
    let mut depth = 0;
    for (at, byte) in item.bytes().enumerate().skip(start) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return at + 1,
            b'}' => depth -= 1,
            b';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    item.len()
}

/// Whether a character can stand in a name.
pub fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn squeezed(text: &str) -> String {
        blank(text).split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn comments_and_strings_are_blank() {
        for (text, code) in [
            ("a // b\nc", "a c"),
            ("a /* b /* c */ d */ e", "a e"),
            ("a(\"// \\\" b\", c)", "a( , c)"),
            ("a(r#\"b \" c\"#, d)", "a( , d)"),
            ("a(br\"b\\\", d)", "a( , d)"),
            ("a(b\"b\\\"\", d)", "a( , d)"),
            ("for_\"b\" c", "for_ c"),
            ("a('\"', 'b', '\\'', b'\\\\', c)", "a( , , , b , c)"),
            ("fn a<'b>(c: &'b str) -> &'static str { d }", "fn a<'b>(c: &'b str) -> &'static str { d }"),
            ("r#type + crate::x", "r#type + crate::x"),
        ] {
            assert_eq!(squeezed(text), code, "{text}");
        }
        assert_eq!(blank("a\n\"b\nc\"\nd").lines().count(), 4, "lines stay where they are");
    }

    #[test]
    fn tests_are_left_out() {
        let code = without_tests("a;\n#[cfg(test)]\nmod tests { fn b() { c } }\nd;\n#[cfg(test)]\nmod more;\ne");
        assert_eq!(code.split_whitespace().collect::<String>(), "a;d;e");
        assert_eq!(code.lines().count(), 7);
    }
}

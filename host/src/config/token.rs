//! Where a client's token may be: the entries of `server.token.from`.

use std::str::FromStr;

use crate::wire::http::is_word;

/// Longest name in an entry, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// One place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenPlace {
    /// A header of the upgrade request; `Authorization` with the scheme `Bearer`.
    Header(String),
    /// A member of its query string.
    Query(String),
    /// What is offered behind this subprotocol, which is then the chosen one.
    Subprotocol(String),
    /// A member of the `register` frame's data.
    Register(String),
}

impl FromStr for TokenPlace {
    type Err = String;

    fn from_str(entry: &str) -> Result<Self, String> {
        const EXPECTED: &str = "write header:NAME, query:NAME, subprotocol:NAME or register:MEMBER";
        let (place, name) = entry.split_once(':').ok_or_else(|| format!("`{entry}` is no place for a token; {EXPECTED}"))?;
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            return Err(format!("`{entry}` needs a name of 1 to {NAME_BYTES_MAX} bytes behind the colon"));
        }
        match place {
            "header" | "subprotocol" if !is_word(name) => {
                Err(format!("`{entry}`: the name has a character that HTTP does not allow there"))
            }
            "header" if name.eq_ignore_ascii_case("sec-websocket-protocol") => {
                Err(format!("`{entry}` would take all that is offered for a token; use subprotocol:NAME"))
            }
            "header" => Ok(Self::Header(name.to_owned())),
            "query" => Ok(Self::Query(name.to_owned())),
            "subprotocol" => Ok(Self::Subprotocol(name.to_owned())),
            "register" => Ok(Self::Register(name.to_owned())),
            _ => Err(format!("`{entry}` is no place for a token; {EXPECTED}")),
        }
    }
}

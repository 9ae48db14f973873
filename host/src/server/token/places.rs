//! Where a client's token is: found in a request and taken out of it, so that neither the handler nor a log sees it.

use percent_encoding::percent_decode_str;
use plugsocket_plugin::call::ConnectCall;
use serde_json::value::{RawValue, to_raw_value};

use super::TokenFault;
use super::claims::Members;
use crate::config::TokenPlace;

/// The member of a `register` frame's data that holds a fresh token when no other is named.
const RENEWAL_MEMBER: &str = "token";
const PROTOCOLS: &str = "sec-websocket-protocol";

/// A token in an upgrade request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The token.
    pub token: String,
    /// The subprotocol before it, which is to be the chosen one.
    pub subprotocol: Option<String>,
}

/// The places of `server.token.from`.
pub(crate) struct Places {
    upgrade: Vec<TokenPlace>,
    /// The member of a `register` frame's data.
    register: Option<String>,
}

impl Places {
    /// Entries that can't be read have been refused with the config.
    pub fn of(entries: &[String]) -> Self {
        let mut places = Self { upgrade: Vec::new(), register: None };
        for place in entries.iter().filter_map(|entry| entry.parse().ok()) {
            match place {
                TokenPlace::Register(member) => places.register = Some(member),
                place => places.upgrade.push(place),
            }
        }
        places
    }

    /// Whether a first token may come with the `register` frame.
    pub fn has_register(&self) -> bool {
        self.register.is_some()
    }

    /// Takes every token out of an upgrade request; answers the one in the first place that has one.
    ///
    /// # Errors
    /// [`TokenFault::Malformed`] when that place has several: whoever reads another one of them than we do would see another client.
    pub fn take(&self, call: &mut ConnectCall) -> Result<Option<Found>, TokenFault> {
        let mut first = None;
        for place in &self.upgrade {
            let mut tokens = match place {
                TokenPlace::Header(name) => from_headers(name, call),
                TokenPlace::Query(name) => from_query(name, call),
                TokenPlace::Subprotocol(name) => from_protocols(name, call),
                TokenPlace::Register(_) => Vec::new(),
            };
            let token = tokens.pop();
            let subprotocol = if let TokenPlace::Subprotocol(name) = place { Some(name.clone()) } else { None };
            let found = token.map(|token| if tokens.is_empty() { Ok(Found { token, subprotocol }) } else { Err(TokenFault::Malformed) });
            first = first.or(found);
        }
        first.transpose()
    }

    /// Takes the token out of a `register` frame's data; its other members keep their text and order.
    ///
    /// # Errors
    /// [`TokenFault::Malformed`] when it is not a string, or there twice.
    pub fn take_register(&self, data: &mut Option<Box<RawValue>>) -> Result<Option<String>, TokenFault> {
        let member = self.register.as_deref().unwrap_or(RENEWAL_MEMBER);
        let Some(Ok(Members(members))) = data.as_ref().map(|data| serde_json::from_str::<Members>(data.get())) else { return Ok(None) };
        let (mut tokens, rest): (Vec<_>, Vec<_>) = members.into_iter().partition(|(name, _)| name == member);
        let Some((_, token)) = tokens.pop() else { return Ok(None) };
        *data = to_raw_value(&Members(rest)).ok();
        let token = serde_json::from_str(token.get()).ok().filter(|_| tokens.is_empty());
        token.map(Some).ok_or(TokenFault::Malformed)
    }
}

fn from_headers(name: &str, call: &mut ConnectCall) -> Vec<String> {
    let is_authorization = name.eq_ignore_ascii_case("authorization");
    let token_of = |value: &str| {
        let bearer = value.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token);
        // Another scheme is for somebody else.
        if is_authorization { bearer } else { Some(bearer.unwrap_or(value)) }.map(|token| token.trim().to_owned())
    };
    let mut tokens = Vec::new();
    call.headers.retain(|(header, value)| {
        let token = if header.eq_ignore_ascii_case(name) { token_of(value) } else { None };
        let is_kept = token.is_none();
        tokens.extend(token);
        is_kept
    });
    tokens
}

fn from_query(name: &str, call: &mut ConnectCall) -> Vec<String> {
    let mut tokens = Vec::new();
    let is_other = |pair: &&str| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let is_token = percent_decode_str(key).eq(name.bytes());
        if is_token {
            tokens.push(percent_decode_str(value).decode_utf8_lossy().into_owned());
        }
        !is_token
    };
    let rest: Vec<&str> = call.query.split('&').filter(is_other).collect();
    call.query = rest.join("&");
    tokens
}

fn from_protocols(name: &str, call: &mut ConnectCall) -> Vec<String> {
    let mut tokens = Vec::new();
    // Several headers are one list.
    let mut is_behind = false;
    for (_, value) in call.headers.iter_mut().filter(|(header, _)| header == PROTOCOLS) {
        let is_other = |item: &&str| {
            let was_behind = std::mem::replace(&mut is_behind, *item == name);
            if was_behind {
                tokens.push((*item).to_owned());
            }
            !was_behind
        };
        let rest: Vec<&str> = value.split(',').map(str::trim).filter(is_other).collect();
        *value = rest.join(", ");
    }
    tokens
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn call(query: &str, headers: &[(&str, &str)]) -> ConnectCall {
        let headers: Vec<_> = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        serde_json::from_value(json!({"connection_id": "n.1", "query": query, "headers": headers})).unwrap()
    }

    fn places(entries: &[&str]) -> Places {
        Places::of(&entries.iter().map(|entry| (*entry).to_owned()).collect::<Vec<_>>())
    }

    fn taken(entry: &str, query: &str, headers: &[(&str, &str)]) -> (Result<Option<String>, TokenFault>, ConnectCall) {
        let mut call = call(query, headers);
        let found = places(&[entry]).take(&mut call).map(|found| found.map(|found| found.token));
        (found, call)
    }

    #[test]
    fn a_token_is_found_in_its_place_and_taken_out() {
        let token = Ok(Some("a.b.c".to_owned()));
        for scheme in ["Bearer a.b.c", "bearer  a.b.c "] {
            let (found, call) = taken("header:Authorization", "", &[("host", "h"), ("authorization", scheme)]);
            assert_eq!((found, call.headers.len()), (token.clone(), 1), "{scheme}");
        }
        let (found, call) = taken("header:X-Token", "", &[("x-token", "a.b.c")]);
        assert_eq!((found, call.headers.len()), (token.clone(), 0));
        let (found, call) = taken("query:t k", "room=1&t%20k=a%2Eb%2ec&x", &[]);
        assert_eq!((found, call.query.as_str()), (token.clone(), "room=1&x"));
        let offers = [("sec-websocket-protocol", "chat, bearer"), ("sec-websocket-protocol", "a.b.c, other")];
        let (found, call) = taken("subprotocol:bearer", "", &offers);
        assert_eq!((found, call.headers[0].1.as_str(), call.headers[1].1.as_str()), (token, "chat, bearer", "other"));
    }

    #[test]
    fn what_is_no_token_stays() {
        let (found, call) = taken("header:Authorization", "", &[("authorization", "Basic dXNlcg==")]);
        assert_eq!((found, call.headers.len()), (Ok(None), 1));
        assert_eq!(taken("subprotocol:bearer", "", &[("sec-websocket-protocol", "a.b.c, bearer")]).0, Ok(None));
        let (found, call) = taken("query:token", "tokens=1&Token=2", &[]);
        assert_eq!((found, call.query.as_str()), (Ok(None), "tokens=1&Token=2"));
    }

    #[test]
    fn two_tokens_in_one_place_are_none() {
        assert_eq!(taken("query:token", "token=a&token=b", &[]).0, Err(TokenFault::Malformed));
        assert_eq!(
            taken("header:authorization", "", &[("authorization", "Bearer a"), ("authorization", "Bearer a")]).0,
            Err(TokenFault::Malformed)
        );
    }

    #[test]
    fn the_first_place_counts_and_no_other_keeps_its_token() {
        let mut call = call("token=second", &[("authorization", "Bearer first")]);
        let found = places(&["header:Authorization", "query:token", "register:token"]).take(&mut call).unwrap().unwrap();
        assert_eq!((found.token.as_str(), call.query.as_str(), call.headers.len()), ("first", "", 0));
    }

    #[test]
    fn a_register_frame_keeps_its_other_members_as_they_were() {
        let raw = |text: &str| Some(RawValue::from_string(text.to_owned()).unwrap());
        let places = places(&["register:auth"]);
        let mut data = raw(r#"{"n": 1.10000000000000000001, "auth": "a.b.c"}"#);
        assert_eq!(places.take_register(&mut data), Ok(Some("a.b.c".to_owned())));
        assert_eq!(data.unwrap().get(), r#"{"n":1.10000000000000000001}"#);
        let mut twice = raw(r#"{"b":1,"a":2,"auth":"x","b":3}"#);
        assert_eq!(places.take_register(&mut twice), Ok(Some("x".to_owned())));
        assert_eq!(twice.unwrap().get(), r#"{"b":1,"a":2,"b":3}"#);
        assert_eq!(places.take_register(&mut raw(r#"{"auth":"x","\u0061uth":"y"}"#)), Err(TokenFault::Malformed), "two tokens");
        for (text, found) in [("[1]", Ok(None)), ("{\"token\":\"x\"}", Ok(None)), ("{\"auth\":7}", Err(TokenFault::Malformed))] {
            assert_eq!(places.take_register(&mut raw(text)), found, "{text}");
        }
        assert_eq!(places.take_register(&mut None), Ok(None));
    }
}

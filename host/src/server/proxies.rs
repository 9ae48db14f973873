//! The client's address behind proxies that are trusted: `Forwarded` (RFC 7239) or `X-Forwarded-For`, read from the right.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::head::{Head, Rejection};
use crate::wire::http::{is_word, is_word_byte};

/// Whom a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The client's own address.
    Client(IpAddr),
    /// Nobody says whose: all that is known is the proxy that it came through.
    Hidden(IpAddr),
}

/// Whether the forwarded headers of this address are believed.
pub(crate) fn is_trusted(ip: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|net| net.contains(&ip))
}

/// Whom a request that came from a trusted `peer` is from.
///
/// # Errors
/// The answer to a header that can't be read, or when the two headers name different clients: one of them is then the client's own.
pub(crate) fn origin(head: &Head, peer: IpAddr, trusted: &[IpNet]) -> Result<Origin, Rejection> {
    let forwarded = head.joined("forwarded").map(|header| nodes(&header).and_then(|nodes| walk(&nodes, peer, trusted)));
    let listed =
        head.joined("x-forwarded-for").map(|header| walk(&header.split(',').map(Cow::Borrowed).collect::<Vec<_>>(), peer, trusted));
    let named = |name: &str, why: String| bad(format!("the header {name} of a trusted proxy can't be read: {why}"));
    let forwarded = forwarded.transpose().map_err(|why| named("Forwarded", why))?;
    let listed = listed.transpose().map_err(|why| named("X-Forwarded-For", why))?;
    match (forwarded, listed) {
        (Some(one), Some(other)) if one != other => {
            Err(bad("Forwarded and X-Forwarded-For name different clients: the proxy must remove the one that it does not write itself"
                .to_owned()))
        }
        (Some(origin), _) | (None, Some(origin)) => Ok(origin),
        (None, None) => Ok(Origin::Hidden(peer)),
    }
}

fn bad(body: String) -> Rejection {
    Rejection { cause: "forwarded", status: "400 Bad Request", headers: Cow::Borrowed(""), body: Cow::Owned(body) }
}

/// The last address that no trusted proxy has. What stands before it may have been made up by the client, and is not even read.
fn walk(nodes: &[Cow<'_, str>], peer: IpAddr, trusted: &[IpNet]) -> Result<Origin, String> {
    let mut hop = Origin::Hidden(peer);
    for node in nodes.iter().rev() {
        match address(node.trim())? {
            Some(ip) if is_trusted(ip, trusted) => hop = Origin::Client(ip),
            Some(ip) => return Ok(Origin::Client(ip)),
            None => {
                let (Origin::Client(ip) | Origin::Hidden(ip)) = hop;
                return Ok(Origin::Hidden(ip));
            }
        }
    }
    Ok(hop)
}

/// An address with or without port, IPv6 also with a zone, which means something on the proxy's machine only; `None` for `unknown` and for names that proxies give instead (`_x`).
fn address(node: &str) -> Result<Option<IpAddr>, String> {
    let obfuscated = |name: &str| {
        name.len() > 1 && name.starts_with('_') && name[1..].bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    let is_port = |port: &str| (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit()) || obfuscated(port);
    let ip = if let Some(rest) = node.strip_prefix('[') {
        let (ip, port) = rest.split_once(']').unwrap_or_default();
        let is_end = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        without_zone(ip).parse::<Ipv6Addr>().ok().filter(|_| is_end).map(IpAddr::V6)
    } else if let Ok(ip) = without_zone(node).parse::<IpAddr>() {
        Some(ip) // X-Forwarded-For has IPv6 without brackets
    } else {
        let name = match node.split_once(':') {
            Some((name, port)) if is_port(port) => name,
            _ => node,
        };
        if name.eq_ignore_ascii_case("unknown") || obfuscated(name) {
            return Ok(None);
        }
        name.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
    };
    let shown: String = node.chars().take(64).filter(|character| !character.is_control()).collect();
    ip.map(|ip| Some(ip.to_canonical())).ok_or_else(|| format!("`{shown}` is no address"))
}

fn without_zone(ip: &str) -> &str {
    ip.split_once('%').map(|(ip, _)| ip).filter(|ip| ip.contains(':')).unwrap_or(ip)
}

/// The `for` of each element of a `Forwarded` header; `unknown` where there is none.
fn nodes(header: &str) -> Result<Vec<Cow<'_, str>>, String> {
    let mut nodes = Vec::new();
    let mut rest = header;
    loop {
        let mut node = None;
        loop {
            rest = rest.trim_start();
            // An element or a pair may be empty (`,,`).
            if rest.is_empty() || rest.starts_with([',', ';']) {
                break;
            }
            let (name, behind) = rest.split_once('=').ok_or("a name without `=`")?;
            if !is_word(name) {
                return Err("a parameter's name has characters that it must not have".to_owned());
            }
            let (value, behind) = value(behind)?;
            if name.eq_ignore_ascii_case("for") && node.replace(value).is_some() {
                return Err("`for` stands twice in one element".to_owned());
            }
            rest = behind.trim_start();
            match rest.strip_prefix(';') {
                Some(behind) => rest = behind,
                None => break,
            }
        }
        if rest.starts_with(';') {
            return Err("a `;` without a parameter before it".to_owned());
        }
        nodes.push(node.unwrap_or(Cow::Borrowed("unknown")));
        match rest.strip_prefix(',') {
            Some(behind) => rest = behind,
            None if rest.is_empty() => return Ok(nodes),
            None => return Err("`,` or `;` is missing behind a value".to_owned()),
        }
    }
}

/// A token or a quoted string at the beginning of `text`, and what is behind it.
fn value(text: &str) -> Result<(Cow<'_, str>, &str), String> {
    let Some(quoted) = text.strip_prefix('"') else {
        // Strictly `:` and brackets need quotes; proxies leave them out, and nothing else can be meant.
        let end = text
            .find(|character: char| !(character.is_ascii() && (is_word_byte(character as u8) || "[]:".contains(character))))
            .unwrap_or(text.len());
        return if end == 0 { Err("a parameter without a value".to_owned()) } else { Ok((Cow::Borrowed(&text[..end]), &text[end..])) };
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((Cow::Owned(value), &quoted[at + 1..])),
            '\\' => value.extend(characters.next().map(|(_, character)| character)),
            other => value.push(other),
        }
    }
    Err("a quote is not closed".to_owned())
}

/// The address of a peer as it is compared: IPv4 in IPv6 is IPv4.
pub(crate) fn ip_of(peer: SocketAddr) -> IpAddr {
    peer.ip().to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn from(lines: &str) -> Result<Origin, String> {
        let head = format!(
            "GET /ws HTTP/1.1\r\nHost: a\r\n{lines}Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        let (head, _) = Head::check(head.as_bytes(), &Settings::default()).unwrap();
        let trusted = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        origin(&head, "10.0.0.1".parse().unwrap(), &trusted).map_err(|rejection| rejection.body.into_owned())
    }

    fn client(ip: &str) -> Result<Origin, String> {
        Ok(Origin::Client(ip.parse().unwrap()))
    }

    fn hidden(ip: &str) -> Result<Origin, String> {
        Ok(Origin::Hidden(ip.parse().unwrap()))
    }

    #[test]
    fn the_last_address_that_is_no_proxys_is_the_clients() {
        for (line, expected) in [
            ("X-Forwarded-For: 192.0.2.1", client("192.0.2.1")),
            ("X-Forwarded-For: 198.51.100.9, 192.0.2.1", client("192.0.2.1")),
            ("X-Forwarded-For: no address at all, 192.0.2.1, 10.3.4.5", client("192.0.2.1")),
            ("X-Forwarded-For: 192.0.2.1:4711", client("192.0.2.1")),
            ("X-Forwarded-For: 2001:db8::7", client("2001:db8::7")),
            ("X-Forwarded-For: [2001:db8::7]:443, fd00::1", client("2001:db8::7")),
            ("X-Forwarded-For: fe80::1%eth0", client("fe80::1")),
            ("Forwarded: for=\"[fe80::1%25eth0]:443\"", client("fe80::1")),
            ("X-Forwarded-For: ::ffff:192.0.2.1", client("192.0.2.1")),
            ("X-Forwarded-For: 198.51.100.9\r\nX-Forwarded-For: 192.0.2.1", client("192.0.2.1")),
            ("X-Forwarded-For: 10.9.9.9, 10.3.4.5", client("10.9.9.9")),
            ("X-Forwarded-For: 192.0.2.1, unknown, 10.3.4.5", hidden("10.3.4.5")),
            ("Forwarded: for=192.0.2.1;proto=https;by=10.0.0.1", client("192.0.2.1")),
            ("Forwarded: For=\"[2001:db8:cafe::17]:4711\"", client("2001:db8:cafe::17")),
            ("Forwarded: for=198.51.100.9, for=192.0.2.1, for=10.3.4.5;host=\"a,b;c=\\\"d\"", client("192.0.2.1")),
            ("Forwarded: for=198.51.100.9\r\nForwarded: proto=http;for=\"192.0.2.1:_p1\"", client("192.0.2.1")),
            ("Forwarded: for=192.0.2.1, for=unknown", hidden("10.0.0.1")),
            ("Forwarded: for=192.0.2.1, for=_hidden.1, for=10.3.4.5", hidden("10.3.4.5")),
            ("Forwarded: for=192.0.2.1, proto=https", hidden("10.0.0.1")),
            ("Forwarded: for=192.0.2.1\r\nX-Forwarded-For: 192.0.2.1", client("192.0.2.1")),
            ("Via: 1.1 proxy", hidden("10.0.0.1")),
        ] {
            assert_eq!(from(&format!("{line}\r\n")), expected, "{line}");
        }
    }

    #[test]
    fn a_header_that_can_not_be_read_is_refused() {
        for (line, why) in [
            ("X-Forwarded-For: 192.0.2.1, 300.0.0.1", "`300.0.0.1` is no address"),
            ("X-Forwarded-For: 192.0.2.1,", "`` is no address"),
            ("X-Forwarded-For: [::1", "is no address"),
            ("X-Forwarded-For: 192.0.2.1%eth0", "is no address"),
            ("X-Forwarded-For: 192.0.2.1:port", "is no address"),
            ("Forwarded: for=\"192.0.2.1", "a quote is not closed"),
            ("Forwarded: for=\"evil, for=\"192.0.2.1\"", "`,` or `;` is missing"),
            ("Forwarded: for=", "without a value"),
            ("Forwarded: 192.0.2.1", "without `=`"),
            ("Forwarded: for=192.0.2.1;for=192.0.2.2", "stands twice"),
            ("Forwarded: for=192.0.2.1 for=192.0.2.2", "is missing behind"),
            ("Forwarded: ;for=192.0.2.1", "without a parameter"),
            ("Forwarded: f r=192.0.2.1", "characters"),
            ("Forwarded: for=192.0.2.1\r\nX-Forwarded-For: 192.0.2.2", "name different clients"),
        ] {
            let error = from(&format!("{line}\r\n")).unwrap_err();
            assert!(error.contains(why), "{line}: {error}");
        }
    }
}

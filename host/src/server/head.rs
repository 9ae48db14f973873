//! The request head of a WebSocket upgrade: what it must say, and the HTTP answer when it does not.

use std::borrow::Cow;

use plugsocket_plugin::call::ConnectCall;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::config::Settings;
use crate::wire::ids::{NodeId, SessionId};

/// So much of what a client sent is repeated to it, and to the log.
const SHOWN_CHARS_MAX: usize = 100;
/// Most header lines of an upgrade request.
const HEADERS_COUNT_MAX: usize = 64;

/// A refused upgrade: why, the status line, further header lines, and a sentence for the person who sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rejection {
    /// A word for metrics and log.
    pub cause: &'static str,
    /// Status code and reason phrase.
    pub status: &'static str,
    /// Header lines, each ended by CRLF.
    pub headers: Cow<'static, str>,
    /// The body.
    pub body: Cow<'static, str>,
}

impl Rejection {
    /// A refusal without further header lines.
    pub const fn new(cause: &'static str, status: &'static str, body: &'static str) -> Self {
        Self::with_headers(cause, status, "", body)
    }

    /// A refusal with further header lines, each ended by CRLF.
    pub const fn with_headers(cause: &'static str, status: &'static str, headers: &'static str, body: &'static str) -> Self {
        Self { cause, status, headers: Cow::Borrowed(headers), body: Cow::Borrowed(body) }
    }

    /// The whole HTTP response.
    pub fn response(&self) -> String {
        let Self { status, headers, body, .. } = self;
        let bytes = body.len() + 1;
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {bytes}\r\n{headers}Connection: close\r\n\r\n{body}\n"
        )
    }
}

/// Answer to a head that is over the limit.
pub(crate) const TOO_LARGE: Rejection =
    Rejection::new("too_large", "431 Request Header Fields Too Large", "the request head is longer than this server accepts");
/// Answer to a head that does not come to its end.
pub(crate) const TIMED_OUT: Rejection = Rejection::new("timeout", "408 Request Timeout", "the request head did not arrive in time");
/// Answer to HTTP/1.0 and HTTP/2.
const HTTP_VERSION: Rejection = Rejection::new(
    "http_version",
    "505 HTTP Version Not Supported",
    "a WebSocket starts with HTTP/1.1; a proxy in between must speak HTTP/1.1 to this server",
);
/// Answer while the server shuts down.
pub(crate) const DRAINING: Rejection =
    Rejection::with_headers("draining", "503 Service Unavailable", "Retry-After: 1\r\n", "this server is shutting down; connect again");
/// Answer while the node is lost and no other has taken its place.
pub(crate) const LOST: Rejection = Rejection::with_headers(
    "lost",
    "503 Service Unavailable",
    "Retry-After: 1\r\n",
    "this server was taken for dead and is coming back as another node; try again",
);

/// Answer to bytes that are not HTTP.
pub(crate) const NOT_HTTP: Rejection =
    Rejection::new("not_http", "400 Bad Request", "this port speaks plain HTTP and WebSocket (ws://), without TLS");
/// Answer to bytes within TLS that are not HTTP.
pub(crate) const NOT_HTTP_IN_TLS: Rejection =
    Rejection::new("not_http", "400 Bad Request", "this port speaks HTTP and WebSocket over TLS (wss://), and this was no HTTP");
/// Answer to bytes that are not TLS, where it is needed.
pub(crate) const NOT_TLS: Rejection =
    Rejection::new("not_tls", "400 Bad Request", "this port speaks TLS only: connect with wss:// (or https://), not ws://");

/// A checked head: the bytes as they came, parsed again when the handler is asked.
#[derive(Debug)]
pub(crate) struct Head(Box<[u8]>);

impl Head {
    /// Checks the head of an upgrade request (up to and with its empty line) and answers with it the `Sec-WebSocket-Accept` value.
    ///
    /// # Errors
    /// The [`Rejection`] to answer with.
    pub fn check(bytes: &[u8], settings: &Settings) -> Result<(Self, String), Rejection> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_COUNT_MAX];
        let mut request = httparse::Request::new(&mut headers);
        match request.parse(bytes) {
            // The parser takes a bare LF for the end of a line, a proxy in front may not: then the two would see different headers.
            Ok(httparse::Status::Complete(_)) if !has_bare_lf(bytes) => {}
            Err(httparse::Error::TooManyHeaders) => return Err(TOO_LARGE),
            // HTTP/2 without TLS begins so.
            Err(httparse::Error::Version) => return Err(HTTP_VERSION),
            Ok(_) | Err(_) => {
                return Err(Rejection::new("bad_request", "400 Bad Request", "the request head is not valid HTTP/1.1"));
            }
        }
        let fields = Fields(request.headers);
        if request.method != Some("GET") {
            return Err(Rejection::with_headers("method", "405 Method Not Allowed", "Allow: GET\r\n", "a WebSocket starts with GET"));
        }
        if request.version != Some(1) {
            return Err(HTTP_VERSION);
        }
        let path = request.path.unwrap_or_default().split('?').next().unwrap_or_default();
        if !path.starts_with('/') {
            let body = "the request must name a path, such as /ws: this server is no proxy";
            return Err(Rejection::new("target", "400 Bad Request", body));
        }
        if !settings.server.paths.iter().any(|served| served == path) {
            return Err(Rejection::new("path", "404 Not Found", "WebSocket clients connect to another path (see `server.paths`)"));
        }
        fields.check_upgrade()?;
        fields.check_origin(&settings.limits.origins)?;
        let key = fields.key()?;
        Ok((Self(bytes.into()), derive_accept_key(key)))
    }

    /// The first of `ours` that the client offers.
    pub fn chosen_subprotocol(&self, ours: &[String]) -> Option<String> {
        // Almost nobody asks for any.
        let offered = (!ours.is_empty()).then(|| self.joined("sec-websocket-protocol"))??;
        ours.iter().find(|own| offered.split(',').any(|offer| offer.trim() == own.as_str())).cloned()
    }

    /// All values of a header, joined by commas, which makes the same list of them; `None` when it is missing.
    pub fn joined(&self, name: &'static str) -> Option<String> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_COUNT_MAX];
        let mut request = httparse::Request::new(&mut headers);
        // It parsed when it was checked.
        let _ = request.parse(&self.0);
        let values: Vec<_> = Fields(request.headers).all(name).map(String::from_utf8_lossy).collect();
        (!values.is_empty()).then(|| values.join(","))
    }

    /// What the handler is told of the request, without `data`.
    pub fn connect_call(&self, session: &SessionId, node: &NodeId, ip: String) -> ConnectCall {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_COUNT_MAX];
        let mut request = httparse::Request::new(&mut headers);
        // It parsed when it was checked.
        let _ = request.parse(&self.0);
        let (path, query) = request.path.map_or(("", ""), |path| path.split_once('?').unwrap_or((path, "")));
        let line = |header: &httparse::Header<'_>| (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned());
        ConnectCall {
            connection_id: session.to_string(),
            data: None,
            node: node.to_string(),
            ip,
            path: path.to_owned(),
            query: query.to_owned(),
            headers: request.headers.iter().map(line).collect(),
            claims: None,
        }
    }
}

struct Fields<'head>(&'head [httparse::Header<'head>]);

impl<'head> Fields<'head> {
    fn all(&self, name: &'static str) -> impl Iterator<Item = &'head [u8]> {
        let headers = self.0;
        headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value.trim_ascii())
    }

    /// The only value of a header; `None` when it is missing or there several times.
    fn only(&self, name: &'static str) -> Option<&'head [u8]> {
        let mut values = self.all(name);
        values.next().filter(|_| values.next().is_none())
    }

    fn lists(&self, name: &'static str, token: &str) -> bool {
        self.all(name).any(|value| value.split(|byte| *byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes())))
    }

    fn check_upgrade(&self) -> Result<(), Rejection> {
        const UPGRADE: &str = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
        if self.only("host").is_none_or(<[u8]>::is_empty) {
            return Err(Rejection::new("bad_request", "400 Bad Request", "exactly one Host header is needed"));
        }
        if !self.lists("upgrade", "websocket") {
            let body = "this is a WebSocket server: connect with a WebSocket client";
            return Err(Rejection::with_headers("no_upgrade", "426 Upgrade Required", UPGRADE, body));
        }
        if !self.lists("connection", "upgrade") {
            let body = "`Connection: Upgrade` is missing; a proxy in between may have removed it";
            return Err(Rejection::new("bad_request", "400 Bad Request", body));
        }
        if self.only("sec-websocket-version") != Some(b"13") {
            return Err(Rejection::with_headers("ws_version", "426 Upgrade Required", UPGRADE, "Sec-WebSocket-Version must be 13"));
        }
        if self.all("content-length").any(|value| value != b"0") || self.all("transfer-encoding").next().is_some() {
            return Err(Rejection::new("bad_request", "400 Bad Request", "an upgrade request has no body"));
        }
        Ok(())
    }

    fn key(&self) -> Result<&'head [u8], Rejection> {
        // 16 bytes in base64: 22 letters and two `=`.
        let is_key = |key: &&[u8]| {
            key.len() == 24 && key.ends_with(b"==") && key[..22].iter().all(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(byte))
        };
        self.only("sec-websocket-key").filter(is_key).ok_or(Rejection::new(
            "bad_request",
            "400 Bad Request",
            "Sec-WebSocket-Key must be there once, with 16 bytes in base64",
        ))
    }

    fn check_origin(&self, allowed: &[String]) -> Result<(), Rejection> {
        if self.all("origin").next().is_none() || allowed.iter().any(|origin| origin == "*") {
            return Ok(());
        }
        let origin = self.only("origin").and_then(|origin| std::str::from_utf8(origin).ok()).unwrap_or_default();
        let host = self.only("host").and_then(|host| std::str::from_utf8(host).ok()).unwrap_or_default();
        let is_allowed = if allowed.is_empty() {
            origin.split_once("://").is_some_and(|(_, authority)| without_port(authority).eq_ignore_ascii_case(without_port(host)))
        } else {
            allowed.iter().any(|entry| without_default_port(entry).eq_ignore_ascii_case(without_default_port(origin)))
        };
        if is_allowed {
            Ok(())
        } else {
            let shown = |text: &str| text.chars().take(SHOWN_CHARS_MAX).collect::<String>();
            let body = format!("pages of {:?} may not connect to {:?} (see `limits.origins`)", shown(origin), shown(host));
            Err(Rejection { body: body.into(), ..Rejection::new("origin", "403 Forbidden", "") })
        }
    }
}

fn has_bare_lf(bytes: &[u8]) -> bool {
    bytes.iter().enumerate().any(|(at, byte)| *byte == b'\n' && (at == 0 || bytes[at - 1] != b'\r'))
}

/// Browsers leave the scheme's own port out; whoever writes the list may not.
fn without_default_port(origin: &str) -> &str {
    let origin = origin.trim_end_matches('/');
    let port = if origin.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://")) { ":443" } else { ":80" };
    origin.strip_suffix(port).unwrap_or(origin)
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && (host.ends_with(']') || !host.starts_with('[')) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ids::NodeId;

    const GOOD: &str = "GET /ws?room=1 HTTP/1.1\r\nHost: chat.example:8000\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
                        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    fn status(head: &str, origins: &[&str]) -> &'static str {
        let mut settings = Settings::default();
        settings.limits.origins = origins.iter().map(|origin| (*origin).to_owned()).collect();
        Head::check(head.as_bytes(), &settings).map_or_else(|rejection| &rejection.status[..3], |_| "101")
    }

    #[test]
    fn the_rfc_example_passes() {
        let (head, accept) = Head::check(GOOD.as_bytes(), &Settings::default()).unwrap();
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let node = NodeId::random().unwrap();
        let call = head.connect_call(&SessionId::random(&node).unwrap(), &node, "::1".to_owned());
        assert_eq!((call.path.as_str(), call.query.as_str()), ("/ws", "room=1"));
        assert_eq!(call.headers[0], ("host".to_owned(), "chat.example:8000".to_owned()));
    }

    #[test]
    fn each_fault_has_its_status() {
        for (from, to, expected) in [
            ("GET", "POST", "405"),
            ("HTTP/1.1", "HTTP/1.0", "505"),
            ("HTTP/1.1", "HTTP/2.0", "505"),
            ("/ws", "/wss", "404"),
            ("/ws", "http://chat.example/ws", "400"),
            ("/ws", "*", "400"),
            ("Host: chat.example:8000\r\n", "", "400"),
            ("Upgrade: WebSocket\r\n", "", "426"),
            ("keep-alive, Upgrade", "keep-alive", "400"),
            ("Version: 13", "Version: 8", "426"),
            ("dGhl", "dGh", "400"),
            ("Sec-WebSocket-Key", "X-Key", "400"),
            ("Host:", "Content-Length: 5\r\nHost:", "400"),
            ("Host:", "Transfer-Encoding: chunked\r\nHost:", "400"),
            ("Host:", "Host: other\r\nHost:", "400"),
            ("chat.example:8000", "", "400"),
            ("Host:", "X: a\nOrigin: https://evil.example\r\nHost:", "400"),
            ("Host:", "X: a\n\nHost:", "400"),
            ("Host:", "X : a\r\nHost:", "400"),
            ("Host:", "X: a\r\n Origin: b\r\nHost:", "400"),
            ("GET ", "\u{1}GET ", "400"),
        ] {
            assert_eq!(status(&GOOD.replacen(from, to, 1), &[]), expected, "{from} → {to}");
        }
        assert_eq!(status(&GOOD.replacen("Host:", &format!("{}Host:", "A: b\r\n".repeat(64)), 1), &[]), "431");
    }

    #[test]
    fn the_first_of_our_subprotocols_that_is_offered_is_chosen() {
        let head =
            |lines: &str| Head::check(GOOD.replacen("Host:", &format!("{lines}Host:"), 1).as_bytes(), &Settings::default()).unwrap().0;
        let ours = ["chat.v2".to_owned(), "chat.v1".to_owned()];
        for (lines, expected) in [
            ("", None),
            ("Sec-WebSocket-Protocol: other\r\n", None),
            ("Sec-WebSocket-Protocol: CHAT.V1\r\n", None),
            ("Sec-WebSocket-Protocol: chat.v1\r\n", Some("chat.v1")),
            ("Sec-WebSocket-Protocol: chat.v1, x, chat.v2\r\n", Some("chat.v2")),
            ("Sec-WebSocket-Protocol: chat.v1\r\nSec-WebSocket-Protocol: chat.v2\r\n", Some("chat.v2")),
        ] {
            assert_eq!(head(lines).chosen_subprotocol(&ours).as_deref(), expected, "{lines}");
        }
        assert_eq!(head("Sec-WebSocket-Protocol: chat.v1\r\n").chosen_subprotocol(&[]), None);
    }

    #[test]
    fn origins() {
        let from = |origin: &str| GOOD.replacen("Host:", &format!("Origin: {origin}\r\nHost:"), 1);
        for (origin, allowed, expected) in [
            ("https://chat.example", &[][..], "101"),
            ("http://CHAT.example:3000", &[], "101"),
            ("https://evil.example", &[], "403"),
            ("https://chat.example.evil", &[], "403"),
            ("null", &[], "403"),
            ("https://evil.example@chat.example", &[], "403"),
            ("https://chat.example@evil.example", &[], "403"),
            ("https://", &[], "403"),
            ("https://a.example, https://chat.example", &["https://chat.example"], "403"),
            ("https://a.example", &["HTTPS://A.example:443"], "101"),
            ("https://a.example:80", &["https://a.example"], "403"),
            ("https://evil.example", &["*"], "101"),
            ("https://a.example", &["https://a.example/"], "101"),
            ("https://chat.example", &["https://a.example"], "403"),
            ("http://a.example", &["https://a.example"], "403"),
        ] {
            assert_eq!(status(&from(origin), allowed), expected, "{origin} {allowed:?}");
        }
        assert_eq!((without_port("[::1]:80"), without_port("[::1]"), without_port("a:1")), ("[::1]", "[::1]", "a"));
    }
}

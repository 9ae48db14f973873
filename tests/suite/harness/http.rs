//! The smallest HTTP client that the ops listener needs: one request, one connection, the whole answer.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use super::PATIENCE;

/// One answer.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Header lines as they came.
    pub headers: Vec<(String, String)>,
    /// The body as text.
    pub body: String,
}

impl Answer {
    /// The value of a header, whatever the case of its name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }
}

/// `GET`s `http://host:port/path`.
pub fn get(url: &str) -> Answer {
    request("GET", url, &[], "")
}

/// `POST`s JSON with further headers.
pub fn post_json(url: &str, body: &Value, headers: &[(&str, &str)]) -> Answer {
    let headers: Vec<(&str, &str)> = [("Content-Type", "application/json")].iter().chain(headers).copied().collect();
    request("POST", url, &headers, &body.to_string())
}

/// Any request. `Host` is the address unless `headers` has another.
///
/// # Panics
/// When there is no connection, or no whole answer in time.
pub fn request(method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let (address, path) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).unwrap_or_else(|| panic!("{url} has no path"));
    let mut head = format!("{method} /{path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head.push_str(&format!("Host: {address}\r\n"));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("can't connect to {url}: {error}"));
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("{head}\r\n{body}").as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap_or_else(|error| panic!("{method} {url}: no whole answer: {error}"));
    parse(&String::from_utf8_lossy(&answer))
}

fn parse(text: &str) -> Answer {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("not an HTTP answer: {text:?}"));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok()).unwrap();
    let headers: Vec<(String, String)> =
        lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
    let chunked = headers.iter().any(|(name, value)| name.eq_ignore_ascii_case("transfer-encoding") && value == "chunked");
    let body = if chunked { unchunked(body) } else { body.to_owned() };
    Answer { status, headers, body }
}

fn unchunked(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, content)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        if size == 0 {
            break;
        }
        body.push_str(&content[..size]);
        rest = &content[size + 2..];
    }
    body
}

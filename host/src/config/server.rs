//! `[server]`: the address for clients, who may come in, and the handler.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::wire::protocol::Protocol;

/// When `connect` is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectOn {
    /// At the client's `register` frame.
    Register,
    /// During the HTTP upgrade: a refusal is an HTTP status.
    Upgrade,
}

/// Where the handler's `on_loop` runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoopOn {
    /// On each server.
    EveryNode,
    /// On one of them; another one takes over when it ends.
    OneNode,
}

/// `[server]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerSettings {
    /// Address for clients.
    #[serde(deserialize_with = "address")]
    pub listen: SocketAddr,
    /// Paths that clients connect to.
    pub paths: Vec<String>,
    /// WebSocket subprotocols, the most wanted first; a client that offers several gets the first of ours.
    pub subprotocols: Vec<String>,
    /// Addresses or networks (`10.0.0.0/8`) whose `Forwarded` and `X-Forwarded-For` are believed.
    #[serde(deserialize_with = "networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// With a certificate clients connect with `wss://` only.
    pub tls: ServerTlsSettings,
    /// With keys clients need a token.
    pub token: TokenSettings,
    /// Plugin whose handler decides who may connect.
    pub handler: Option<String>,
    /// The shapes that clients speak.
    pub protocol: Protocol,
    /// When `connect` is called.
    pub connect_on: ConnectOn,
    /// How often the handler's `on_loop` runs.
    #[serde(with = "humantime_serde")]
    pub loop_interval: Duration,
    /// On which nodes.
    pub loop_on: LoopOn,
    /// How long SIGTERM waits for sessions, messages in flight and `disconnect` calls before cutting them.
    #[serde(with = "humantime_serde")]
    pub drain_timeout: Duration,
    /// Clients of a server that drains are told to come back at moments spread over this time.
    #[serde(with = "humantime_serde")]
    pub drain_window: Duration,
    /// Longest time a handler call may take.
    #[serde(with = "humantime_serde")]
    pub handler_timeout: Duration,
    /// Most handler calls (registrations, fallback messages, disconnects) running at once.
    pub handler_calls_max: usize,
    /// Most fallback messages waiting per connection.
    pub fallback_waiting_max: usize,
    /// Attempts of a fallback message or `disconnect`.
    pub handler_attempts: u32,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8000)),
            paths: vec!["/".to_owned(), "/ws".to_owned()],
            subprotocols: Vec::new(),
            trusted_proxies: Vec::new(),
            tls: ServerTlsSettings::default(),
            token: TokenSettings::default(),
            handler: None,
            protocol: Protocol::Envelope,
            connect_on: ConnectOn::Register,
            loop_interval: Duration::from_millis(100),
            loop_on: LoopOn::EveryNode,
            drain_timeout: Duration::from_secs(8),
            drain_window: Duration::from_secs(10),
            handler_timeout: Duration::from_secs(10),
            handler_calls_max: 64,
            fallback_waiting_max: 128,
            handler_attempts: 3,
        }
    }
}

impl ServerSettings {
    /// These settings, with what of `new` applies while the server runs.
    #[must_use]
    pub fn with_live(&self, new: &Self) -> Self {
        Self {
            paths: new.paths.clone(),
            subprotocols: new.subprotocols.clone(),
            trusted_proxies: new.trusted_proxies.clone(),
            drain_timeout: new.drain_timeout,
            drain_window: new.drain_window,
            ..self.clone()
        }
    }
}

/// Reads an address to listen on, or says how one is written.
pub(super) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("`{text}` is no address: write IP:PORT, such as 127.0.0.1:8000, 0.0.0.0:8000 or [::]:8000; names are not resolved")
    })
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    parse_address(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// Networks, or single addresses.
fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let network = |text: &String| {
        let parsed = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        parsed.map_err(|_| D::Error::custom(format!("`{text}` is no address and no network such as 10.0.0.0/8")))
    };
    Vec::<String>::deserialize(deserializer)?.iter().map(network).collect()
}

/// `[server.tls]`
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerTlsSettings {
    /// The certificate and those that lead to its authority (PEM); relative to the config file's folder.
    pub cert_file: Option<PathBuf>,
    /// Its key (PEM).
    pub key_file: Option<PathBuf>,
}

/// How a token is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
pub enum TokenAlgorithm {
    /// A secret that both sides know.
    HS256,
    /// RSA with SHA-256.
    RS256,
    /// The curve P-256.
    ES256,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

/// One key that tokens may be signed with.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenKey {
    /// What it is for; a token that names another is refused.
    pub algorithm: TokenAlgorithm,
    /// The secret itself (HS256), or the public key (PEM); relative to the config file's folder.
    pub file: PathBuf,
    /// The token's `kid`; without it the key is tried for every token.
    #[serde(default)]
    pub id: Option<String>,
}

/// `[server.token]`
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TokenSettings {
    /// Keys of whoever issues tokens; none = no token is asked for.
    pub keys: Vec<TokenKey>,
    /// Where a token may be, in this order: `header:NAME`, `query:NAME`, `subprotocol:NAME`, `register:MEMBER`.
    pub from: Vec<String>,
    /// The `iss` it must have.
    pub issuer: Option<String>,
    /// The `aud` it must have.
    pub audience: Option<String>,
    /// How far clocks may be apart.
    #[serde(with = "humantime_serde")]
    pub leeway: Duration,
    /// How long before its end the client is warned.
    #[serde(with = "humantime_serde")]
    pub expiry_warning: Duration,
}

impl Default for TokenSettings {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            from: ["header:Authorization", "query:token", "register:token"].map(str::to_owned).to_vec(),
            issuer: None,
            audience: None,
            leeway: Duration::from_secs(10),
            expiry_warning: Duration::from_secs(60),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_an_address_or_a_network() {
        let settings: ServerSettings = toml::from_str(r#"trusted_proxies = ["192.0.2.1", "10.0.0.0/8", "::1"]"#).unwrap();
        assert_eq!(settings.trusted_proxies.iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.0.2.1/32", "10.0.0.0/8", "::1/128"]);
    }
}

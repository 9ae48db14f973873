//! Where Redis is and how to get in: the URL, the files for TLS, and errors that say which of them is wrong.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, ProtocolVersion,
    RedisError, TlsCertificates,
};
use rustls::ClientConfig;
use tokio::time;

use super::link::{Link, LinkError};
use super::socket;

use crate::queue::{QueueError, TlsFiles};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const USER_TIMEOUT: Duration = Duration::from_secs(10);

/// What may stand behind the `?` of a Unix socket's path.
const UNIX_KEYS: [&str; 3] = ["db", "user", "pass"];

/// A Redis that can be connected to.
pub(super) struct Address {
    client: Client,
    info: ConnectionInfo,
    tls: Option<Arc<ClientConfig>>,
    /// For people: without user and password.
    place: String,
    ca_file: Option<PathBuf>,
}

impl Address {
    /// Reads the URL and the files; connects to nothing yet.
    ///
    /// # Errors
    /// [`QueueError::Invalid`], never with a password in it.
    pub(super) fn parse(url: &str, tls: &TlsFiles) -> Result<Self, QueueError> {
        let invalid = |error: RedisError| {
            QueueError::Invalid(format!("queue URL is not like redis://[user:password@]host:port/db or unix:///path: {error}"))
        };
        check_query(url)?;
        let info = url.into_connection_info().map_err(invalid)?;
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE);
        let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
        #[cfg(target_os = "linux")]
        let settings = settings.set_user_timeout(USER_TIMEOUT);
        // Answers are read in the shapes of RESP2.
        let login = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP2);
        let info = info.set_tcp_settings(settings).set_redis_settings(login);
        let place = match info.addr() {
            ConnectionAddr::TcpTls { insecure: true, .. } => {
                return Err(QueueError::Invalid("queue URL ends in #insecure, which would let anybody play Redis: remove it".to_owned()));
            }
            ConnectionAddr::TcpTls { host, port, .. } => format!("rediss://{host}:{port}"),
            ConnectionAddr::Tcp(host, port) => format!("redis://{host}:{port}"),
            ConnectionAddr::Unix(path) => format!("unix://{}", path.display()),
            _ => "Redis".to_owned(),
        };
        let (client, tls_config) = if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            // The first one stays: somebody may have installed it before.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let certificates = certificates(tls)?;
            let no_pem = |error: String| QueueError::Invalid(format!("a file for TLS to Redis is no PEM of its kind: {error}"));
            let config = socket::tls_config(&certificates).map_err(|error| no_pem(error.to_string()))?;
            (Client::build_with_tls(info.clone(), certificates).map_err(|error| no_pem(error.to_string()))?, Some(config))
        } else {
            (Client::open(info.clone()).map_err(invalid)?, None)
        };
        Ok(Self { client, info, tls: tls_config, place, ca_file: tls.ca.clone() })
    }

    /// A new connection. `response_timeout` bounds every command on it.
    pub(super) async fn connect(&self, response_timeout: Duration) -> Result<MultiplexedConnection, RedisError> {
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_TIMEOUT)).set_response_timeout(Some(response_timeout));
        self.client.get_multiplexed_async_connection_with_config(&config).await
    }

    /// A new connection of our own kind, logged in.
    pub(super) async fn link(&self) -> Result<Link, LinkError> {
        time::timeout(CONNECT_TIMEOUT, socket::open(&self.info, self.tls.as_ref())).await.unwrap_or(Err(LinkError::Late(CONNECT_TIMEOUT)))
    }

    /// A failed connection in the operator's words: where, why, and what mends it.
    pub(super) fn explain(&self, error: &RedisError) -> String {
        let text = error.to_string();
        let hint = self.hint(error, &text).map(|hint| format!("; {hint}")).unwrap_or_default();
        format!("{}: {text}{hint}", self.place)
    }

    fn hint(&self, error: &RedisError, text: &str) -> Option<String> {
        let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
        let owned = |hint: &str| Some(hint.to_owned());
        if has(&["NOAUTH", "WRONGPASS"]) || error.kind() == ErrorKind::AuthenticationFailed {
            return owned("set the user and password of its ACL in `queue`: redis://user:password@host");
        }
        if has(&["NOPERM"]) {
            return owned("give its ACL user the rights that docs/operations.md lists");
        }
        if has(&["DB index is out of range"]) {
            return owned("use a database that it has: `databases` in its redis.conf, 16 unless set");
        }
        if error.is_connection_refusal() {
            return owned("is Redis running there, and is `queue` its address?");
        }
        if !self.place.starts_with("rediss://") {
            let is_cut_off = error.is_connection_dropped() && self.place.starts_with("redis://");
            return is_cut_off.then(|| "is this its port for TLS? then it is rediss://".to_owned());
        }
        if has(&["UnknownIssuer", "BadSignature"]) {
            return Some(match &self.ca_file {
                Some(file) => format!("its certificate is not signed by the CA in {}: set queue_options.tls_ca_file", file.display()),
                None => "its certificate is not signed by a public CA: name its CA's file in queue_options.tls_ca_file".to_owned(),
            });
        }
        if has(&["not valid for name", "NotValidForName"]) {
            return owned("use a host name in `queue` that its certificate has");
        }
        if has(&["corrupt message", "InvalidContentType"]) {
            return owned("it does not speak TLS at this port: use its port for TLS, or redis://");
        }
        if error.is_timeout() {
            // A plain port waits for the end of what it takes for a line.
            return owned("perhaps it does not speak TLS at this port: use its port for TLS, or redis://");
        }
        if has(&["CertificateRequired", "HandshakeFailure", "UnknownCA", "BadCertificate"]) {
            return owned("it wants a client certificate that it trusts: set queue_options.tls_cert_file and tls_key_file");
        }
        None
    }
}

/// A key that means nothing would be passed over in silence, and another database be used than meant.
fn check_query(url: &str) -> Result<(), QueueError> {
    let Some((_, query)) = url.split_once('?') else { return Ok(()) };
    let is_unix = url.split(':').next().is_some_and(|scheme| scheme.ends_with("unix"));
    let unknown = query.split('&').map(|pair| pair.split('=').next().unwrap_or_default()).find(|key| !(is_unix && UNIX_KEYS.contains(key)));
    let takes =
        if is_unix { "takes db, user and pass behind the `?`" } else { "takes no `?`: the database is its path, redis://host:port/3" };
    match unknown {
        Some(_) => Err(QueueError::Invalid(format!("queue URL {takes}; write %3F for one in a password"))),
        None => Ok(()),
    }
}

fn certificates(tls: &TlsFiles) -> Result<TlsCertificates, QueueError> {
    let root_cert = tls.ca.as_deref().map(|path| read(path, "tls_ca_file")).transpose()?;
    let client_tls = match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => {
            Some(ClientTlsConfig { client_cert: read(certificate, "tls_cert_file")?, client_key: read(key, "tls_key_file")? })
        }
        _ => None,
    };
    Ok(TlsCertificates { client_tls, root_cert })
}

fn read(path: &Path, key: &str) -> Result<Vec<u8>, QueueError> {
    let bytes = std::fs::read(path).map_err(|error| QueueError::Invalid(format!("queue_options.{key}: {}: {error}", path.display())))?;
    // Without this an empty file would mean "trust nobody", and be told as a wrong certificate of the server.
    if !bytes.windows(5).any(|window| window == b"-----") {
        return Err(QueueError::Invalid(format!("queue_options.{key}: {} is no PEM file", path.display())));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Address, String> {
        Address::parse(url, &TlsFiles::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn urls_of_every_kind_are_read() {
        for (url, place, db, user, password) in [
            ("redis://host", "redis://host:6379", 0, None, None),
            ("redis://u:p%40%23@host:7/3", "redis://host:7", 3, Some("u"), Some("p@#")),
            ("redis://:p@host", "redis://host:6379", 0, None, Some("p")),
            ("rediss://u:p@host:7/3", "rediss://host:7", 3, Some("u"), Some("p")),
            ("unix:///run/r.sock?db=2&user=u&pass=p", "unix:///run/r.sock", 2, Some("u"), Some("p")),
            ("redis+unix:///run/r.sock", "unix:///run/r.sock", 0, None, None),
        ] {
            let address = parse(url).unwrap();
            assert_eq!(address.place, place);
            let login = address.client.get_connection_info().redis_settings().clone();
            assert_eq!((login.db(), login.username(), login.password()), (db, user, password), "{url}");
        }
    }

    #[test]
    fn what_can_not_be_meant_is_refused_without_its_password() {
        for (url, word) in [
            ("rediss://u:secret@host#insecure", "#insecure"),
            ("redis://u:secret@host?db=3", "takes no `?`"),
            ("redis://u:secret@host/three", "database number"),
            ("unix:///run/r.sock?password=secret", "takes db, user and pass"),
            ("http://u:secret@host", "did not parse"),
        ] {
            let Err(error) = parse(url) else { panic!("{url} passed") };
            assert!(error.contains(word) && !error.contains("secret"), "{url}: {error}");
        }
    }

    #[test]
    fn a_file_that_is_no_pem_is_named() {
        let tls = TlsFiles { ca: Some("/dev/null".into()), ..TlsFiles::default() };
        let Err(QueueError::Invalid(error)) = Address::parse("rediss://host", &tls) else { panic!("passed") };
        assert_eq!(error, "queue_options.tls_ca_file: /dev/null is no PEM file");
    }
}

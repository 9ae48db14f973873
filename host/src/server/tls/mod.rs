//! TLS towards clients: the handshake, with a certificate that may be replaced while sockets are open.

mod certificate;
mod follow;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;

pub use self::certificate::CertificateError;
use self::certificate::{Certificate, Place, when};
use super::follow::Fingerprint;
use super::stream::Stream;
use crate::config::ServerTlsSettings;

/// The first byte of every TLS connection: a record of the handshake.
const HANDSHAKE_RECORD: u8 = 22;
/// Most bytes a connection holds for a socket that takes nothing; rustls's own default is 64 KiB.
const BUFFER_BYTES: usize = 16 * 1024;
/// A fatal alert, `internal_error`, before any handshake: the cheapest word there is in TLS. It has none for "too many".
pub(crate) const TURNED_AWAY: [u8; 7] = [21, 3, 3, 0, 2, 2, 80];

/// Why there is no TLS connection.
pub(crate) enum Insecure {
    /// The client speaks, but not TLS; nothing has been read yet.
    Plain(TcpStream),
    /// It speaks TLS that does not fit ours; it has been told by an alert.
    Failed(String),
    /// Not in time.
    TimedOut,
    /// There is nobody any more.
    Gone,
}

/// The server's side of TLS.
pub(crate) struct Tls {
    acceptor: TlsAcceptor,
    place: Place,
    /// Of the files that the certificate was made of.
    fingerprint: Fingerprint,
    current: Arc<Current>,
}

#[derive(Debug)]
struct Current(ArcSwap<Certificate>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.load().key))
    }
}

impl Tls {
    /// Loads the certificate; `None` when none is configured. Blocks for the time of reading two files.
    ///
    /// # Errors
    /// [`CertificateError`]
    pub fn open(settings: &ServerTlsSettings) -> Result<Option<Self>, CertificateError> {
        let (Some(cert_file), Some(key_file)) = (&settings.cert_file, &settings.key_file) else { return Ok(None) };
        let place = Place { cert_file: cert_file.clone(), key_file: key_file.clone() };
        let files = place.read()?;
        let certificate = place.parse(&files, now())?;
        note(&certificate);
        tracing::info!(names = certificate.names.join(", "), ends = when(certificate.ends), "certificate loaded");
        let current = Arc::new(Current(ArcSwap::from_pointee(certificate)));
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(CertificateError::Setup)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&current) as _);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Sessions are resumed by tickets, which cost the server no memory.
        config.ticketer = Ticketer::new().map_err(CertificateError::Setup)?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 1;
        Ok(Some(Self { acceptor: TlsAcceptor::from(Arc::new(config)), place, fingerprint: files.fingerprint, current }))
    }

    /// The handshake of one client, until `deadline`.
    ///
    /// Dropping the future closes the connection.
    ///
    /// # Errors
    /// [`Insecure`]
    pub async fn accept(&self, socket: TcpStream, deadline: Instant) -> Result<Stream, Insecure> {
        timeout_at(deadline, self.shake(socket)).await.unwrap_or(Err(Insecure::TimedOut))
    }

    async fn shake(&self, socket: TcpStream) -> Result<Stream, Insecure> {
        let mut first = [0];
        match socket.peek(&mut first).await {
            Ok(1) if first[0] == HANDSHAKE_RECORD => {}
            Ok(1) => return Err(Insecure::Plain(socket)),
            Ok(_) | Err(_) => return Err(Insecure::Gone),
        }
        match self.acceptor.accept_with(socket, |session| session.set_buffer_limit(Some(BUFFER_BYTES))).into_fallible().await {
            Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
            Err((error, mut socket)) => {
                let _ = socket.shutdown().await; // the alert is written
                match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                    Some(error) => Err(Insecure::Failed(error.to_string())),
                    None => Err(Insecure::Gone),
                }
            }
        }
    }
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

#[allow(clippy::cast_precision_loss)] // Seconds of the epoch fit 52 bits.
fn note(certificate: &Certificate) {
    metrics::gauge!("plugsocket_certificate_expires_seconds").set(certificate.ends as f64);
}

/// Whether these two files can be served for `days` more.
///
/// # Errors
/// [`CertificateError`]
pub fn check_certificate(settings: &ServerTlsSettings, days: u32) -> Result<(), CertificateError> {
    let (Some(cert_file), Some(key_file)) = (&settings.cert_file, &settings.key_file) else { return Ok(()) };
    let place = Place { cert_file: cert_file.clone(), key_file: key_file.clone() };
    let files = place.read()?;
    place.parse(&files, now())?;
    place.parse(&files, now() + i64::from(days) * follow::DAY).map(drop)
}

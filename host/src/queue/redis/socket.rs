//! Sockets to Redis for connections of our own kind: TCP, TLS over it, or Unix; opened, set up and logged in.

use std::io;
use std::sync::Arc;

use redis::io::tcp::{TcpSettings, socket2::SockRef};
use redis::{ConnectionAddr, ConnectionInfo, Pipeline, TlsCertificates, Value};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::connect::CALL_TIMEOUT;
use super::link::{Link, LinkError, Socket};

/// Opens a connection. The caller bounds the time.
pub(super) async fn open(info: &ConnectionInfo, tls: Option<&Arc<ClientConfig>>) -> Result<Link, LinkError> {
    let socket: Box<dyn Socket> = match info.addr() {
        ConnectionAddr::Tcp(host, port) => Box::new(tcp(host, *port, info.tcp_settings()).await?),
        ConnectionAddr::TcpTls { host, port, .. } => {
            let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
            let connector = TlsConnector::from(Arc::clone(tls.ok_or_else(|| io::Error::other("TLS is not set up"))?));
            Box::new(connector.connect(name, tcp(host, *port, info.tcp_settings()).await?).await?)
        }
        ConnectionAddr::Unix(path) => Box::new(UnixStream::connect(path).await?),
        other => return Err(io::Error::other(format!("no way to connect to {other}")).into()),
    };
    let mut link = Link::new(socket);
    let (login, settings) = (&mut Pipeline::new(), info.redis_settings());
    if let Some(password) = settings.password() {
        let authenticate = login.cmd("AUTH");
        if let Some(user) = settings.username() {
            authenticate.arg(user);
        }
        authenticate.arg(password);
    }
    if settings.db() != 0 {
        login.cmd("SELECT").arg(settings.db());
    }
    for answer in link.run(login, CALL_TIMEOUT).await? {
        if let Value::ServerError(error) = answer {
            return Err(LinkError::Refused(error.to_string()));
        }
    }
    Ok(link)
}

async fn tcp(host: &str, port: u16, settings: &TcpSettings) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    let socket = SockRef::from(&stream);
    socket.set_tcp_nodelay(settings.nodelay())?;
    if let Some(keepalive) = settings.keepalive() {
        socket.set_tcp_keepalive(keepalive)?;
    }
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(settings.user_timeout())?;
    Ok(stream)
}

/// The same trust as the other connections have: the CA's file alone where one is named, public CAs otherwise.
pub(super) fn tls_config(files: &TlsCertificates) -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    match &files.root_cert {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
            }
        }
    }
    let config = ClientConfig::builder().with_root_certificates(roots);
    let config = match &files.client_tls {
        None => config.with_no_client_auth(),
        Some(own) => {
            let chain = CertificateDer::pem_slice_iter(&own.client_cert).collect::<Result<Vec<_>, _>>().map_err(io::Error::other)?;
            let key = PrivateKeyDer::from_pem_slice(&own.client_key).map_err(io::Error::other)?;
            config.with_client_auth_cert(chain, key).map_err(io::Error::other)?
        }
    };
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use redis::IntoConnectionInfo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, UnixListener};
    use tokio_rustls::TlsAcceptor;

    use super::*;

    const LOGIN: &[u8] = b"*3\r\n$4\r\nAUTH\r\n$1\r\nu\r\n$1\r\np\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n";

    /// Takes a login, and answers it.
    async fn serve(mut stream: impl Socket, answers: &[u8]) {
        let mut login = vec![0; LOGIN.len()];
        stream.read_exact(&mut login).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&login), String::from_utf8_lossy(LOGIN));
        stream.write_all(answers).await.unwrap();
        stream.flush().await.unwrap();
    }

    fn certificate() -> (String, rustls::ServerConfig) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        (made.cert.pem(), config)
    }

    #[tokio::test]
    async fn over_tls_it_trusts_the_named_ca_alone() {
        let (pem, config) = certificate();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let info = format!("rediss://u:p@localhost:{}/3", listener.local_addr().unwrap().port()).into_connection_info().unwrap();
        let server = async {
            let acceptor = TlsAcceptor::from(Arc::new(config));
            serve(acceptor.accept(listener.accept().await.unwrap().0).await.unwrap(), b"+OK\r\n+OK\r\n").await;
            assert!(acceptor.accept(listener.accept().await.unwrap().0).await.is_err(), "refused by the other side");
        };
        let client = async {
            let files = TlsCertificates { client_tls: None, root_cert: Some(pem.into_bytes()) };
            open(&info, Some(&tls_config(&files).unwrap())).await.map(drop).unwrap();
            let strict = tls_config(&TlsCertificates { client_tls: None, root_cert: None }).unwrap();
            assert!(open(&info, Some(&strict)).await.is_err(), "no public CA signed it");
        };
        tokio::join!(server, client);
    }

    #[tokio::test]
    async fn a_refused_login_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let info = format!("unix://{}?db=3&user=u&pass=p", path.display()).into_connection_info().unwrap();
        let server = async { serve(listener.accept().await.unwrap().0, b"-WRONGPASS no\r\n-NOAUTH no\r\n").await };
        let (refused, ()) = tokio::join!(open(&info, None), server);
        assert!(matches!(refused, Err(LinkError::Refused(reason)) if reason.contains("WRONGPASS")));
    }
}

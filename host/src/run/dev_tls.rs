//! `plugsocket dev --tls`: a certificate for this machine only, made once and kept in `state_dir`.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

use crate::config::{Common, Override, ServerTlsSettings};
use crate::server::check_certificate;

const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// Browsers take nothing that is valid for longer than 825 days.
const VALID: Duration = Duration::from_secs(365 * 24 * 3600);
/// It is made anew when it has fewer days left.
const DAYS_LEFT_MIN: u32 = 14;

/// The certificate's two files.
pub(super) struct Certificate {
    files: ServerTlsSettings,
    path: PathBuf,
}

/// Finds the certificate, or makes it; `None` when the config has one of its own.
pub(super) fn certificate(common: &Common, first: &[Override]) -> anyhow::Result<Option<Certificate>> {
    let settings = common.source(first.to_vec()).load()?;
    if settings.server.tls.cert_file.is_some() {
        return Ok(None);
    }
    let folder = &settings.state_dir;
    let failed = || format!("no certificate for `dev --tls` can be kept in {}", folder.display());
    DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(failed)?;
    let folder = folder.canonicalize().with_context(failed)?;
    let (path, key) = (folder.join("dev-tls.pem"), folder.join("dev-tls.key"));
    let files = ServerTlsSettings { cert_file: Some(path.clone()), key_file: Some(key.clone()) };
    if check_certificate(&files, DAYS_LEFT_MIN).is_err() {
        make(&path, &key).with_context(failed)?;
    }
    Ok(Some(Certificate { files, path }))
}

fn make(cert_file: &Path, key_file: &Path) -> anyhow::Result<()> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(NAMES.map(str::to_owned).to_vec())?;
    params.distinguished_name.push(DnType::CommonName, "plugsocket dev");
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    // An hour back: clocks of virtual machines differ.
    params.not_before = date_time_ymd(1970, 1, 1) + now.saturating_sub(Duration::from_secs(3600));
    params.not_after = params.not_before + VALID;
    let certificate = params.self_signed(&key)?;
    write(key_file, &key.serialize_pem())?;
    write(cert_file, &certificate.pem())?;
    Ok(())
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let draft = path.with_extension("new");
    let _ = fs::remove_file(&draft);
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?.write_all(text.as_bytes())?;
    fs::rename(draft, path)
}

impl Certificate {
    /// The keys that name it.
    pub fn overrides(&self) -> Vec<Override> {
        let set = |key: &str, path: &Option<PathBuf>| {
            let value = path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
            Override { source: "--tls".to_owned(), key: key.to_owned(), value }
        };
        vec![set("server.tls.cert_file", &self.files.cert_file), set("server.tls.key_file", &self.files.key_file)]
    }

    /// What a person has to do so that a browser takes it.
    pub fn advice(&self, server: SocketAddr) -> String {
        let port = server.port();
        format!(
            "no browser knows this certificate yet: open https://localhost:{port}/ once and accept it (a sentence about WebSocket is all that shows), \
             or have {} trusted; it is for this machine only",
            self.path.display()
        )
    }
}

//! A certificate authority of a test's own, with its files in a folder of their own.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

/// Signs certificates. Its files are removed when this is dropped.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

impl Authority {
    /// A new one, which nobody trusts yet; its own certificate is `ca.pem`.
    ///
    /// # Panics
    /// When its file can't be written.
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Self { issuer, dir: tempfile::tempdir().unwrap() };
        std::fs::write(authority.file("ca.pem"), authority.issuer.pem()).unwrap();
        authority
    }

    /// Signs a certificate for `subject`, a host name or an address: `NAME.pem` and `NAME.key`.
    ///
    /// # Panics
    /// When its files can't be written.
    pub fn sign(&self, name: &str, subject: &str) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![subject.to_owned()]).unwrap();
        // As the issuer's it would make the certificate look self-signed.
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.file(&format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.file(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    /// Path of one of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// As [`Self::file`], as text.
    ///
    /// # Panics
    /// When it is not UTF-8.
    pub fn path(&self, name: &str) -> String {
        self.file(name).to_str().unwrap().to_owned()
    }
}

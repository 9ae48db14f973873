//! A certificate and its key, from two PEM files, checked before anybody sees them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use humantime::format_rfc3339_seconds;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error as TlsError, InconsistentKeys};
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::server::follow::Fingerprint;

/// Why a certificate can't be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// A file can't be read.
    #[error("`{key}`: {path} can't be read; the user this process runs as must be able to")]
    Read {
        /// The config key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The file has no certificate.
    #[error(
        "`server.tls.cert_file`: {0} has no certificate: it must be PEM, with the server's own certificate first (certbot's fullchain.pem)"
    )]
    NoCertificate(PathBuf),
    /// The file's certificate can't be understood.
    #[error("`server.tls.cert_file`: the certificate in {path} is damaged ({reason}); have it issued again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file has no key.
    #[error("`server.tls.key_file`: {0} has no private key: it must be PEM (certbot's privkey.pem)")]
    NoKey(PathBuf),
    /// The key wants a password.
    #[error("`server.tls.key_file`: the key in {0} is encrypted; store it without a password: openssl pkey -in {0} -out server.key")]
    EncryptedKey(PathBuf),
    /// The key is of a kind that is not served.
    #[error("`server.tls.key_file`: the key in {path} can't be used ({reason}); RSA from 2048 bits, ECDSA P-256 or P-384, or Ed25519 can")]
    UnusableKey {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The two files do not belong together.
    #[error("the key in {key_file} does not belong to the certificate in {cert_file}; name the two that were issued together")]
    Foreign {
        /// The certificate's file.
        cert_file: PathBuf,
        /// The key's file.
        key_file: PathBuf,
    },
    /// Its time is over.
    #[error("the certificate in {path} ended at {}; renew it (certbot renew), then start again", when(*.ended))]
    Expired {
        /// The file.
        path: PathBuf,
        /// Unix time in seconds.
        ended: i64,
    },
    /// Its time has not come.
    #[error("the certificate in {path} is valid only from {}; check this machine's clock, or use another certificate", when(*.begins))]
    NotYetValid {
        /// The file.
        path: PathBuf,
        /// Unix time in seconds.
        begins: i64,
    },
    /// The system's random source failed.
    #[error("TLS can't be set up")]
    Setup(#[source] TlsError),
}

/// A second of the Unix epoch as people write it.
pub(super) fn when(unix: i64) -> String {
    // Later times can't be written; certificates without an end have the year 9999.
    let seconds = u64::try_from(unix).unwrap_or_default().min(253_402_300_799);
    format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

/// A certificate with its key, ready to be served.
#[derive(Debug)]
pub(crate) struct Certificate {
    /// As rustls wants it.
    pub key: Arc<CertifiedKey>,
    /// The names and addresses it is for.
    pub names: Vec<String>,
    /// When its time ends; Unix time in seconds.
    pub ends: i64,
}

/// The content of the two files, and a fingerprint of both.
pub(crate) struct Files {
    cert: Vec<u8>,
    key: Vec<u8>,
    pub fingerprint: Fingerprint,
}

/// Where a certificate and its key are.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The chain, the server's own certificate first.
    pub cert_file: PathBuf,
    /// The key.
    pub key_file: PathBuf,
}

impl Place {
    /// Reads both files.
    ///
    /// # Errors
    /// [`CertificateError::Read`]
    pub(super) fn read(&self) -> Result<Files, CertificateError> {
        let read = |key: &'static str, path: &Path| {
            std::fs::read(path).map_err(|source| CertificateError::Read { key, path: path.to_owned(), source })
        };
        let cert = read("server.tls.cert_file", &self.cert_file)?;
        let key = read("server.tls.key_file", &self.key_file)?;
        let fingerprint = Sha256::new().chain_update(Sha256::digest(&cert)).chain_update(&key).finalize().into();
        Ok(Files { cert, key, fingerprint })
    }

    /// Makes of the files' content what can be served at `now` (Unix time in seconds).
    ///
    /// # Errors
    /// [`CertificateError`], each with what to do.
    pub(super) fn parse(&self, files: &Files, now: i64) -> Result<Certificate, CertificateError> {
        let damaged = |reason: String| CertificateError::Damaged { path: self.cert_file.clone(), reason };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&files.cert).collect();
        let chain = chain.map_err(|error| damaged(error.to_string()))?;
        let Some(own) = chain.first() else { return Err(CertificateError::NoCertificate(self.cert_file.clone())) };
        let (_, parsed) = X509Certificate::from_der(own).map_err(|error| damaged(error.to_string()))?;
        let (begins, ends) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
        let names = names(&parsed);
        let key = self.key(&files.key)?;
        let key = CertifiedKey::new(chain, key);
        match key.keys_match() {
            Ok(()) | Err(TlsError::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(TlsError::InconsistentKeys(_)) => {
                return Err(CertificateError::Foreign { cert_file: self.cert_file.clone(), key_file: self.key_file.clone() });
            }
            Err(error) => return Err(damaged(error.to_string())),
        }
        if now > ends {
            return Err(CertificateError::Expired { path: self.cert_file.clone(), ended: ends });
        }
        if now < begins {
            return Err(CertificateError::NotYetValid { path: self.cert_file.clone(), begins });
        }
        Ok(Certificate { key: Arc::new(key), names, ends })
    }

    fn key(&self, pem: &[u8]) -> Result<Arc<dyn rustls::sign::SigningKey>, CertificateError> {
        let path = || self.key_file.clone();
        let says = |words: &[u8]| pem.windows(words.len()).any(|window| window == words);
        if says(b"BEGIN ENCRYPTED PRIVATE KEY") || says(b"Proc-Type: 4,ENCRYPTED") {
            return Err(CertificateError::EncryptedKey(path()));
        }
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| CertificateError::NoKey(path()))?;
        let unusable = |error: TlsError| CertificateError::UnusableKey { path: path(), reason: error.to_string() };
        default_provider().key_provider.load_private_key(key).map_err(unusable)
    }
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv4Addr::from(bytes).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv6Addr::from(bytes).to_string()),
        },
        _ => None,
    };
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let names: Vec<_> = alternatives.iter().flat_map(|alternatives| alternatives.value.general_names.iter()).filter_map(name).collect();
    if names.is_empty() { vec![certificate.subject().to_string()] } else { names }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    const NOW: i64 = 1_800_000_000; // 2027-01-15
    const ENCRYPTED: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";

    fn pair(from: i32, to: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["chat.example".to_owned(), "192.0.2.7".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn load(cert: &str, key: &str) -> Result<Certificate, CertificateError> {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { cert_file: dir.path().join("c.pem"), key_file: dir.path().join("k.pem") };
        std::fs::write(&place.cert_file, cert).unwrap();
        std::fs::write(&place.key_file, key).unwrap();
        place.parse(&place.read()?, NOW)
    }

    #[test]
    fn a_pair_that_fits_is_taken() {
        let (cert, key) = pair(2020, 2030);
        let certificate = load(&cert, &key).unwrap();
        assert_eq!(certificate.names, ["chat.example", "192.0.2.7"]);
        assert_eq!(when(certificate.ends), "2030-01-01T00:00:00Z");
    }

    #[test]
    fn each_fault_says_what_to_do() {
        let (cert, key) = pair(2020, 2030);
        let (_, other_key) = pair(2020, 2030);
        let (expired, its_key) = pair(2020, 2021);
        let (future, future_key) = pair(2029, 2030);
        let cut = cert.replacen("MII", "AAA", 1);
        for (cert, key, expected) in [
            ("", key.as_str(), "has no certificate"),
            (key.as_str(), key.as_str(), "has no certificate"),
            (cut.as_str(), key.as_str(), "is damaged"),
            (cert.as_str(), cert.as_str(), "has no private key"),
            (cert.as_str(), ENCRYPTED, "openssl pkey"),
            (cert.as_str(), other_key.as_str(), "does not belong to the certificate"),
            (expired.as_str(), its_key.as_str(), "ended at 2021-01-01T00:00:00Z; renew it"),
            (future.as_str(), future_key.as_str(), "valid only from 2029-01-01T00:00:00Z; check this machine's clock"),
        ] {
            let error = load(cert, key).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let nowhere = Place { cert_file: "/nowhere/c.pem".into(), key_file: "/nowhere/k.pem".into() };
        let error = nowhere.read().err().unwrap().to_string();
        assert!(error.contains("`server.tls.cert_file`: /nowhere/c.pem can't be read"), "{error}");
    }
}

//! A certificate's files while the server runs: a renewed pair is served while sockets stay open, and its end is warned of.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::certificate::{Certificate, CertificateError, Files, when};
use super::{Tls, note, now};
use crate::server::follow::{Fingerprint, Followed, Watch};

/// Seconds.
pub(super) const DAY: i64 = 24 * 3600;
/// Days before its end in which a certificate is warned of.
const WARNING_DAYS: i64 = 14;

impl Followed for Tls {
    type Content = Files;
    type Error = CertificateError;

    fn read(&self) -> Result<Files, CertificateError> {
        self.place.read()
    }

    fn fingerprint(files: &Files) -> Fingerprint {
        files.fingerprint
    }

    fn take_up(&self, files: &Files) -> Result<(), CertificateError> {
        let fresh = self.place.parse(files, now())?;
        tracing::info!(names = fresh.names.join(", "), ends = when(fresh.ends), "certificate replaced");
        metrics::counter!("plugsocket_certificate_reloads_total", "outcome" => "replaced").increment(1);
        note(&fresh);
        self.current.0.store(Arc::new(fresh));
        Ok(())
    }

    fn tell(&self, error: &CertificateError) {
        metrics::counter!("plugsocket_certificate_reloads_total", "outcome" => "refused").increment(1);
        let (error, ends) = (chain_of(error), when(self.current.0.load().ends));
        tracing::warn!(error, ends, "the certificate's files have changed and can't be served; the old certificate stays");
    }
}

impl Tls {
    /// Follows the files until `stop` fires.
    pub async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let (mut watch, mut warned) = (Watch::new(self.fingerprint), None);
        loop {
            self.warn(&mut warned);
            match watch.look(&self, &stop).await {
                None => return,
                Some(true) => warned = None,
                Some(false) => {}
            }
        }
    }

    fn warn(&self, warned: &mut Option<i64>) {
        let (certificate, now) = (self.current.0.load(), now());
        if let Some(text) = warning(&certificate, now, *warned) {
            *warned = Some(now);
            tracing::warn!(names = certificate.names.join(", "), ends = when(certificate.ends), "{text}");
        }
    }
}

/// What is to be said of a certificate's end at `now`, once a day.
fn warning(certificate: &Certificate, now: i64, warned: Option<i64>) -> Option<&'static str> {
    if warned.is_some_and(|warned| now < warned + DAY && (now <= certificate.ends || warned > certificate.ends)) {
        return None;
    }
    if now > certificate.ends {
        return Some("the certificate has ended: clients refuse to connect; renew it, the files are taken up while this runs");
    }
    (certificate.ends - now < WARNING_DAYS * DAY)
        .then_some("the certificate ends within 14 days: renew it, the files are taken up while this runs")
}

fn chain_of(error: &CertificateError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, KeyPair};

    use super::super::certificate::Place;
    use super::*;
    use crate::config::ServerTlsSettings;

    /// Writes a pair whose time begins so many seconds from now.
    fn write(place: &Place, begins_in: u64) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        let begins = u64::try_from(now()).unwrap() + begins_in;
        params.not_before = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(begins);
        std::fs::write(&place.key_file, key.serialize_pem()).unwrap();
        std::fs::write(&place.cert_file, params.self_signed(&key).unwrap().pem()).unwrap();
    }

    #[test]
    fn a_certificate_that_is_there_before_its_time_is_taken_up_when_that_comes() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { cert_file: dir.path().join("c"), key_file: dir.path().join("k") };
        write(&place, 0);
        let settings = ServerTlsSettings { cert_file: Some(place.cert_file.clone()), key_file: Some(place.key_file.clone()) };
        let tls = Tls::open(&settings).unwrap().unwrap();
        let mut watch = Watch::new(tls.fingerprint);
        let served = || Arc::clone(&tls.current.0.load().key);
        let old = served();
        write(&place, 2);
        for _ in 0..2 {
            assert!(!watch.judge(&tls, place.read()));
        }
        assert!(Arc::ptr_eq(&old, &served()));
        std::thread::sleep(Duration::from_millis(2_100));
        assert!(watch.judge(&tls, place.read()), "its time has come");
        assert!(!Arc::ptr_eq(&old, &served()));
    }

    #[test]
    fn an_end_is_told_once_a_day_and_at_once_when_it_comes() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place { cert_file: dir.path().join("c"), key_file: dir.path().join("k") };
        let key = KeyPair::generate().unwrap();
        std::fs::write(&place.key_file, key.serialize_pem()).unwrap();
        std::fs::write(&place.cert_file, CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap().pem()).unwrap();
        let certificate = place.parse(&place.read().unwrap(), now()).unwrap();
        let certificate = Certificate { ends: 100 * DAY, ..certificate };
        let said = |now, warned| warning(&certificate, now, warned).map(|text| text.contains("has ended"));
        assert_eq!(said(86 * DAY, None), None);
        assert_eq!(said(86 * DAY + 1, None), Some(false));
        assert_eq!(said(87 * DAY, Some(86 * DAY + 1)), None, "told within the day");
        assert_eq!(said(87 * DAY + 1, Some(86 * DAY + 1)), Some(false));
        assert_eq!(said(100 * DAY + 1, Some(100 * DAY - 9)), Some(true), "its end does not wait for the day's");
        assert_eq!(said(100 * DAY + 2, Some(100 * DAY + 1)), None);
        assert_eq!(said(101 * DAY + 1, Some(100 * DAY + 1)), Some(true));
    }
}

//! The certificate that HTTPS is served with, also after it was renewed.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use platform::Fault;
use tokio::time::Instant;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::{ClientHello, ResolvesServerCert},
        sign::CertifiedKey,
    },
};
use tracing::{error, info};

/// How often a handshake looks whether the files are others.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// A certificate chain and its key, both PEM. They are read again when somebody says so, and when a handshake finds
/// that the files changed. What is no good then is told once, and what was there before is served on.
#[derive(Debug)]
pub(crate) struct Certificate {
    cert: PathBuf,
    key: PathBuf,
    served: Mutex<Served>,
}

#[derive(Debug)]
struct Served {
    certified: Arc<CertifiedKey>,
    /// What the files were like when they were last read, and when somebody last looked.
    files: [Option<Stamp>; 2],
    looked: Instant,
}

/// By what a file is known to be another: its number, its length, and when it was written.
type Stamp = (u64, u64, i64, i64);

impl Certificate {
    /// # Errors
    /// A file is not readable, or the key is not the certificate's.
    pub(crate) fn read(cert: &Path, key: &Path) -> Result<Arc<Self>, Fault> {
        let served = Served { files: stamps(cert, key), certified: certified(cert, key)?, looked: Instant::now() };
        Ok(Arc::new(Self { cert: cert.to_owned(), key: key.to_owned(), served: Mutex::new(served) }))
    }

    /// Serves HTTP/2 and HTTP/1.1 with it.
    pub(crate) fn acceptor(self: &Arc<Self>) -> Result<TlsAcceptor, Fault> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| Fault::new(error.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// Reads the files again, whether they changed or not.
    pub(crate) fn read_again(&self) {
        self.renew(&mut self.served());
    }

    /// What is served at a time.
    fn at(&self, now: Instant) -> Arc<CertifiedKey> {
        let mut served = self.served();
        if now.saturating_duration_since(served.looked) >= LOOK_EVERY {
            served.looked = now;
            if served.files != stamps(&self.cert, &self.key) {
                self.renew(&mut served);
            }
        }
        served.certified.clone()
    }

    fn renew(&self, served: &mut Served) {
        // Before they are read: what is written meanwhile is another file.
        served.files = stamps(&self.cert, &self.key);
        match certified(&self.cert, &self.key) {
            Ok(certified) => {
                served.certified = certified;
                info!("HTTPS is served with the certificate that was read again");
            }
            Err(fault) => error!(%fault, "HTTPS is served with the certificate of before: the new one is no good"),
        }
    }

    fn served(&self) -> MutexGuard<'_, Served> {
        // Whoever panicked left it whole.
        self.served.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.at(Instant::now()))
    }
}

fn certified(cert: &Path, key: &Path) -> Result<Arc<CertifiedKey>, Fault> {
    let unreadable = |path: &Path, error: String| Fault::new(format!("{}: {error}", path.display()));
    let chain = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| unreadable(cert, error.to_string()))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, error.to_string()))?;
    let certified = CertifiedKey::from_der(chain, private, &ring::default_provider());
    certified.map(Arc::new).map_err(|error| unreadable(cert, error.to_string()))
}

fn stamps(cert: &Path, key: &Path) -> [Option<Stamp>; 2] {
    [cert, key].map(|path| {
        let file = fs::metadata(path).ok()?;
        Some((file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a new certificate with its key, and answers the certificate.
    fn renewed(folder: &Path) -> Vec<u8> {
        let made = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
        fs::write(folder.join("cert"), made.cert.pem()).unwrap();
        fs::write(folder.join("key"), made.signing_key.serialize_pem()).unwrap();
        made.cert.der().to_vec()
    }

    #[test]
    fn a_renewed_certificate_is_served_and_a_bad_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("cert"), folder.path().join("key"));
        let first = renewed(folder.path());
        let certificate = Certificate::read(&cert, &key).unwrap();
        let begin = Instant::now();
        let served_after = |looks: u32| certificate.at(begin + LOOK_EVERY * looks).cert[0].to_vec();
        let second = renewed(folder.path());
        assert_eq!(certificate.at(begin).cert[0].to_vec(), first, "nobody looked yet");
        assert_eq!(served_after(1), second);

        fs::write(&cert, "no certificate").unwrap();
        assert_eq!(served_after(2), second);
        certificate.read_again();
        assert_eq!(served_after(2), second);
        let other_key = fs::read(&key).unwrap();
        renewed(folder.path());
        fs::write(&key, other_key).unwrap();
        assert_eq!(served_after(3), second, "the key is another's");
        fs::remove_file(&cert).unwrap();
        assert_eq!(served_after(4), second);

        let third = renewed(folder.path());
        certificate.read_again();
        assert_eq!(served_after(4), third);
    }
}

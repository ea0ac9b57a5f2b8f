//! TLS of our own, on the runtime's sockets: the runtime lets nobody add to whom it trusts.

use std::{sync::Arc, time::Duration};

use platform::{Clock, Fault, SendError};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
        time_provider::TimeProvider,
    },
};

use super::socket::{Duplex, Talk};
use crate::chance;

/// Begins TLS with who is certified by an authority that Mozilla knows, or by one of the operator's.
#[derive(Clone)]
pub(super) struct OwnTls {
    http: Arc<ClientConfig>,
    /// For what is no HTTP: servers of mail refuse who says that it is.
    other: Arc<ClientConfig>,
}

#[derive(Debug)]
struct RuntimesTime;

impl TimeProvider for RuntimesTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(chance::Runtime.now_ms())))
    }
}

impl OwnTls {
    /// Trusts these authorities (PEM) besides the usual ones.
    pub(super) fn trusting(extra_ca: &str) -> Result<Self, Fault> {
        let unreadable = |error: &dyn std::fmt::Display| Fault::new(format!("EXTRA_CA: {error}"));
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        for certificate in CertificateDer::pem_slice_iter(extra_ca.as_bytes()) {
            let certificate = certificate.map_err(|error| unreadable(&error))?;
            roots.add(certificate).map_err(|error| unreadable(&error))?;
        }
        let config = ClientConfig::builder_with_details(Arc::new(ring::default_provider()), Arc::new(RuntimesTime))
            .with_safe_default_protocol_versions()
            .map_err(|error| Fault::new(error.to_string()))?;
        let other = config.with_root_certificates(roots).with_no_client_auth();
        let mut http = other.clone();
        http.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { http: Arc::new(http), other: Arc::new(other) })
    }

    /// Shakes hands with whoever the certificate names.
    pub(super) async fn begin(
        &self,
        socket: Box<dyn Duplex>,
        certificate_name: &str,
        talk: Talk,
    ) -> Result<Box<dyn Duplex>, SendError> {
        let unreachable = |error: &dyn std::fmt::Display| SendError::Unreachable(format!("TLS: {error}"));
        let name = ServerName::try_from(certificate_name.to_owned()).map_err(|error| unreachable(&error))?;
        let config = match talk {
            Talk::Http => &self.http,
            Talk::Other => &self.other,
        };
        let begun = TlsConnector::from(config.clone()).connect(name, socket).await;
        Ok(Box::new(begun.map_err(|error| unreachable(&error))?))
    }
}

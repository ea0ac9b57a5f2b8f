use std::{path::Path, sync::Arc};

use domain::config::OutgoingRules;
use platform::Fault;
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{
        CertificateDer,
        pem::{self, PemObject},
    },
};
use tracing::warn;

/// Whom we believe that a server is who it says: the authorities this machine trusts, or Mozilla's on a machine that
/// names none, and those that the operator names.
pub(super) fn client_config(rules: &OutgoingRules) -> Result<ClientConfig, Fault> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        warn!(%error, "some of this machine's certificate authorities are not readable");
    }
    roots.add_parsable_certificates(native.certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    if let Some(path) = &rules.extra_ca_file {
        let named = format!("EXTRA_CA_FILE: {path}");
        let certificates =
            CertificateDer::pem_file_iter(Path::new(path)).map_err(|error| unreadable(&named, &error))?;
        trust(&mut roots, &named, certificates)?;
    }
    if let Some(extra_ca) = &rules.extra_ca {
        trust(&mut roots, "EXTRA_CA", CertificateDer::pem_slice_iter(extra_ca.as_bytes()))?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Fault::new(error.to_string()))?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn trust<'a>(
    roots: &mut RootCertStore,
    named: &str,
    certificates: impl Iterator<Item = Result<CertificateDer<'a>, pem::Error>>,
) -> Result<(), Fault> {
    for certificate in certificates {
        let certificate = certificate.map_err(|error| unreadable(named, &error))?;
        roots.add(certificate).map_err(|error| unreadable(named, &error))?;
    }
    Ok(())
}

fn unreadable(named: &str, error: &dyn std::fmt::Display) -> Fault {
    Fault::new(format!("{named}: {error}"))
}

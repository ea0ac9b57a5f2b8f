//! A certificate authority of the tests' own.

use std::{
    net::TcpStream,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

/// Signs certificates. Who trusts its file believes that our servers are who they say.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: PathBuf,
}

impl Authority {
    /// The one of this process.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Authority> = OnceLock::new();
        SHARED.get_or_init(|| {
            let mut params = CertificateParams::new(vec![]).expect("no names");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            // Named like what it signs, it would seem to be the end of its own chain.
            params.distinguished_name.push(DnType::CommonName, "Authority of the tests");
            let key = KeyPair::generate().expect("a key");
            let certificate = params.self_signed(&key).expect("it signs itself");
            let folder = tempfile::Builder::new().prefix("myelin-ca-").tempdir().expect("a temporary folder").keep();
            let file = folder.join("ca.pem");
            std::fs::write(&file, certificate.pem()).expect("the file is written");
            Self { issuer: Issuer::new(params, key), file }
        })
    }

    /// Its certificate, as PEM.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// A new certificate for these names or addresses and its key, as PEM, and the certificate as it is sent.
    pub fn certifies(&self, names: &[&str]) -> (String, String, Vec<u8>) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(names).expect("they are names");
        let certificate = params.signed_by(&key, &self.issuer).expect("it is signed");
        (certificate.pem(), key.serialize_pem(), certificate.der().to_vec())
    }

    /// The certificate of who listens on a port of this machine; it must be one of ours.
    pub fn certificate_at(&self, port: u16) -> Vec<u8> {
        let mut trusted = RootCertStore::empty();
        trusted.add(CertificateDer::from_pem_file(&self.file).expect("our own file")).expect("it is an authority's");
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("there are some")
            .with_root_certificates(trusted)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").expect("a name");
        let mut client = ClientConnection::new(Arc::new(config), name).expect("a connection");
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("somebody listens");
        while client.is_handshaking() {
            client.complete_io(&mut stream).expect("it shakes hands");
        }
        client.peer_certificates().expect("it has a certificate")[0].to_vec()
    }

    /// What a server needs to be believed to be one of these names or addresses.
    pub fn vouches_for(&self, names: &[&str]) -> Arc<ServerConfig> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(names).expect("they are names");
        let certificate: CertificateDer<'static> = params.signed_by(&key, &self.issuer).expect("it is signed").into();
        let private = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("there are some")
            .with_no_client_auth();
        Arc::new(config.with_single_cert(vec![certificate], private).expect("the key is the certificate's"))
    }
}

//! Connections for what is no HTTP.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use platform::{LocalFuture, Peer, Scheme, SendError, Wire};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, pki_types::ServerName},
};

use super::{Connections, connect::reach};

/// Read at once, in bytes.
const READ_BYTES: usize = 16 * 1024;

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

struct Connection {
    stream: Box<dyn Stream>,
    tls: Arc<ClientConfig>,
}

/// Connects to a peer.
pub(super) async fn dial(connections: &Connections, peer: &Peer) -> Result<Box<dyn Wire>, SendError> {
    let mut tls = ClientConfig::clone(&connections.network.tls);
    // What is talked is no HTTP.
    tls.alpn_protocols.clear();
    let stream: Box<dyn Stream> = Box::new(reach(connections, peer).await?);
    let connection = Box::new(Connection { stream, tls: Arc::new(tls) });
    match peer.scheme {
        Scheme::Http => Ok(connection),
        Scheme::Https => connection.encrypts(&peer.certificate_name).await,
    }
}

fn broken(error: impl std::fmt::Display) -> SendError {
    SendError::Unreachable(error.to_string())
}

impl Wire for Connection {
    fn read(&mut self) -> LocalFuture<'_, Result<Bytes, SendError>> {
        Box::pin(async {
            let mut read = BytesMut::with_capacity(READ_BYTES);
            self.stream.read_buf(&mut read).await.map_err(broken)?;
            Ok(read.freeze())
        })
    }

    fn write(&mut self, bytes: Bytes) -> LocalFuture<'_, Result<(), SendError>> {
        Box::pin(async move {
            self.stream.write_all(&bytes).await.map_err(broken)?;
            self.stream.flush().await.map_err(broken)
        })
    }

    fn encrypts(self: Box<Self>, certificate_name: &str) -> LocalFuture<'_, Result<Box<dyn Wire>, SendError>> {
        let name = ServerName::try_from(certificate_name.to_owned());
        Box::pin(async move {
            let Self { stream, tls } = *self;
            let encrypted = TlsConnector::from(tls.clone()).connect(name.map_err(broken)?, stream).await;
            let encrypted: Box<dyn Wire> = Box::new(Self { stream: Box::new(encrypted.map_err(broken)?), tls });
            Ok(encrypted)
        })
    }
}

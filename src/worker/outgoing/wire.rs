//! Connections for what is no HTTP, on the runtime's sockets.

use std::{future::poll_fn, pin::Pin};

use bytes::Bytes;
use domain::config::ConnectTo;
use platform::{LocalFuture, Peer, Scheme, SendError, Wire};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::{
    socket::{Connection, Talk},
    trust::Trust,
};

/// Read at once, in bytes.
const READ_BYTES: usize = 16 * 1024;

struct Dialled {
    connection: Connection,
    trust: Trust,
}

/// Connects to a peer.
pub(super) async fn dial(to: &ConnectTo, peer: &Peer, trust: Trust) -> Result<Box<dyn Wire>, SendError> {
    let dialled = Box::new(Dialled { connection: Connection::open(to).await?, trust });
    match peer.scheme {
        Scheme::Http => Ok(dialled),
        Scheme::Https => dialled.encrypts(&peer.certificate_name).await,
    }
}

impl Wire for Dialled {
    fn read(&mut self) -> LocalFuture<'_, Result<Bytes, SendError>> {
        Box::pin(async {
            let mut bytes = vec![0; READ_BYTES];
            let mut read = ReadBuf::new(&mut bytes);
            let outcome = poll_fn(|cx| Pin::new(&mut self.connection.socket).poll_read(cx, &mut read)).await;
            outcome.map_err(|error| SendError::Unreachable(error.to_string()))?;
            Ok(Bytes::copy_from_slice(read.filled()))
        })
    }

    fn write(&mut self, bytes: Bytes) -> LocalFuture<'_, Result<(), SendError>> {
        Box::pin(async move {
            let failed = |error: &dyn std::fmt::Display| SendError::Unreachable(error.to_string());
            let mut left = &bytes[..];
            while !left.is_empty() {
                let written = poll_fn(|cx| Pin::new(&mut self.connection.socket).poll_write(cx, left)).await;
                let written = written.map_err(|error| failed(&error))?;
                left = left.get(written..).filter(|_| written > 0).ok_or_else(|| failed(&"nothing more is taken"))?;
            }
            let flushed = poll_fn(|cx| Pin::new(&mut self.connection.socket).poll_flush(cx)).await;
            flushed.map_err(|error| failed(&error))
        })
    }

    fn encrypts(self: Box<Self>, certificate_name: &str) -> LocalFuture<'_, Result<Box<dyn Wire>, SendError>> {
        Box::pin(async move {
            let connection = self.connection.encrypted(certificate_name, self.trust.clone(), Talk::Other).await?;
            let encrypted: Box<dyn Wire> = Box::new(Self { connection, trust: self.trust });
            Ok(encrypted)
        })
    }
}

use bytes::Bytes;

use crate::{LocalFuture, SendError};

/// A connection on which two sides talk in bytes, for what is no HTTP. It ends when it is dropped.
///
/// Nothing here takes a time of its own: who talks stops waiting by dropping the future, and the connection with it.
pub trait Wire {
    /// What comes next, some of it; nothing once the other side has ended the connection.
    fn read(&mut self) -> LocalFuture<'_, Result<Bytes, SendError>>;

    /// Sends all of this.
    fn write(&mut self, bytes: Bytes) -> LocalFuture<'_, Result<(), SendError>>;

    /// Goes on by TLS, with whoever the certificate names. Once, on a connection that began without.
    fn encrypts(self: Box<Self>, certificate_name: &str) -> LocalFuture<'_, Result<Box<dyn Wire>, SendError>>;
}

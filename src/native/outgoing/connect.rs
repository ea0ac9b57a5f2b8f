//! From a name to a connection that speaks HTTP.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use domain::config::ConnectTo;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use platform::{Peer, Scheme, SendError};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};
use tracing::debug;

use super::Connections;

/// One of several addresses of a name has this long to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;
/// The largest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;

pub(super) type Sender = SendRequest<Full<Bytes>>;

fn unreachable(error: impl std::fmt::Display) -> SendError {
    SendError::Unreachable(error.to_string())
}

/// A new connection to whoever the certificate says it is.
pub(super) async fn connect(connections: &Connections, peer: &Peer) -> Result<Sender, SendError> {
    let stream = reach(connections, peer).await?;
    match peer.scheme {
        Scheme::Http => shake_hands(stream).await,
        Scheme::Https => {
            // Of an IP address there is no SNI, and the certificate must name it.
            let name = ServerName::try_from(peer.certificate_name.clone()).map_err(unreachable)?;
            let tls = TlsConnector::from(connections.network.tls.clone());
            shake_hands(tls.connect(name, stream).await.map_err(unreachable)?).await
        }
    }
}

/// A new connection to where a peer is, if that may be.
pub(super) async fn reach(connections: &Connections, peer: &Peer) -> Result<TcpStream, SendError> {
    let rules = &connections.network.rules;
    let to = match peer.is_operators_word {
        true => rules.connect_to_named(&peer.host, peer.port),
        false => rules.connect_to(&peer.host, peer.port).map_err(|_| SendError::PrivateAddress)?,
    };
    dial(&addresses(connections, &to).await?).await
}

/// The addresses of a host that may be connected to.
async fn addresses(connections: &Connections, to: &ConnectTo) -> Result<Vec<SocketAddr>, SendError> {
    let resolved: Vec<_> = match to.host.parse() {
        Ok(address) => vec![address],
        Err(_) => connections.resolver()?.lookup_ip(&*to.host).await.map_err(unreachable)?.iter().collect(),
    };
    let is_none = resolved.is_empty();
    // Here and not before: what a name stands for may change between two questions.
    let may_be = |address| to.may_be_any || connections.network.rules.may_connect_to(address);
    let allowed = resolved.into_iter().filter(|address| may_be(*address)).take(ADDRESSES_MAX);
    let allowed: Vec<_> = allowed.map(|address| SocketAddr::new(address, to.port)).collect();
    match allowed.is_empty() {
        true if is_none => Err(unreachable("the name has no address")),
        true => Err(SendError::PrivateAddress),
        false => Ok(allowed),
    }
}

async fn dial(addresses: &[SocketAddr]) -> Result<TcpStream, SendError> {
    let mut failure = SendError::TimedOut;
    for address in addresses {
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true).map_err(unreachable)?;
                return Ok(stream);
            }
            Ok(Err(error)) => failure = unreachable(format_args!("{address}: {error}")),
            Err(_) => failure = unreachable(format_args!("{address}: no answer")),
        }
    }
    Err(failure)
}

async fn shake_hands(stream: impl AsyncRead + AsyncWrite + Unpin + 'static) -> Result<Sender, SendError> {
    let mut http = http1::Builder::new();
    http.max_buf_size(HEAD_BYTES_MAX);
    let (sender, connection) = http.handshake(TokioIo::new(stream)).await.map_err(unreachable)?;
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.await {
            debug!(%error, "a connection to another server ended early");
        }
    });
    Ok(sender)
}

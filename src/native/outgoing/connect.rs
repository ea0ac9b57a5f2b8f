//! From a name to a connection that speaks HTTP.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use domain::config::ConnectTo;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use platform::{Peer, Scheme, SendError};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};
use tracing::debug;

use super::Connections;

/// One of several addresses of a name has this long to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses of one name that are tried: two of each family, if there are as many.
const ADDRESSES_MAX: usize = 4;
/// The next address is tried beside those before when these did not answer for so long (RFC 8305, section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
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
    let allowed = in_turn(resolved.into_iter().filter(|address| may_be(*address)));
    let allowed: Vec<_> =
        allowed.into_iter().take(ADDRESSES_MAX).map(|address| SocketAddr::new(address, to.port)).collect();
    match allowed.is_empty() {
        true if is_none => Err(unreachable("the name has no address")),
        true => Err(SendError::PrivateAddress),
        false => Ok(allowed),
    }
}

/// An IPv6 address, an IPv4 address, and so on (RFC 8305, section 4): a machine may have one of the two networks only.
fn in_turn(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let (sixes, fours): (Vec<_>, Vec<_>) = addresses.partition(IpAddr::is_ipv6);
    let mut all: Vec<_> = sixes.into_iter().enumerate().map(|(place, address)| (2 * place, address)).collect();
    all.extend(fours.into_iter().enumerate().map(|(place, address)| (2 * place + 1, address)));
    all.sort_by_key(|(place, _)| *place);
    all.into_iter().map(|(_, address)| address).collect()
}

async fn dial(addresses: &[SocketAddr]) -> Result<TcpStream, SendError> {
    let attempt = |address: SocketAddr| async move {
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(unreachable(format_args!("{address}: {error}"))),
            Err(_) => Err(unreachable(format_args!("{address}: no answer"))),
        }
    };
    let stream = race(addresses, attempt).await?;
    stream.set_nodelay(true).map_err(unreachable)?;
    Ok(stream)
}

/// Tries one address after the other, without waiting for long, and takes whichever answers first. The others are given
/// up.
async fn race<T, F: Future<Output = Result<T, SendError>>>(
    addresses: &[SocketAddr],
    attempt: impl Fn(SocketAddr) -> F,
) -> Result<T, SendError> {
    let mut untried = addresses.iter();
    let mut attempts = FuturesUnordered::new();
    let mut failure = SendError::TimedOut;
    loop {
        match untried.next() {
            Some(address) => attempts.push(attempt(*address)),
            None if attempts.is_empty() => return Err(failure),
            None => {}
        }
        tokio::select! {
            Some(outcome) = attempts.next() => match outcome {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = error,
            },
            () = sleep(ATTEMPT_DELAY), if untried.len() > 0 => {}
        }
    }
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

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, future::pending};

    use super::*;
    use crate::actor_host::run_local;

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn both_families_have_their_turn() {
        for (resolved, tried) in [
            (
                &["::1", "::2", "::3", "::4", "::5", "10.0.0.1", "10.0.0.2"][..],
                &["::1", "10.0.0.1", "::2", "10.0.0.2"][..],
            ),
            (&["10.0.0.1", "10.0.0.2", "10.0.0.3", "::1"], &["::1", "10.0.0.1", "10.0.0.2", "10.0.0.3"]),
            (&["10.0.0.2", "10.0.0.1"], &["10.0.0.2", "10.0.0.1"]),
        ] {
            let tried_first: Vec<_> =
                in_turn(addresses(resolved).into_iter()).into_iter().take(ADDRESSES_MAX).collect();
            assert_eq!(tried_first, addresses(tried));
        }
    }

    #[test]
    fn an_address_that_does_not_answer_keeps_nobody_from_the_next() {
        run_local("a test", 1, || async {
            let all: Vec<_> = addresses(&["::1", "10.0.0.1", "::2", "10.0.0.2"])
                .into_iter()
                .map(|address| SocketAddr::new(address, 1))
                .collect();
            let tried = RefCell::new(vec![]);
            // The first never says anything, the second says no, the third is good.
            let attempt = async |address: SocketAddr| {
                let number = tried.borrow().len();
                tried.borrow_mut().push(address);
                match number {
                    0 => pending().await,
                    1 => Err(unreachable("refused")),
                    _ => Ok(address),
                }
            };
            assert_eq!(race(&all, attempt).await.ok(), Some(all[2]));
            assert_eq!(*tried.borrow(), all[..3]);

            let refused = race(&all, async |address| Err::<(), _>(unreachable(address))).await;
            assert!(
                matches!(refused, Err(SendError::Unreachable(why)) if why == all[3].to_string()),
                "the last says why"
            );
        });
    }
}

use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::{HeaderMap, Method, StatusCode};

use crate::{LocalFuture, Wire};

/// Whether a connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    Https,
    Http,
}

/// Whom to connect to, and as whom to address it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Peer {
    pub scheme: Scheme,
    /// A name to be resolved, or an IP literal without brackets.
    pub host: String,
    pub port: u16,
    /// Whom the certificate must name, which need not be `host`: a name, or an IP literal without brackets.
    pub certificate_name: String,
    /// The `Host` header, with the port if there is to be one.
    pub host_header: String,
    /// Whether the operator says that this is where it is: it may be any address then, be it a private one. Of whom
    /// anybody else names, never.
    pub is_operators_word: bool,
}

impl Peer {
    /// Whom a URL names: a name, or an IP literal, one of IPv6 in brackets; without a port, that of the scheme.
    pub fn at(scheme: Scheme, host: &str, port: Option<u16>) -> Self {
        // An IPv6 address has brackets in a header, and none where it is connected to.
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let known = match scheme {
            Scheme::Https => 443,
            Scheme::Http => 80,
        };
        Self {
            scheme,
            host: bare.to_owned(),
            port: port.unwrap_or(known),
            certificate_name: bare.trim_end_matches('.').to_owned(),
            host_header: port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")),
            is_operators_word: false,
        }
    }

    /// As [`Peer::at`], of a URL in the configuration.
    pub fn of_operator(scheme: Scheme, host: &str, port: Option<u16>) -> Self {
        Self { is_operators_word: true, ..Self::at(scheme, host, port) }
    }
}

/// A request to somebody else's server.
#[derive(Debug, Clone)]
pub struct OutgoingRequest {
    pub peer: Peer,
    pub method: Method,
    /// What follows the host in a URL, in its final form; it arrives as it is here.
    pub path_and_query: String,
    /// All headers but `Host` and those of the connection.
    pub headers: HeaderMap,
    pub body: Bytes,
    /// The largest body of an answer that is taken, in bytes.
    pub response_bytes_max: usize,
    /// For everything, from the first packet to the last byte of the answer.
    pub timeout_ms: u64,
}

/// The body of an answer as it arrives. A failure ends it.
pub type Arriving = Pin<Box<dyn Stream<Item = Result<Bytes, SendError>>>>;

/// An answer whose body is still to come.
pub struct OutgoingResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Arriving,
}

impl OutgoingResponse {
    /// The whole body.
    ///
    /// # Errors
    /// It did not arrive.
    pub async fn whole(mut self) -> Result<(StatusCode, HeaderMap, Bytes), SendError> {
        let mut body = BytesMut::new();
        while let Some(piece) = self.body.next().await {
            body.extend_from_slice(&piece?);
        }
        Ok((self.status, self.headers, body.freeze()))
    }
}

/// Why there is no answer. Texts are for logs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    #[error("there is nobody to be reached: {0}")]
    Unreachable(String),
    #[error("it took too long")]
    TimedOut,
    #[error("the address is private")]
    PrivateAddress,
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the answer is no HTTP: {0}")]
    Nonsense(String),
}

/// One SRV record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SrvRecord {
    pub priority: u16,
    pub weight: u16,
    pub port: u16,
    /// The host, without the dot at its end.
    pub target: String,
}

/// Other people's servers. Who is asked is chosen by strangers, so that a host
///
/// - connects to no address that is not public unless the configuration allows it, whatever name it hides behind: the
///   address is looked at when it is connected to;
/// - follows no redirects;
/// - has a bound for everything that it takes in.
pub trait Outgoing {
    /// Sends a request once. A failure does not say whether it arrived.
    fn send<'a>(&'a self, request: OutgoingRequest) -> LocalFuture<'a, Result<OutgoingResponse, SendError>>;

    /// Connects, with TLS from the first byte if the peer's scheme says so; of a peer that begins without, a connection
    /// may go on by TLS later. A host that has no connections but those of HTTP reaches nobody.
    fn dial<'a>(&'a self, peer: &'a Peer) -> LocalFuture<'a, Result<Box<dyn Wire>, SendError>> {
        Box::pin(
            async move { Err(SendError::Unreachable(format!("{}: there are no such connections here", peer.host))) },
        )
    }

    /// The SRV records of a name; none if there are none.
    fn resolve_srv<'a>(&'a self, name: &'a str) -> LocalFuture<'a, Result<Vec<SrvRecord>, SendError>>;
}

#[cfg(test)]
mod tests {
    use super::{Peer, Scheme};

    #[test]
    fn a_url_names_whom_to_connect_to_and_how_to_address_it() {
        for (scheme, host, port, expected) in [
            (Scheme::Https, "[::1]", Some(1), ("::1", 1, "::1", "[::1]:1")),
            (Scheme::Https, "b.org", None, ("b.org", 443, "b.org", "b.org")),
            (Scheme::Http, "b.org.", None, ("b.org.", 80, "b.org", "b.org.")),
            (Scheme::Http, "192.0.2.1", Some(80), ("192.0.2.1", 80, "192.0.2.1", "192.0.2.1:80")),
        ] {
            let peer = Peer::at(scheme, host, port);
            assert_eq!((&*peer.host, peer.port, &*peer.certificate_name, &*peer.host_header), expected);
        }
    }
}

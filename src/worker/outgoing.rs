//! Requests to other people's servers: `fetch` where it can say all there is to say, a socket of our own where the
//! address, the certificate's name and the `Host` header are not one and the same, or where the operator trusts
//! authorities that the runtime does not know.
//!
//! The runtime reaches no private address in production, and resolves names itself. Locally it does reach them, for
//! tests. It has no more than six connections of a request wait for an answer to begin, and the next one waits without
//! knowing of it. Who asks many servers at once has them asked a few at a time here, and a server's time begins when it
//! is asked.

mod fetched;
mod over_socket;
#[cfg(feature = "extra-ca")]
mod own_tls;
mod socket;
mod srv;
mod trust;
mod wire;

use std::{future::Future, time::Duration};

use domain::config::{ConnectTo, OutgoingRules};
use futures_util::future::{Either, select};
use platform::{
    Clock, LocalFuture, Outgoing, OutgoingRequest, OutgoingResponse, Peer, Scheme, SendError, SrvRecord, Wire,
};
use tokio::sync::{Semaphore, SemaphorePermit};

use self::{socket::Connection, trust::Trust};
use crate::chance;

/// Connections of one request that wait for an answer to begin, at the same time. One more is left to the store of
/// media.
const WAITING_MAX: usize = 5;

/// Other people's servers, as the runtime reaches them for one request.
pub(crate) struct Runtime {
    rules: OutgoingRules,
    places: Semaphore,
    /// When the runtime ends all of it, or a little before, in milliseconds since the Unix epoch.
    until_ms: Option<u64>,
}

impl Runtime {
    pub(crate) fn new(rules: &OutgoingRules) -> Self {
        Self { rules: rules.clone(), places: Semaphore::new(WAITING_MAX), until_ms: None }
    }

    /// As long as there is time.
    pub(crate) fn until(rules: &OutgoingRules, until_ms: u64) -> Self {
        Self { until_ms: Some(until_ms), ..Self::new(rules) }
    }

    async fn waits_for_its_turn(&self) -> Result<SemaphorePermit<'_>, SendError> {
        self.places.acquire().await.map_err(|closed| SendError::Unreachable(closed.to_string()))
    }

    /// Where a peer is, if that may be.
    fn place(&self, peer: &Peer) -> Result<ConnectTo, SendError> {
        match peer.is_operators_word {
            true => Ok(self.rules.connect_to_named(&peer.host, peer.port)),
            false => self.rules.connect_to(&peer.host, peer.port).map_err(|_| SendError::PrivateAddress),
        }
    }

    /// Answers once the answer begins: from then on it is in nobody's way.
    async fn send_somehow(&self, mut request: OutgoingRequest) -> Result<OutgoingResponse, SendError> {
        let _place = self.waits_for_its_turn().await?;
        if let Some(until_ms) = self.until_ms {
            request.timeout_ms = request.timeout_ms.min(until_ms.saturating_sub(chance::Runtime.now_ms()));
        }
        let peer = &request.peer;
        let to = self.place(peer)?;
        let trust = Trust::of(&self.rules);
        let url_authority = url_authority(peer, &to);
        if let Some(authority) = url_authority.as_deref().filter(|_| peer.scheme == Scheme::Http || !trust.is_ours()) {
            return fetched::send(authority, request).await;
        }
        let until_ms = chance::Runtime.now_ms().saturating_add(request.timeout_ms);
        let opened = within(request.timeout_ms, Connection::open(&to)).await;
        request.timeout_ms = until_ms.saturating_sub(chance::Runtime.now_ms());
        match (opened, url_authority) {
            (Ok(connection), _) => over_socket::send(connection, request, trust).await,
            // Who is behind the platform is reached by its `fetch` alone.
            (Err(SendError::Unreachable(_)), Some(authority)) => fetched::send(&authority, request).await,
            (Err(error), _) => Err(error),
        }
    }
}

impl Outgoing for Runtime {
    fn send<'a>(&'a self, request: OutgoingRequest) -> LocalFuture<'a, Result<OutgoingResponse, SendError>> {
        Box::pin(self.send_somehow(request))
    }

    fn dial<'a>(&'a self, peer: &'a Peer) -> LocalFuture<'a, Result<Box<dyn Wire>, SendError>> {
        Box::pin(async move {
            let _place = self.waits_for_its_turn().await?;
            wire::dial(&self.place(peer)?, peer, Trust::of(&self.rules)).await
        })
    }

    fn resolve_srv<'a>(&'a self, name: &'a str) -> LocalFuture<'a, Result<Vec<SrvRecord>, SendError>> {
        Box::pin(async move {
            match self.rules.dns_overrides.srv(name) {
                Some(records) => Ok(records.into_iter().map(srv::record).collect()),
                None => srv::ask(self, name).await,
            }
        })
    }
}

/// Host and port of a URL that says where to connect to, whose certificate it must be and what the `Host` header is.
/// The header may be without the port that `fetch` adds: who serves several hosts on a port tells them apart by name.
fn url_authority(peer: &Peer, to: &ConnectTo) -> Option<String> {
    let is_same_place = to.host == peer.host && to.port == peer.port;
    let host = if peer.host.contains(':') { format!("[{}]", peer.host) } else { peer.host.clone() };
    let authority = format!("{host}:{}", peer.port);
    let is_named_so = peer.host_header == authority || peer.host_header == host;
    (is_same_place && is_named_so && peer.certificate_name == peer.host).then_some(authority)
}

fn scheme(peer: &Peer) -> &'static str {
    match peer.scheme {
        Scheme::Https => "https",
        Scheme::Http => "http",
    }
}

/// The outcome of `work`, if that comes in time.
async fn within<T>(timeout_ms: u64, work: impl Future<Output = Result<T, SendError>>) -> Result<T, SendError> {
    let timeout = worker::Delay::from(Duration::from_millis(timeout_ms));
    match select(std::pin::pin!(work), timeout).await {
        Either::Left((outcome, _)) => outcome,
        Either::Right(_) => Err(SendError::TimedOut),
    }
}

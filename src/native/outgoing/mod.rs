//! Requests to other people's servers: HTTP/1.1 over TLS, on connections that are used again.

mod connect;
mod pool;
mod send;
mod trust;
mod wire;

use std::{cell::OnceCell, rc::Rc, sync::Arc};

use domain::config::OutgoingRules;
use hickory_resolver::{TokioResolver, proto::rr::RData};
use platform::{Fault, LocalFuture, Outgoing, OutgoingRequest, OutgoingResponse, Peer, SendError, SrvRecord, Wire};
use tokio_rustls::rustls::ClientConfig;

use self::pool::Pool;

/// What all threads connect with.
#[derive(Clone)]
pub(crate) struct Network {
    rules: Arc<OutgoingRules>,
    tls: Arc<ClientConfig>,
}

impl Network {
    /// Reads whom this machine trusts, and the authorities that the configuration names besides.
    pub(crate) fn new(rules: &OutgoingRules) -> Result<Self, Fault> {
        Ok(Self { rules: Arc::new(rules.clone()), tls: Arc::new(trust::client_config(rules)?) })
    }

    /// One thread's connections.
    pub(crate) fn connections(&self) -> Connections {
        Connections { network: self.clone(), resolver: OnceCell::new(), pool: Rc::default() }
    }
}

/// One thread's connections to other people's servers.
pub(crate) struct Connections {
    network: Network,
    resolver: OnceCell<TokioResolver>,
    pool: Rc<Pool>,
}

impl Connections {
    /// The resolver, made when it is first needed: inside the runtime, and only for who asks the DNS at all.
    fn resolver(&self) -> Result<&TokioResolver, SendError> {
        if self.resolver.get().is_none() {
            let unknown =
                |error: &dyn std::fmt::Display| SendError::Unreachable(format!("the system's resolver: {error}"));
            let builder = TokioResolver::builder_tokio().map_err(|error| unknown(&error))?;
            // Two at once: each is as good.
            let _ = self.resolver.set(builder.build().map_err(|error| unknown(&error))?);
        }
        self.resolver.get().ok_or_else(|| SendError::Unreachable("no resolver".to_owned()))
    }

    async fn srv(&self, name: &str) -> Result<Vec<SrvRecord>, SendError> {
        if let Some(records) = self.network.rules.dns_overrides.srv(name) {
            let record = |record: domain::federation::discovery::Srv| SrvRecord {
                priority: record.priority,
                weight: record.weight,
                port: record.port,
                target: record.target,
            };
            return Ok(records.into_iter().map(record).collect());
        }
        // With a dot at its end it is looked for as it is, and in none of this machine's domains.
        let lookup = match self.resolver()?.srv_lookup(format!("{name}.")).await {
            Err(error) if error.is_no_records_found() || error.is_nx_domain() => return Ok(vec![]),
            outcome => outcome.map_err(|error| SendError::Unreachable(format!("{name}: {error}")))?,
        };
        let record = |record: &hickory_resolver::proto::rr::Record| match &record.data {
            RData::SRV(srv) => Some(SrvRecord {
                priority: srv.priority,
                weight: srv.weight,
                port: srv.port,
                target: srv.target.to_ascii().trim_end_matches('.').to_owned(),
            }),
            _ => None,
        };
        Ok(lookup.answers().iter().filter_map(record).collect())
    }
}

impl Outgoing for Connections {
    fn send<'a>(&'a self, request: OutgoingRequest) -> LocalFuture<'a, Result<OutgoingResponse, SendError>> {
        Box::pin(send::send(self, request))
    }

    fn dial<'a>(&'a self, peer: &'a Peer) -> LocalFuture<'a, Result<Box<dyn Wire>, SendError>> {
        Box::pin(wire::dial(self, peer))
    }

    fn resolve_srv<'a>(&'a self, name: &'a str) -> LocalFuture<'a, Result<Vec<SrvRecord>, SendError>> {
        Box::pin(self.srv(name))
    }
}

//! Finds out where a server is. Spec: "Resolving server names".

use domain::federation::discovery::{
    REDIRECTS_MAX, Route, SRV_SERVICES, Srv, Step, WELL_KNOWN_BYTES_MAX, after_srv, after_well_known, cached_ms,
    delegated_by, error_cached_ms, first_step,
};
use http::{StatusCode, header};
use platform::SendError;
use ruma_common::{OwnedServerName, ServerName};

use super::{
    ask::Bounds,
    by_url::{HttpsUrl, redirected},
    known_servers::Place,
};
use crate::Context;

/// A `/.well-known` takes no longer, with all redirects, in milliseconds.
const WELL_KNOWN_TIMEOUT_MS: u64 = 10_000;
const WELL_KNOWN_PATH: &str = "/.well-known/matrix/server";

impl Context {
    /// Where a server is to be reached, the best first.
    pub(super) async fn routes_to(&self, server: &ServerName) -> Vec<Route> {
        let hostname = match first_step(server) {
            Step::Connect(route) => return vec![route],
            Step::WellKnown { hostname } | Step::Srv { hostname } => hostname,
        };
        let known = self.known_servers().place(&hostname);
        let failures = match known {
            Some(place) if self.now_ms() < place.until_ms => return place.routes,
            known => known.map_or(0, |place| place.failures),
        };
        let asked = self.ask_well_known(&hostname).await;
        let place = match &asked {
            Some((delegated, held_ms)) => {
                let routes = self.routes_after(after_well_known(&hostname, Some(delegated))).await;
                Place { routes, until_ms: self.now_ms().saturating_add(*held_ms), failures: 0 }
            }
            None => {
                let failures = failures.saturating_add(1);
                let routes = self.routes_after(after_well_known(&hostname, None)).await;
                Place { routes, until_ms: self.now_ms().saturating_add(error_cached_ms(failures)), failures }
            }
        };
        self.known_servers().remember_place(&hostname, place.clone());
        place.routes
    }

    async fn routes_after(&self, step: Step) -> Vec<Route> {
        match step {
            Step::Connect(route) => vec![route],
            Step::WellKnown { hostname } | Step::Srv { hostname } => {
                let records = self.srv(&hostname).await;
                let chance = self.random().map(u64::from_be_bytes).unwrap_or_default();
                after_srv(&hostname, records, chance)
            }
        }
    }

    /// The SRV records of the first service that has some. Without an answer there are none.
    async fn srv(&self, hostname: &str) -> Vec<Srv> {
        for service in SRV_SERVICES {
            let name = format!("{service}.{hostname}");
            match self.services().outgoing.resolve_srv(&name).await {
                Ok(records) if records.is_empty() => {}
                Ok(records) => {
                    let record = |record: platform::SrvRecord| Srv {
                        priority: record.priority,
                        weight: record.weight,
                        port: record.port,
                        target: record.target,
                    };
                    return records.into_iter().map(record).collect();
                }
                Err(error) => tracing::debug!(%error, name, "the DNS does not say"),
            }
        }
        vec![]
    }

    /// Whom the `/.well-known` of a host delegates to, and for how long, in milliseconds. `None` if it does not say.
    async fn ask_well_known(&self, hostname: &str) -> Option<(OwnedServerName, u64)> {
        let mut url = HttpsUrl { host: hostname.to_owned(), port: None, path_and_query: WELL_KNOWN_PATH.to_owned() };
        let until_ms = self.now_ms().saturating_add(WELL_KNOWN_TIMEOUT_MS);
        for _ in 0..=REDIRECTS_MAX {
            let timeout_ms = until_ms.saturating_sub(self.now_ms());
            let request = url.request(Bounds { response_bytes_max: WELL_KNOWN_BYTES_MAX, timeout_ms });
            let response = match self.send(request).await {
                Ok(response) => response.whole().await,
                Err(error) => Err(error),
            };
            let (status, headers, body) = match response {
                Ok(response) => response,
                Err(error) => {
                    log_failure(hostname, &error);
                    return None;
                }
            };
            if status.is_redirection() {
                url = redirected(&headers, &url)?;
            } else if status == StatusCode::OK {
                let cache_control = headers.get(header::CACHE_CONTROL).and_then(|value| value.to_str().ok());
                return Some((delegated_by(&body)?, cached_ms(cache_control)));
            } else {
                return None;
            }
        }
        None
    }
}

fn log_failure(hostname: &str, error: &SendError) {
    tracing::debug!(%error, hostname, "there is no well-known");
}

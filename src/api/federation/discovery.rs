//! Finds out where a server is. Spec: "Resolving server names".

use bytes::Bytes;
use domain::federation::discovery::{
    REDIRECTS_MAX, Route, SRV_SERVICES, Srv, Step, WELL_KNOWN_BYTES_MAX, after_srv, after_well_known, cached_ms,
    delegated_by, error_cached_ms, first_step,
};
use http::{HeaderMap, Method, StatusCode, Uri, header};
use platform::{OutgoingRequest, Peer, Scheme, SendError};
use ruma_common::{OwnedServerName, ServerName};

use super::known_servers::Place;
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
        let (mut host, mut port, mut path) = (hostname.to_owned(), None, WELL_KNOWN_PATH.to_owned());
        let until_ms = self.now_ms().saturating_add(WELL_KNOWN_TIMEOUT_MS);
        for _ in 0..=REDIRECTS_MAX {
            let request = well_known_request(&host, port, &path, until_ms.saturating_sub(self.now_ms()));
            let response = match self.services().outgoing.send(request).await {
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
                (host, port, path) = redirected(&headers, &host, port)?;
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

fn well_known_request(host: &str, port: Option<u16>, path: &str, timeout_ms: u64) -> OutgoingRequest {
    // An IPv6 address has brackets in a header, and none where it is connected to.
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    OutgoingRequest {
        peer: Peer {
            scheme: Scheme::Https,
            host: bare.clone(),
            port: port.unwrap_or(443),
            certificate_name: bare,
            host_header: port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")),
        },
        method: Method::GET,
        path_and_query: path.to_owned(),
        headers: HeaderMap::new(),
        body: Bytes::new(),
        response_bytes_max: WELL_KNOWN_BYTES_MAX,
        timeout_ms,
    }
}

/// Where a redirect leads: host, port, path and query. `None` if that is not HTTPS, or nowhere.
fn redirected(headers: &HeaderMap, host: &str, port: Option<u16>) -> Option<(String, Option<u16>, String)> {
    let location: Uri = headers.get(header::LOCATION)?.to_str().ok()?.parse().ok()?;
    let path = location.path_and_query().map_or("/", |path| path.as_str());
    match (location.scheme_str(), location.host()) {
        (Some("https"), Some(host)) => Some((host.to_owned(), location.port_u16(), path.to_owned())),
        (None, None) if path.starts_with('/') => Some((host.to_owned(), port, path.to_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, header};

    use super::redirected;

    #[test]
    fn redirects_lead_to_https_or_nowhere() {
        let there = |host: &str, port, path: &str| Some((host.to_owned(), port, path.to_owned()));
        for (location, expected) in [
            ("https://b.org/x?y", there("b.org", None, "/x?y")),
            ("https://b.org:8443", there("b.org", Some(8443), "/")),
            ("https://[::1]:1/x", there("[::1]", Some(1), "/x")),
            ("/x", there("a.org", Some(444), "/x")),
            ("http://b.org/x", None),
            ("ftp://b.org/x", None),
            ("//b.org/x", there("a.org", Some(444), "//b.org/x")),
            ("b.org", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::LOCATION, HeaderValue::from_static(location));
            assert_eq!(redirected(&headers, "a.org", Some(444)), expected, "{location}");
        }
        assert_eq!(redirected(&HeaderMap::new(), "a.org", None), None);
    }
}

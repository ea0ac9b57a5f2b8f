//! Where a server is to be found, step by step. Spec: Server-Server API, "Resolving server names".
//!
//! Each step says what has to be asked next; the caller asks, and takes the next step with the answer.

use std::net::IpAddr;

use ruma_common::{OwnedServerName, ServerName};
use serde::Deserialize;

use crate::backoff::pause_ms;

/// Where servers listen that say nothing else.
const DEFAULT_PORT: u16 = 8448;
/// Redirects of a `/.well-known` that are followed.
pub const REDIRECTS_MAX: usize = 5;
/// The largest answer to a `/.well-known` that is read, in bytes.
pub const WELL_KNOWN_BYTES_MAX: usize = 64 * 1024;
/// Names of SRV records, the registered one first; the other is deprecated.
pub const SRV_SERVICES: [&str; 2] = ["_matrix-fed._tcp", "_matrix._tcp"];
/// Records of one service that are tried.
const ROUTES_MAX: usize = 8;

/// Spec: "The recommended sensible default is 24 hours".
const CACHED_DEFAULT_MS: u64 = 24 * 3_600_000;
/// Spec: "a maximum cache time for responses: 48 hours is recommended".
const CACHED_MAX_MS: u64 = 48 * 3_600_000;
/// Who says that nothing may be cached is still not asked with each request.
const CACHED_MIN_MS: u64 = 5 * 60_000;
/// Spec: "Errors are recommended to be cached for up to an hour, and servers are encouraged to exponentially back off".
const ERROR_CACHED_MIN_MS: u64 = 60_000;
const ERROR_CACHED_MAX_MS: u64 = 3_600_000;

/// Whom to connect to, and as whom to address it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The address to connect to: a name to be resolved, or an IP literal without brackets.
    pub host: String,
    pub port: u16,
    /// Whom the certificate must name: a hostname, or an IP literal without brackets.
    pub certificate_name: String,
    /// The `Host` header.
    pub host_header: String,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Connect there.
    Connect(Route),
    /// Ask `https://{hostname}/.well-known/matrix/server`, and go on with [`after_well_known`].
    WellKnown { hostname: String },
    /// Look up the SRV records of the hostname, for each of [`SRV_SERVICES`] until some are found, and go on with
    /// [`after_srv`].
    Srv { hostname: String },
}

/// One SRV record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Srv {
    pub priority: u16,
    pub weight: u16,
    pub port: u16,
    /// The host, without the dot at its end.
    pub target: String,
}

/// The first step: 1 to 3 of the specification.
pub fn first_step(server_name: &ServerName) -> Step {
    explicit(server_name).map_or_else(|| Step::WellKnown { hostname: server_name.host().to_owned() }, Step::Connect)
}

/// The step after a `/.well-known` said where to go, or nothing that makes sense: 3.1 to 3.3, and 4.
pub fn after_well_known(hostname: &str, delegated: Option<&ServerName>) -> Step {
    match delegated {
        None => Step::Srv { hostname: hostname.to_owned() },
        Some(delegated) => {
            explicit(delegated).map_or_else(|| Step::Srv { hostname: delegated.host().to_owned() }, Step::Connect)
        }
    }
}

/// Where to go, the best first, with what SRV records there are: 3.3 to 3.5, and 4 to 6. `chance` picks among records
/// of the same priority, as their weights say.
pub fn after_srv(hostname: &str, mut records: Vec<Srv>, mut chance: u64) -> Vec<Route> {
    let route = |host: &str, port| Route {
        host: host.to_owned(),
        port,
        certificate_name: hostname.to_owned(),
        host_header: hostname.to_owned(),
    };
    // RFC 2782: a target of "." means that the service is decidedly not available.
    records.retain(|record| !record.target.is_empty() && record.port != 0);
    if records.is_empty() {
        return vec![route(hostname, DEFAULT_PORT)];
    }
    let mut routes = Vec::new();
    while let Some(priority) = records.iter().map(|record| record.priority).min()
        && routes.len() < ROUTES_MAX
    {
        let weights = || records.iter().filter(|record| record.priority == priority).map(weight);
        let mut left = chance.checked_rem(weights().sum()).unwrap_or(0);
        chance = chance.rotate_right(13).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let picked = records.iter().position(|record| {
            let is_picked = record.priority == priority && left < weight(record);
            if record.priority == priority {
                left = left.saturating_sub(weight(record));
            }
            is_picked
        });
        let Some(picked) = picked else { break };
        let record = records.swap_remove(picked);
        routes.push(route(&record.target, record.port));
    }
    routes
}

/// RFC 2782: records without weight "should have a very small chance of being selected".
fn weight(record: &Srv) -> u64 {
    u64::from(record.weight).saturating_mul(64).saturating_add(1)
}

/// Where to go for a name that says all there is to know: an IP literal, or one with a port.
fn explicit(server_name: &ServerName) -> Option<Route> {
    let port = server_name.port();
    let host = server_name.host().trim_start_matches('[').trim_end_matches(']');
    (port.is_some() || is_ip_literal(host)).then(|| Route {
        host: host.to_owned(),
        port: port.unwrap_or(DEFAULT_PORT),
        certificate_name: host.to_owned(),
        host_header: server_name.as_str().to_owned(),
    })
}

/// Whether this is an IP address, without brackets.
pub fn is_ip_literal(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok()
}

/// Whom a `/.well-known` delegates to; `None` for what is no answer of the sort.
pub fn delegated_by(body: &[u8]) -> Option<OwnedServerName> {
    #[derive(Deserialize)]
    struct WellKnown {
        #[serde(rename = "m.server")]
        server: OwnedServerName,
    }
    serde_json::from_slice(body).ok().map(|WellKnown { server }| server)
}

/// How long an answer of a `/.well-known` holds, in milliseconds, by its `Cache-Control` header.
pub fn cached_ms(cache_control: Option<&str>) -> u64 {
    let directives =
        cache_control.unwrap_or_default().split(',').map(|directive| directive.trim().to_ascii_lowercase());
    let said = directives.filter_map(|directive| match directive.split_once('=') {
        None if directive == "no-store" || directive == "no-cache" => Some(0),
        Some(("max-age", seconds)) => Some(seconds.trim_matches('"').parse::<u64>().ok()?.saturating_mul(1000)),
        _ => None,
    });
    said.min().unwrap_or(CACHED_DEFAULT_MS).clamp(CACHED_MIN_MS, CACHED_MAX_MS)
}

/// How long it holds that there was no such answer, in milliseconds, after so many failures one after the other.
pub fn error_cached_ms(failures: u32) -> u64 {
    pause_ms(ERROR_CACHED_MIN_MS, failures.saturating_sub(1), ERROR_CACHED_MAX_MS)
}

#[cfg(test)]
mod tests {
    use ruma_common::ServerName;

    use super::*;

    fn name(name: &str) -> &ServerName {
        name.try_into().unwrap()
    }

    fn connect(host: &str, port: u16, certificate_name: &str, host_header: &str) -> Step {
        Step::Connect(route(host, port, certificate_name, host_header))
    }

    fn route(host: &str, port: u16, certificate_name: &str, host_header: &str) -> Route {
        let [host, certificate_name, host_header] = [host, certificate_name, host_header].map(str::to_owned);
        Route { host, port, certificate_name, host_header }
    }

    #[test]
    fn names_that_say_it_all_are_connected_to() {
        for (given, step) in [
            ("1.2.3.4", connect("1.2.3.4", 8448, "1.2.3.4", "1.2.3.4")),
            ("1.2.3.4:80", connect("1.2.3.4", 80, "1.2.3.4", "1.2.3.4:80")),
            ("[2001:db8::1]", connect("2001:db8::1", 8448, "2001:db8::1", "[2001:db8::1]")),
            ("[2001:db8::1]:80", connect("2001:db8::1", 80, "2001:db8::1", "[2001:db8::1]:80")),
            ("a.org:80", connect("a.org", 80, "a.org", "a.org:80")),
        ] {
            assert_eq!(first_step(name(given)), step, "{given}");
            assert_eq!(after_well_known("other.org", Some(name(given))), step, "delegated to {given}");
        }
        assert_eq!(first_step(name("a.org")), Step::WellKnown { hostname: "a.org".to_owned() });
    }

    #[test]
    fn others_are_looked_up() {
        assert_eq!(after_well_known("a.org", None), Step::Srv { hostname: "a.org".to_owned() });
        assert_eq!(after_well_known("a.org", Some(name("b.org"))), Step::Srv { hostname: "b.org".to_owned() });
        assert_eq!(after_srv("b.org", vec![], 0), [route("b.org", 8448, "b.org", "b.org")]);
    }

    fn srv(priority: u16, weight: u16, target: &str) -> Srv {
        Srv { priority, weight, port: 443, target: target.to_owned() }
    }

    #[test]
    fn records_go_by_priority_and_weight() {
        let found = |chance| after_srv("a.org", vec![srv(9, 0, "last"), srv(1, 1, "x"), srv(1, 3, "y")], chance);
        let mut first_is_y = 0;
        for chance in 0..1_000_u64 {
            let routes = found(chance.wrapping_mul(0x1234_5678_9abc_def1));
            assert_eq!(routes.len(), 3);
            assert_eq!(routes[2], route("last", 443, "a.org", "a.org"));
            first_is_y += usize::from(routes[0].host == "y");
        }
        assert!((650..850).contains(&first_is_y), "{first_is_y} of 1000");
        let many = (0..100).map(|weight| srv(1, weight, "x")).collect();
        assert_eq!(after_srv("a.org", many, 7).len(), ROUTES_MAX);
        assert_eq!(after_srv("a.org", vec![srv(0, 0, "")], 7), [route("a.org", 8448, "a.org", "a.org")]);
    }

    #[test]
    fn only_a_server_name_is_a_delegation() {
        assert_eq!(delegated_by(br#"{"m.server":"b.org:443","x":1}"#).as_deref(), Some(name("b.org:443")));
        for body in ["", "{}", "[]", r#"{"m.server":1}"#, r#"{"m.server":"https://b.org"}"#, r#"{"m.server":""}"#] {
            assert_eq!(delegated_by(body.as_bytes()), None, "{body}");
        }
    }

    #[test]
    fn answers_hold_for_as_long_as_they_say_within_bounds() {
        const HOUR: u64 = 3_600_000;
        for (header, expected) in [
            (None, 24 * HOUR),
            (Some("public"), 24 * HOUR),
            (Some("max-age=7200"), 2 * HOUR),
            (Some("Public, MAX-AGE=7200"), 2 * HOUR),
            (Some("max-age=999999999999999999999"), 24 * HOUR),
            (Some("max-age=99999999"), 48 * HOUR),
            (Some("max-age=0"), 300_000),
            (Some("no-store, max-age=7200"), 300_000),
        ] {
            assert_eq!(cached_ms(header), expected, "{header:?}");
        }
        let errors: Vec<_> = (1..9).map(error_cached_ms).collect();
        assert_eq!(errors, [1, 2, 4, 8, 16, 32, 60, 60].map(|minutes| minutes * 60_000));
        assert_eq!(error_cached_ms(u32::MAX), HOUR);
    }
}

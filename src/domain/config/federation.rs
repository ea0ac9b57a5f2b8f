use std::{collections::BTreeMap, net::IpAddr};

use ruma_common::{OwnedServerName, ServerName};

use super::{ConfigError, Values, list, parse_server_name, parse_switch};
use crate::{
    address_range::{AddressRange, is_public},
    federation::{ServerPatterns, discovery::Srv},
};

/// Which other servers we talk to.
#[derive(Debug, Clone, PartialEq)]
pub struct Federation {
    /// Whether we talk to any.
    pub is_on: bool,
    /// Those we talk to.
    pub allow: ServerPatterns,
    /// Those we do not.
    pub deny: ServerPatterns,
    /// Notaries whose word on other servers' keys counts.
    pub trusted_key_servers: Vec<OwnedServerName>,
}

impl Federation {
    /// Whether we talk to this server.
    pub fn allows(&self, server_name: &ServerName) -> bool {
        self.is_on && self.allow.contain(server_name) && !self.deny.contain(server_name)
    }
}

/// How other servers are reached.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OutgoingRules {
    /// Certificate authorities, as PEM, that are trusted besides the usual ones.
    pub extra_ca: Option<String>,
    /// A file of more of them.
    pub extra_ca_file: Option<String>,
    /// Whether addresses that are not public may be connected to.
    pub allow_private_addresses: bool,
    /// Addresses that are not connected to whatever they are.
    pub deny_addresses: Vec<AddressRange>,
    /// Where names are, whatever the DNS says.
    pub dns_overrides: DnsOverrides,
}

/// Where to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectTo {
    /// A name, or an IP literal without brackets.
    pub host: String,
    pub port: u16,
    /// Whether the name may stand for any address, or for those only that [`OutgoingRules::may_connect_to`] allows.
    pub may_be_any: bool,
}

/// An address that is not public or denied, and must not be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrivateAddress;

impl OutgoingRules {
    /// Where the given host and port are. The operator's own word on where a name is may be any address.
    ///
    /// # Errors
    /// A private address that nobody allowed, or a name that stands for nothing else.
    pub fn connect_to(&self, host: &str, port: u16) -> Result<ConnectTo, PrivateAddress> {
        if self.dns_overrides.addresses.contains_key(&host.to_ascii_lowercase()) {
            return Ok(self.connect_to_named(host, port));
        }
        let is_allowed = match host.parse::<IpAddr>() {
            Ok(address) => self.may_connect_to(address),
            Err(_) => self.allow_private_addresses || !is_private_name(host),
        };
        if !is_allowed {
            return Err(PrivateAddress);
        }
        Ok(ConnectTo { host: host.to_owned(), port, may_be_any: false })
    }

    /// As [`connect_to`](Self::connect_to), of whom the operator names: the address may be any.
    pub fn connect_to_named(&self, host: &str, port: u16) -> ConnectTo {
        let (host, port) = match self.dns_overrides.addresses.get(&host.to_ascii_lowercase()) {
            Some((host, other_port)) => (host.clone(), other_port.unwrap_or(port)),
            None => (host.to_owned(), port),
        };
        ConnectTo { host, port, may_be_any: true }
    }

    /// Whether this address, of a name that was resolved, may be connected to.
    pub fn may_connect_to(&self, address: IpAddr) -> bool {
        (self.allow_private_addresses || is_public(address))
            && !self.deny_addresses.iter().any(|range| range.contains(address))
    }
}

/// Names that are of one machine or one network. RFC 6761, 6762 and 8375; ICANN has set `internal` aside.
const PRIVATE_NAMES: [&str; 4] = ["localhost", "local", "internal", "home.arpa"];

/// Whether a name means something in a private network only. Not every host learns what address a name stands for.
fn is_private_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let is_below = |above: &str| name.strip_suffix(above).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    !name.contains('.') || PRIVATE_NAMES.into_iter().any(is_below)
}

/// Where names are, whatever the DNS says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DnsOverrides {
    addresses: BTreeMap<String, (String, Option<u16>)>,
    /// Targets of SRV records.
    services: BTreeMap<String, (String, u16)>,
}

impl DnsOverrides {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut overrides = Self::default();
        for (name, host, port) in list(text, parse_override)? {
            match port {
                Some(port) if name.starts_with('_') => drop(overrides.services.insert(name, (host, port))),
                None if name.starts_with('_') => return None,
                port => drop(overrides.addresses.insert(name, (host, port))),
            }
        }
        Some(overrides)
    }

    /// The SRV records of a name that is said to have some, or whose host is said to be elsewhere; `None` if the DNS is
    /// to be asked.
    pub fn srv(&self, name: &str) -> Option<Vec<Srv>> {
        let name = name.to_ascii_lowercase();
        if let Some((target, port)) = self.services.get(&name) {
            return Some(vec![Srv { priority: 0, weight: 0, port: *port, target: target.clone() }]);
        }
        let host = name.splitn(3, '.').nth(2)?;
        self.addresses.contains_key(host).then(Vec::new)
    }
}

/// `name=host` or `name=host:port`, where a host may be a name, an IPv4 address or an IPv6 address in brackets.
fn parse_override(text: &str) -> Option<(String, String, Option<u16>)> {
    let (name, at) = text.split_once('=')?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let name = name.trim().to_ascii_lowercase();
    let at = <&ServerName>::try_from(at.trim()).ok()?;
    let host = at.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    (!name.is_empty() && name.chars().all(is_name)).then_some((name, host, at.port()))
}

/// What every certificate begins with, as PEM.
const PEM: &str = "-----BEGIN CERTIFICATE-----";

impl Values {
    pub(super) fn federation(&self) -> Result<Federation, ConfigError> {
        Ok(Federation {
            is_on: self.required("FEDERATION", parse_switch)?,
            allow: self.required("FEDERATION_ALLOW", ServerPatterns::parse)?,
            deny: self.required("FEDERATION_DENY", ServerPatterns::parse)?,
            trusted_key_servers: self.required("TRUSTED_KEY_SERVERS", |text| list(text, parse_server_name))?,
        })
    }

    pub(super) fn outgoing(&self) -> Result<OutgoingRules, ConfigError> {
        Ok(OutgoingRules {
            extra_ca: self.parsed("EXTRA_CA", |text| text.contains(PEM).then(|| text.replace("\\n", "\n")))?,
            extra_ca_file: self.parsed("EXTRA_CA_FILE", |text| (!text.is_empty()).then(|| text.to_owned()))?,
            allow_private_addresses: self.required("ALLOW_PRIVATE_ADDRESSES", parse_switch)?,
            deny_addresses: self.required("DENY_ADDRESSES", parse_address_ranges)?,
            dns_overrides: self.required("DNS_OVERRIDES", DnsOverrides::parse)?,
        })
    }
}

pub(super) fn parse_address_ranges(text: &str) -> Option<Vec<AddressRange>> {
    list(text, |range| range.parse().ok())
}

#[cfg(test)]
mod tests {
    use ruma_common::server_name;

    use super::*;

    fn rules(allow_private_addresses: bool, overrides: &str) -> OutgoingRules {
        let dns_overrides = DnsOverrides::parse(overrides).unwrap();
        OutgoingRules { allow_private_addresses, dns_overrides, ..OutgoingRules::default() }
    }

    #[test]
    fn names_are_where_the_operator_says() {
        let rules = rules(false, "a.test=127.0.0.1:4711, B.test=[::1],c.test=other.test");
        let there = |host: &str, port, may_be_any| Ok(ConnectTo { host: host.to_owned(), port, may_be_any });
        for (host, expected) in [
            ("a.test", there("127.0.0.1", 4711, true)),
            ("A.TEST", there("127.0.0.1", 4711, true)),
            ("b.test", there("::1", 8448, true)),
            ("c.test", there("other.test", 8448, true)),
            ("other.test", there("other.test", 8448, false)),
            ("1.1.1.1", there("1.1.1.1", 8448, false)),
            ("127.0.0.1", Err(PrivateAddress)),
            ("::1", Err(PrivateAddress)),
            ("localhost", Err(PrivateAddress)),
            ("LOCALHOST.", Err(PrivateAddress)),
            ("db", Err(PrivateAddress)),
            ("metadata.google.internal", Err(PrivateAddress)),
            ("nolocalhost.org", there("nolocalhost.org", 8448, false)),
        ] {
            assert_eq!(rules.connect_to(host, 8448), expected, "{host}");
        }
        assert!(!rules.may_connect_to("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn private_addresses_are_for_those_who_allow_them() {
        let rules = rules(true, "");
        for host in ["127.0.0.1", "localhost", "db"] {
            assert!(rules.connect_to(host, 1).is_ok(), "{host}");
        }
        assert!(rules.may_connect_to("10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn what_is_denied_is_denied_whatever_else_is_allowed() {
        for allow_private_addresses in [true, false] {
            let deny_addresses = vec!["1.1.1.0/24".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
            let rules = OutgoingRules { deny_addresses, ..rules(allow_private_addresses, "a.test=10.0.0.1") };
            for (host, expected) in [("1.1.1.1", false), ("1.1.2.1", true), ("10.0.0.1", false), ("a.test", true)] {
                assert_eq!(rules.connect_to(host, 1).is_ok(), expected, "{host}");
            }
            assert!(!rules.may_connect_to("::ffff:1.1.1.1".parse().unwrap()));
        }
    }

    #[test]
    fn services_are_where_the_operator_says() {
        let overrides = DnsOverrides::parse("_matrix-fed._tcp.a.test=b.test:443,c.d.test=127.0.0.1").unwrap();
        let found = Srv { priority: 0, weight: 0, port: 443, target: "b.test".to_owned() };
        assert_eq!(overrides.srv("_matrix-fed._tcp.A.test"), Some(vec![found]));
        assert_eq!(overrides.srv("_matrix-fed._tcp.c.d.test"), Some(vec![]));
        assert_eq!(overrides.srv("_matrix._tcp.a.test"), None);
        assert_eq!(overrides.srv("a.test"), None);
        for bad in ["a.test", "a.test=", "=127.0.0.1", "a.test=::1", "_matrix._tcp.a.test=b.test", "a b=c", "a=b:x"] {
            assert_eq!(DnsOverrides::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn who_is_denied_is_not_allowed() {
        let federation = |is_on, allow: &str, deny: &str| Federation {
            is_on,
            allow: ServerPatterns::parse(allow).unwrap(),
            deny: ServerPatterns::parse(deny).unwrap(),
            trusted_key_servers: vec![],
        };
        let a = server_name!("a.test");
        for (is_on, allow, deny, expected) in [
            (true, "*", "", true),
            (true, "*.test", "b.test", true),
            (true, "*", "a.*", false),
            (true, "b.test", "", false),
            (true, "", "", false),
            (false, "*", "", false),
        ] {
            assert_eq!(federation(is_on, allow, deny).allows(a), expected, "{is_on} {allow} {deny}");
        }
    }
}

//! Where a request came from.

use std::net::{IpAddr, SocketAddr};

use domain::address_range::AddressRange;
use http::HeaderMap;

/// What proxies say of whom they speak for; each appends whom it heard from.
const FORWARDED_FOR: &str = "x-forwarded-for";

/// The internet address of a request's client: an extension of the request, which the host puts there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

impl ClientAddress {
    /// The client of a connection from `peer`. A trusted peer is a proxy, and is believed in whom it heard from; so is
    /// the one before it. What the first untrusted one claims to have heard is nobody's word, and is not read.
    pub fn behind_proxies(peer: IpAddr, headers: &HeaderMap, trusted: &[AddressRange]) -> Self {
        let hops = headers.get_all(FORWARDED_FOR).into_iter().rev();
        let mut hops = hops.flat_map(|line| line.to_str().unwrap_or_default().rsplit(',').map(address));
        let mut client = peer.to_canonical();
        while trusted.iter().any(|range| range.contains(client)) {
            let Some(Some(before)) = hops.next() else { break };
            client = before;
        }
        Self(client)
    }
}

/// One hop as proxies write it, some with the port.
fn address(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    let bracketed = hop.strip_prefix('[').and_then(|hop| hop.strip_suffix(']')).unwrap_or(hop);
    let parsed = bracketed.parse().or_else(|_| hop.parse().map(|socket: SocketAddr| socket.ip()));
    parsed.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use domain::address_range::AddressRange;
    use http::{HeaderMap, HeaderValue};

    use super::{ClientAddress, FORWARDED_FOR};

    #[test]
    fn only_trusted_proxies_are_believed() {
        let trusted: [AddressRange; 2] = ["127.0.0.0/8".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
        let table: &[(&str, &[&str], &str)] = &[
            ("203.0.113.9", &[], "203.0.113.9"),
            ("203.0.113.9", &["192.0.2.1"], "203.0.113.9"),
            ("::ffff:203.0.113.9", &["192.0.2.1"], "203.0.113.9"),
            ("127.0.0.1", &[], "127.0.0.1"),
            ("127.0.0.1", &["192.0.2.1"], "192.0.2.1"),
            ("::ffff:127.0.0.1", &["192.0.2.1"], "192.0.2.1"),
            ("127.0.0.1", &["198.51.100.7, 192.0.2.1"], "192.0.2.1"),
            ("127.0.0.1", &["198.51.100.7,192.0.2.1 , 10.1.2.3"], "192.0.2.1"),
            ("127.0.0.1", &["198.51.100.7, 192.0.2.1", "10.1.2.3"], "192.0.2.1"),
            ("127.0.0.1", &["10.9.9.9, 10.1.2.3"], "10.9.9.9"),
            ("127.0.0.1", &["192.0.2.1:4711"], "192.0.2.1"),
            ("127.0.0.1", &["[2001:db8::1]:4711"], "2001:db8::1"),
            ("127.0.0.1", &["[2001:db8::1]"], "2001:db8::1"),
            ("127.0.0.1", &["2001:db8::1"], "2001:db8::1"),
            ("127.0.0.1", &["192.0.2.1, unknown"], "127.0.0.1"),
            ("127.0.0.1", &["192.0.2.1, 10.1.2.3, "], "127.0.0.1"),
        ];
        for (peer, lines, client) in table {
            let mut headers = HeaderMap::new();
            for line in *lines {
                headers.append(FORWARDED_FOR, HeaderValue::from_static(line));
            }
            let found = ClientAddress::behind_proxies(peer.parse().unwrap(), &headers, &trusted);
            assert_eq!(found, ClientAddress(client.parse().unwrap()), "{peer} says {lines:?}");
        }
    }
}

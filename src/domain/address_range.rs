//! Ranges of internet addresses, as configurations name them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// Every address that begins with the same bits: `10.0.0.0/8`, `fd00::/8`, or one address alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRange {
    network: u128,
    prefix_bits: u32,
}

/// What is neither an address nor one with a prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an address range: such as 10.0.0.0/8, fd00::/8 or 192.0.2.1")]
pub struct NotAnAddressRange;

impl AddressRange {
    /// The range of the first `prefix_bits` of an address; the whole address if that is more than it has.
    pub fn around(address: IpAddr, prefix_bits: u32) -> Self {
        // IPv4 as IPv6 writes it, ::ffff:0:0/96: then one address has one form, whichever socket it comes from.
        let (bits, before) = match address.to_canonical() {
            IpAddr::V4(address) => (address.to_ipv6_mapped().to_bits(), 96),
            IpAddr::V6(address) => (address.to_bits(), 0),
        };
        let prefix_bits = prefix_bits.saturating_add(before).min(Ipv6Addr::BITS);
        Self { network: bits & mask(prefix_bits), prefix_bits }
    }

    /// Whether an address is in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        Self::around(address, Ipv6Addr::BITS).network & mask(self.prefix_bits) == self.network
    }
}

/// The first so many bits.
fn mask(prefix_bits: u32) -> u128 {
    u128::MAX.checked_shl(Ipv6Addr::BITS - prefix_bits).unwrap_or(0)
}

/// Ranges that are not of the public internet: this machine, networks at home, documentation, groups. IANA,
/// "IPv4 Special-Purpose Address Registry" and the same for IPv6.
const NOT_PUBLIC: &[(IpAddr, u32)] = &[
    (v4(0, 0, 0, 0), 8),
    (v4(10, 0, 0, 0), 8),
    (v4(100, 64, 0, 0), 10),
    (v4(127, 0, 0, 0), 8),
    (v4(169, 254, 0, 0), 16),
    (v4(172, 16, 0, 0), 12),
    (v4(192, 0, 0, 0), 24),
    (v4(192, 0, 2, 0), 24),
    (v4(192, 88, 99, 0), 24),
    (v4(192, 168, 0, 0), 16),
    (v4(198, 18, 0, 0), 15),
    (v4(198, 51, 100, 0), 24),
    (v4(203, 0, 113, 0), 24),
    (v4(224, 0, 0, 0), 4),
    (v4(240, 0, 0, 0), 4),
    // Loopback and addresses that contain an IPv4 one.
    (v6(0, 0), 96),
    (v6(0x64, 0xff9b), 32),
    (v6(0x100, 0), 32),
    (v6(0x2001, 0), 23),
    (v6(0x2001, 0xdb8), 32),
    (v6(0x2002, 0), 16),
    (v6(0x3fff, 0), 20),
    (v6(0x5f00, 0), 16),
    (v6(0xfc00, 0), 7),
    (v6(0xfe80, 0), 9),
    (v6(0xff00, 0), 8),
];

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(first: u16, second: u16) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(first, second, 0, 0, 0, 0, 0, 0))
}

/// Whether an address is of the public internet.
pub fn is_public(address: IpAddr) -> bool {
    let address = behind_translation(address.to_canonical());
    !NOT_PUBLIC.iter().any(|(network, prefix_bits)| AddressRange::around(*network, *prefix_bits).contains(address))
}

/// The IPv4 address that a network without IPv4 reaches as `64:ff9b::a.b.c.d`. RFC 6052.
fn behind_translation(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(translated) if translated.segments().starts_with(&[0x64, 0xff9b, 0, 0, 0, 0]) => {
            let [.., a, b, c, d] = translated.octets();
            v4(a, b, c, d)
        }
        address => address,
    }
}

impl FromStr for AddressRange {
    type Err = NotAnAddressRange;

    fn from_str(text: &str) -> Result<Self, NotAnAddressRange> {
        let (address, prefix_bits) = match text.split_once('/') {
            Some((address, prefix_bits)) => (address, Some(prefix_bits.parse().map_err(|_| NotAnAddressRange)?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NotAnAddressRange)?;
        let whole = if address.is_ipv4() { 32 } else { 128 };
        match prefix_bits.unwrap_or(whole) {
            prefix_bits if prefix_bits <= whole => Ok(Self::around(address, prefix_bits)),
            _ => Err(NotAnAddressRange),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{AddressRange, is_public};

    #[test]
    fn a_range_is_all_that_begins_alike() {
        for (range, address, is_in) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("10.0.0.0/8", "a00::1", false),
            ("10.9.9.9/8", "10.1.1.1", true),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("fd00::/8", "fdff::1", true),
            ("fd00::/8", "fe00::1", false),
            ("::1", "::1", true),
            ("::1", "::2", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "2001:db8::1", true),
        ] {
            let parsed: AddressRange = range.parse().unwrap();
            assert_eq!(parsed.contains(address.parse().unwrap()), is_in, "{address} in {range}");
        }
        for bad in ["", "localhost", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/-1", "10.0.0/8"] {
            assert!(bad.parse::<AddressRange>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_public() {
        for address in [
            "1.1.1.1",
            "172.15.0.1",
            "172.32.0.1",
            "100.63.0.1",
            "223.255.255.1",
            "2606:4700::1111",
            "2a00::1",
            "64:ff9b::1.1.1.1",
            "::ffff:1.1.1.1",
        ] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.127.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.31.0.1",
            "192.168.1.1",
            "198.19.0.1",
            "203.0.113.9",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b:1::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "fd00::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }
}

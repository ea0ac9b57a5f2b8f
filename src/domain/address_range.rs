//! Ranges of internet addresses, as configurations name them.

use std::{
    net::{IpAddr, Ipv6Addr},
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
    use super::AddressRange;

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
}

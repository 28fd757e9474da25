//! `scrape.targets`: which proxies' pages `/scrape` may fetch.

use serde::de::{Error as _, Unexpected};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::net::{IpAddr, SocketAddr};

/// One entry of `scrape.targets`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ScrapeTarget {
    /// `NET/BITS:PORT`: one port of every address of a network.
    Network {
        /// An address of the network.
        address: IpAddr,
        /// How many leading bits of it count.
        bits: u8,
        /// The port.
        port: u16,
    },
    /// `HOST:PORT`, compared as it is written.
    Exact(String),
}

impl ScrapeTarget {
    fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port: u16 = port.parse().ok().filter(|port| *port != 0)?;
        if let Some((address, bits)) = host.split_once('/') {
            let address: IpAddr = address.trim_matches(['[', ']']).parse().ok()?;
            let bits = bits.trim_end_matches(']').parse().ok()?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            return (bits <= most).then_some(Self::Network { address, bits, port });
        }
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        (!host.is_empty() && host.chars().all(is_host)).then(|| Self::Exact(text.to_owned()))
    }

    /// Whether the entry names this target, given as `HOST:PORT`.
    #[must_use]
    pub fn covers(&self, target: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == target,
            Self::Network { address, bits, port } => target.parse::<SocketAddr>().is_ok_and(|target| {
                target.port() == *port && same_network(*address, target.ip().to_canonical(), *bits)
            }),
        }
    }
}

fn same_network(a: IpAddr, b: IpAddr, bits: u8) -> bool {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            (a.to_bits() ^ b.to_bits()).checked_shr(32 - u32::from(bits.min(32))).unwrap_or(0) == 0
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            (a.to_bits() ^ b.to_bits()).checked_shr(128 - u32::from(bits.min(128))).unwrap_or(0) == 0
        }
        _ => false,
    }
}

impl<'de> Deserialize<'de> for ScrapeTarget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            D::Error::invalid_value(
                Unexpected::Str(&text),
                &"HOST:PORT or NETWORK/BITS:PORT, such as 10.66.0.0/16:15090",
            )
        })
    }
}

impl Serialize for ScrapeTarget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Exact(text) => serializer.serialize_str(text),
            Self::Network { address: IpAddr::V6(address), bits, port } => {
                serializer.collect_str(&format_args!("[{address}/{bits}]:{port}"))
            }
            Self::Network { address, bits, port } => {
                serializer.collect_str(&format_args!("{address}/{bits}:{port}"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_cover_their_addresses_on_their_port() {
        let target = ScrapeTarget::parse("10.66.0.0/16:15090").unwrap();
        assert!(target.covers("10.66.3.2:15090"));
        assert!(!target.covers("10.67.0.1:15090"));
        assert!(!target.covers("10.66.0.1:15000"));
        assert!(!target.covers("localhost:15090"));
        assert!(ScrapeTarget::parse("0.0.0.0/0:1").unwrap().covers("8.8.8.8:1"));
        let six = ScrapeTarget::parse("[fd00::/8]:15090").unwrap();
        assert!(six.covers("[fd12::1]:15090"));
        assert!(!six.covers("10.0.0.1:15090"));
    }

    #[test]
    fn exact_targets_are_compared_as_written() {
        let target = ScrapeTarget::parse("gateway.mesh:15090").unwrap();
        assert!(target.covers("gateway.mesh:15090"));
        assert!(!target.covers("gateway.mesh:15091"));
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for wrong in
            ["", "10.0.0.1", "10.0.0.1:0", ":15090", "10.0.0.0/33:1", "host/8:1", "http://a:1", "a b:1"]
        {
            assert_eq!(ScrapeTarget::parse(wrong), None, "{wrong}");
        }
    }
}

//! The two ends of a connection, by which an app's span and its proxy's span find each other.

use core::fmt;
use core::net::SocketAddr;

/// A TCP connection as the *app's* socket knows it.
///
/// - Outbound, the app's local end is what its sidecar sees as the downstream's remote address.
/// - Inbound, the app's remote end is what its sidecar sees as the upstream connection's local
///   address (`127.0.0.6:port` under Istio's redirection).
///
/// An IPv4-mapped IPv6 address is stored as IPv4, so that a dual-stack socket and a proxy that
/// speaks IPv4 agree.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Connection {
    local: SocketAddr,
    remote: SocketAddr,
}

impl Connection {
    /// The connection between these two ends.
    #[must_use]
    pub fn new(local: SocketAddr, remote: SocketAddr) -> Self {
        Self { local: canonical(local), remote: canonical(remote) }
    }

    /// The app's own end.
    #[must_use]
    pub const fn local(&self) -> SocketAddr {
        self.local
    }

    /// The other end.
    #[must_use]
    pub const fn remote(&self) -> SocketAddr {
        self.remote
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}>{}", self.local, self.remote)
    }
}

/// The address with an IPv4-mapped IPv6 address as IPv4.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_equals_its_ipv4() {
        let mapped = Connection::new("[::ffff:10.0.0.1]:80".parse().unwrap(), "[::1]:1".parse().unwrap());
        let plain = Connection::new("10.0.0.1:80".parse().unwrap(), "[::1]:1".parse().unwrap());
        assert_eq!(mapped, plain);
    }
}

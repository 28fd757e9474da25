//! Which workload has which address.
//!
//! In Istio a server learns who its client is from exchanged metadata, or in ambient mode from the
//! control plane's workload table. The lab writes such a table into this module's configuration.

use crate::labels::{Peer, UNKNOWN};
use serde::Deserialize;
use std::collections::HashMap;
use std::net::IpAddr;

/// The module's configuration, as JSON.
#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Workloads by IP address.
    #[serde(default)]
    pub workloads: HashMap<IpAddr, Workload>,
}

/// One workload of the table.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// `workload;namespace;canonical service;canonical revision;cluster`: istiod's own form.
    pub workload: String,
    /// SPIFFE id.
    #[serde(default)]
    pub principal: String,
    /// Label `app`.
    #[serde(default)]
    pub app: String,
    /// Label `version`.
    #[serde(default)]
    pub version: String,
}

impl Config {
    /// The workload with this address.
    #[must_use]
    pub fn by_address(&self, address: IpAddr) -> Option<&Workload> {
        self.workloads.get(&address)
    }

    /// The one workload with this SPIFFE id; None where several share it.
    #[must_use]
    pub fn by_principal(&self, principal: &str) -> Option<&Workload> {
        let mut matching = self.workloads.values().filter(|entry| entry.principal == principal);
        let found = matching.next().filter(|_| !principal.is_empty())?;
        // Replicas are one workload.
        matching.all(|other| other == found).then_some(found)
    }
}

impl Workload {
    /// The peer of this entry, without its principal.
    #[must_use]
    pub fn peer(&self) -> Peer {
        Peer { app: known(&self.app), version: known(&self.version), ..from_metadata(&self.workload) }
    }
}

/// The peer that an endpoint's `filter_metadata.istio.workload` describes
/// (`workload;namespace;canonical service;canonical revision;cluster`). What is missing is unknown.
#[must_use]
pub fn from_metadata(text: &str) -> Peer {
    let mut fields = text.split(';');
    let mut next = || known(fields.next().unwrap_or_default());
    Peer {
        workload: next(),
        namespace: next(),
        canonical_service: next(),
        canonical_revision: next(),
        cluster: next(),
        ..Peer::default()
    }
}

/// The text, or `unknown` for an empty one.
#[must_use]
pub fn known(text: &str) -> String {
    if text.is_empty() { UNKNOWN.to_owned() } else { text.to_owned() }
}

/// The IP of an `ip:port` (IPv6 in brackets), as Envoy prints addresses.
#[must_use]
pub fn ip_of(address: &str) -> Option<IpAddr> {
    address.parse::<std::net::SocketAddr>().ok().map(|address| address.ip().to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_and_missing_fields_are_unknown() {
        let config: Config = serde_json::from_str(
            r#"{"workloads": {"10.0.0.1": {"workload": "orders-v1;shop;orders;v1;Kubernetes", "app": "orders"}}}"#,
        )
        .unwrap();
        let peer = config.by_address(ip_of("10.0.0.1:4711").unwrap()).unwrap().peer();
        assert_eq!((peer.workload.as_str(), peer.cluster.as_str()), ("orders-v1", "Kubernetes"));
        assert_eq!((peer.app.as_str(), peer.version.as_str()), ("orders", UNKNOWN));
        assert_eq!(from_metadata("a;b").canonical_service, UNKNOWN);
    }

    #[test]
    fn a_principal_finds_its_workload_unless_several_share_it() {
        let config: Config = serde_json::from_str(
            r#"{"workloads": {
                "10.0.0.1": {"workload": "a;shop", "principal": "spiffe://x/a"},
                "10.0.0.2": {"workload": "a;shop", "principal": "spiffe://x/a"},
                "10.0.0.3": {"workload": "b;shop", "principal": "spiffe://x/shared"},
                "10.0.0.4": {"workload": "c;shop", "principal": "spiffe://x/shared"},
                "10.0.0.5": {"workload": "d;shop"}}}"#,
        )
        .unwrap();
        assert_eq!(config.by_principal("spiffe://x/a").unwrap().workload, "a;shop");
        assert_eq!(config.by_principal("spiffe://x/shared"), None);
        assert_eq!(config.by_principal("spiffe://x/nobody"), None);
        assert_eq!(config.by_principal(""), None);
    }

    #[test]
    fn an_unknown_key_is_refused() {
        assert!(serde_json::from_str::<Config>(r#"{"workload": {}}"#).is_err());
    }

    #[test]
    fn addresses_without_a_port_and_pipes_have_no_ip() {
        assert_eq!(ip_of("/run/agent.sock"), None);
        assert_eq!(ip_of("10.0.0.1"), None);
        assert_eq!(ip_of("[::ffff:10.0.0.1]:1"), ip_of("10.0.0.1:2"));
    }
}

//! The proxy that the filter runs in, from its bootstrap's node.

use crate::host::Host;
use crate::labels::Identity;
use crate::span::{Attributes, RESOURCE_ATTRIBUTES};
use meshweft_telemetry::{Hop, attributes};

/// What the proxy is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// It stands beside one workload.
    Sidecar,
    /// It stands at the edge.
    Gateway,
    /// It stands between workloads.
    Waypoint,
}

/// The proxy and the workload that it belongs to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Node id: `role~ip~pod.namespace~domain` under Istio.
    pub id: Vec<u8>,
    /// The role in its id.
    pub role: Role,
    /// Its workload.
    pub local: Identity,
    pod: Vec<u8>,
}

impl Node {
    /// Reads the node. Its metadata is what istiod and the sidecar's start-up wrote into it.
    pub fn read(host: &impl Host) -> Self {
        let read = |path: &[u8]| host.property(path).unwrap_or_default();
        let id = read(b"xds\0node\0id");
        let role = if id.starts_with(b"router~") {
            Role::Gateway
        } else if id.starts_with(b"waypoint~") {
            Role::Waypoint
        } else {
            Role::Sidecar
        };
        Self {
            id,
            role,
            local: Identity {
                workload: read(b"xds\0node\0metadata\0WORKLOAD_NAME"),
                namespace: read(b"xds\0node\0metadata\0NAMESPACE"),
                canonical_service: read(b"xds\0node\0metadata\0LABELS\0service.istio.io/canonical-name"),
                canonical_revision: read(b"xds\0node\0metadata\0LABELS\0service.istio.io/canonical-revision"),
                app: read(b"xds\0node\0metadata\0LABELS\0app"),
                version: read(b"xds\0node\0metadata\0LABELS\0version"),
                cluster: read(b"xds\0node\0metadata\0CLUSTER_ID"),
            },
            pod: read(b"xds\0node\0metadata\0NAME"),
        }
    }

    /// Which hop a stream of a listener with this `xds.listener_direction` (1 inbound, 2 outbound)
    /// is. A sidecar's listener without a direction counts as inbound, the side that asks no
    /// questions.
    #[must_use]
    pub const fn hop(&self, direction: Option<i64>) -> Hop {
        match (self.role, direction) {
            (Role::Gateway, _) => Hop::MeshGateway,
            (Role::Waypoint, _) => Hop::MeshWaypoint,
            (Role::Sidecar, Some(2)) => Hop::MeshOutbound,
            (Role::Sidecar, _) => Hop::MeshInbound,
        }
    }

    /// Where an outbound request came from, as far as that is certain. `address` is the proxy's
    /// `source.address`; where the request carries `x-forwarded-for`, that is what the header says,
    /// with port 0, as Istio's sidecars are configured. Then the pod's own address stands for it,
    /// with port 0 for a connection that is not known.
    #[must_use]
    pub fn outbound_source(&self, address: Vec<u8>) -> Vec<u8> {
        if !address.ends_with(b":0") {
            return address;
        }
        let Some(ip) = self.id.split(|byte| *byte == b'~').nth(1).filter(|ip| !ip.is_empty()) else {
            return address;
        };
        if ip.contains(&b':') { [b"[", ip, b"]:0"].concat() } else { [ip, b":0"].concat() }
    }

    /// The resource of this proxy's spans: that of its workload, so that mesh and app spans of one
    /// workload stand together.
    #[must_use]
    pub fn resource(&self) -> Attributes {
        let mut resource = Attributes::new(RESOURCE_ATTRIBUTES);
        let names = [&self.local.canonical_service, &self.local.app, &self.local.workload, &self.id];
        let name = names.into_iter().find(|name| !name.is_empty());
        resource.string(attributes::SERVICE_NAME, name.map_or(b"unknown_service:envoy", |name| name));
        resource.string(attributes::SERVICE_NAMESPACE, &self.local.namespace);
        let versions = [&self.local.version, &self.local.canonical_revision];
        let version = versions.into_iter().find(|version| !version.is_empty());
        resource.string(attributes::SERVICE_VERSION, version.map_or(b"", |version| version));
        resource.string("k8s.pod.name", &self.pod);
        resource.string("k8s.namespace.name", &self.local.namespace);
        resource.string("k8s.cluster.name", &self.local.cluster);
        resource.string(attributes::PROXY_ID, &self.id);
        resource
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::FakeHost;

    #[test]
    fn a_source_without_a_port_is_the_pods_own() {
        let host = FakeHost::default();
        host.set("xds\0node\0id", "sidecar~10.0.0.1~a.b~c");
        let node = Node::read(&host);
        assert_eq!(node.outbound_source(b"10.0.0.1:4000".to_vec()), b"10.0.0.1:4000");
        assert_eq!(node.outbound_source(b"192.0.2.7:0".to_vec()), b"10.0.0.1:0");
        host.set("xds\0node\0id", "sidecar~2001:db8::1~a.b~c");
        assert_eq!(Node::read(&host).outbound_source(b"192.0.2.7:0".to_vec()), b"[2001:db8::1]:0");
        host.set("xds\0node\0id", "");
        assert_eq!(Node::read(&host).outbound_source(b"192.0.2.7:0".to_vec()), b"192.0.2.7:0");
    }

    #[test]
    fn the_role_is_in_the_id_and_the_hop_follows() {
        for (id, role, inbound, outbound) in [
            ("sidecar~10.0.0.1~a.b~c", Role::Sidecar, Hop::MeshInbound, Hop::MeshOutbound),
            ("router~10.0.0.1~a.b~c", Role::Gateway, Hop::MeshGateway, Hop::MeshGateway),
            ("waypoint~10.0.0.1~a.b~c", Role::Waypoint, Hop::MeshWaypoint, Hop::MeshWaypoint),
            ("", Role::Sidecar, Hop::MeshInbound, Hop::MeshOutbound),
        ] {
            let host = FakeHost::default();
            host.set("xds\0node\0id", id);
            let node = Node::read(&host);
            assert_eq!((node.role, node.hop(Some(1)), node.hop(Some(2))), (role, inbound, outbound));
        }
        assert_eq!(Node::read(&FakeHost::default()).hop(None), Hop::MeshInbound);
    }
}

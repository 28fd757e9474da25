//! The labels of Istio's standard metrics, as attributes.
//!
//! A label is written where its value is known, and left out otherwise: an attribute `unknown`
//! would match series that it has nothing to do with. The one exception is
//! `connection_security_policy` of source reporters, whose value in Istio is always the word
//! `unknown`.

use crate::host::Host;
use crate::span::Attributes;
use meshweft_telemetry::Hop;

/// `istio.reporter`.
pub const REPORTER: &str = "istio.reporter";
/// `istio.source_principal`.
pub const SOURCE_PRINCIPAL: &str = "istio.source_principal";
/// `istio.destination_principal`.
pub const DESTINATION_PRINCIPAL: &str = "istio.destination_principal";
/// `istio.destination_service`.
pub const DESTINATION_SERVICE: &str = "istio.destination_service";
/// `istio.destination_service_name`.
pub const DESTINATION_SERVICE_NAME: &str = "istio.destination_service_name";
/// `istio.destination_service_namespace`.
pub const DESTINATION_SERVICE_NAMESPACE: &str = "istio.destination_service_namespace";
/// `istio.request_protocol`.
pub const REQUEST_PROTOCOL: &str = "istio.request_protocol";
/// `istio.response_code`.
pub const RESPONSE_CODE: &str = "istio.response_code";
/// `istio.grpc_response_status`.
pub const GRPC_RESPONSE_STATUS: &str = "istio.grpc_response_status";
/// `istio.response_flags`.
pub const RESPONSE_FLAGS: &str = "istio.response_flags";
/// `istio.connection_security_policy`.
pub const CONNECTION_SECURITY_POLICY: &str = "istio.connection_security_policy";

/// Which end of the request a workload is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// It sent the request.
    Source,
    /// It served the request.
    Destination,
}

/// Who a workload is, in Istio's words. An empty field is one that is not known.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    /// Name of the workload.
    pub workload: Vec<u8>,
    /// Its namespace.
    pub namespace: Vec<u8>,
    /// Canonical service.
    pub canonical_service: Vec<u8>,
    /// Canonical revision.
    pub canonical_revision: Vec<u8>,
    /// Label `app`.
    pub app: Vec<u8>,
    /// Label `version`.
    pub version: Vec<u8>,
    /// Cluster id.
    pub cluster: Vec<u8>,
}

impl Identity {
    /// Adds the labels of this workload.
    pub fn describe(&self, side: Side, attributes: &mut Attributes) {
        let names = match side {
            Side::Source => &[
                "istio.source_workload",
                "istio.source_workload_namespace",
                "istio.source_canonical_service",
                "istio.source_canonical_revision",
                "istio.source_app",
                "istio.source_version",
                "istio.source_cluster",
            ],
            Side::Destination => &[
                "istio.destination_workload",
                "istio.destination_workload_namespace",
                "istio.destination_canonical_service",
                "istio.destination_canonical_revision",
                "istio.destination_app",
                "istio.destination_version",
                "istio.destination_cluster",
            ],
        };
        let values = [
            &self.workload,
            &self.namespace,
            &self.canonical_service,
            &self.canonical_revision,
            &self.app,
            &self.version,
            &self.cluster,
        ];
        for (name, value) in names.iter().zip(values) {
            attributes.string(name, value);
        }
    }
}

/// Value of `reporter` for spans of this hop.
#[must_use]
pub const fn reporter(hop: Hop) -> &'static str {
    match hop {
        Hop::MeshOutbound | Hop::MeshGateway | Hop::AppClient => "source",
        Hop::MeshInbound | Hop::AppServer => "destination",
        Hop::MeshWaypoint => "waypoint",
    }
}

/// Adds the labels of the service behind the stream's cluster, `name`.
///
/// istiod writes the service into the cluster's metadata. The clusters for traffic that it knows
/// no service for have none; Istio gives their name as the service's name.
pub fn describe_service(host: &impl Host, name: &[u8], attributes: &mut Attributes) {
    if matches!(
        name,
        b"BlackHoleCluster"
            | b"PassthroughCluster"
            | b"InboundPassthroughCluster"
            | b"InboundPassthroughClusterIpv4"
            | b"InboundPassthroughClusterIpv6"
    ) {
        attributes.string(DESTINATION_SERVICE_NAME, name);
        return;
    }
    let paths: [(&str, &[u8]); 3] = [
        (DESTINATION_SERVICE, b"xds\0cluster_metadata\0filter_metadata\0istio\0services\x000\0host"),
        (DESTINATION_SERVICE_NAME, b"xds\0cluster_metadata\0filter_metadata\0istio\0services\x000\0name"),
        (
            DESTINATION_SERVICE_NAMESPACE,
            b"xds\0cluster_metadata\0filter_metadata\0istio\0services\x000\0namespace",
        ),
    ];
    for (label, path) in paths {
        let Some(value) = host.property(path) else { break };
        attributes.string(label, &value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meshweft_telemetry::attributes::ISTIO_LABEL_PREFIX;

    #[test]
    fn every_label_has_the_prefix() {
        for name in [
            REPORTER,
            SOURCE_PRINCIPAL,
            DESTINATION_PRINCIPAL,
            DESTINATION_SERVICE,
            DESTINATION_SERVICE_NAME,
            DESTINATION_SERVICE_NAMESPACE,
            REQUEST_PROTOCOL,
            RESPONSE_CODE,
            GRPC_RESPONSE_STATUS,
            RESPONSE_FLAGS,
            CONNECTION_SECURITY_POLICY,
        ] {
            assert!(name.starts_with(ISTIO_LABEL_PREFIX));
        }
    }
}

//! Istio's standard labels, and the statistic's name that carries them.
//!
//! A proxy-wasm metric has a name and nothing else. As Istio's Wasm telemetry once did, the labels
//! are written into the name (`reporter=.=source;.;...istio_requests_total`), and `stats_tags`
//! regexes in Envoy's bootstrap take them out again.

/// The labels of the HTTP metrics, in the order in which Istio prints them.
pub const LABELS: [&str; 25] = [
    "reporter",
    "source_workload",
    "source_canonical_service",
    "source_canonical_revision",
    "source_workload_namespace",
    "source_principal",
    "source_app",
    "source_version",
    "source_cluster",
    "destination_workload",
    "destination_workload_namespace",
    "destination_principal",
    "destination_app",
    "destination_version",
    "destination_service",
    "destination_canonical_service",
    "destination_canonical_revision",
    "destination_service_name",
    "destination_service_namespace",
    "destination_cluster",
    "request_protocol",
    "response_code",
    "grpc_response_status",
    "response_flags",
    "connection_security_policy",
];

/// What Istio prints for a value that it does not know.
pub const UNKNOWN: &str = "unknown";

/// Longest value of a label, in bytes: a host name has at most 253, a SPIFFE id 2048, but nobody
/// sends one of those; a longer value is cut, so that a client cannot fill Envoy's memory.
const MAX_VALUE: usize = 256;

/// Who one end of a request is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Name of the workload.
    pub workload: String,
    /// Its namespace.
    pub namespace: String,
    /// Canonical service.
    pub canonical_service: String,
    /// Canonical revision.
    pub canonical_revision: String,
    /// Label `app`.
    pub app: String,
    /// Label `version`.
    pub version: String,
    /// Cluster id.
    pub cluster: String,
    /// SPIFFE id, as the certificate has it.
    pub principal: String,
}

impl Default for Peer {
    fn default() -> Self {
        let unknown = || UNKNOWN.to_owned();
        Self {
            workload: unknown(),
            namespace: unknown(),
            canonical_service: unknown(),
            canonical_revision: unknown(),
            app: unknown(),
            version: unknown(),
            cluster: unknown(),
            principal: unknown(),
        }
    }
}

/// Everything that the labels of one request are made of.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// `source` (outbound and gateway) or `destination` (inbound).
    pub reporter: &'a str,
    /// Who sent it.
    pub source: &'a Peer,
    /// Who served it.
    pub destination: &'a Peer,
    /// Host name of the service.
    pub service: &'a str,
    /// First label of the service's name.
    pub service_name: &'a str,
    /// Namespace of the service.
    pub service_namespace: &'a str,
    /// `http` or `grpc`.
    pub protocol: &'a str,
    /// Status code; 0 where no response was sent.
    pub response_code: u64,
    /// gRPC status, empty where the request is not gRPC.
    pub grpc_status: &'a str,
    /// Envoy's response flags as a bit mask.
    pub response_flags: u64,
    /// `mutual_tls`, `none`, or `unknown` (always, where the client reports).
    pub security_policy: &'a str,
}

impl Request<'_> {
    /// The labels, written as the head of a statistic's name. The metric's own name follows it.
    #[must_use]
    pub fn stat_prefix(&self) -> String {
        let code = self.response_code.to_string();
        let flags = flags_text(self.response_flags);
        let values: [&str; LABELS.len()] = [
            self.reporter,
            &self.source.workload,
            &self.source.canonical_service,
            &self.source.canonical_revision,
            &self.source.namespace,
            &self.source.principal,
            &self.source.app,
            &self.source.version,
            &self.source.cluster,
            &self.destination.workload,
            &self.destination.namespace,
            &self.destination.principal,
            &self.destination.app,
            &self.destination.version,
            self.service,
            &self.destination.canonical_service,
            &self.destination.canonical_revision,
            self.service_name,
            self.service_namespace,
            &self.destination.cluster,
            self.protocol,
            &code,
            self.grpc_status,
            &flags,
            self.security_policy,
        ];
        let mut name = String::with_capacity(1024);
        for (label, value) in LABELS.iter().zip(values) {
            name.push_str(label);
            name.push_str("=.=");
            name.extend(value.chars().take(MAX_VALUE).map(plain));
            name.push_str(";.;");
        }
        name
    }
}

/// A character that cannot end a value early.
fn plain(character: char) -> char {
    if character.is_ascii_graphic() && character != ';' { character } else { '_' }
}

/// Short names of Envoy's response flags, by bit (`envoy/stream_info/stream_info.h`, v1.40).
const FLAGS: [&str; 30] = [
    "LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE", "DC", "URX",
    "SI", "IH", "DPE", "UMSDR", "RFCF", "NFCF", "DT", "UPE", "NC", "OM", "DF", "DO", "DR", "UDO",
];

/// The flags as Istio prints them: `-` for none, short names joined by commas.
#[must_use]
pub fn flags_text(bits: u64) -> String {
    let mut text = String::new();
    for (bit, name) in FLAGS.iter().enumerate() {
        if bits & (1 << bit) != 0 {
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(name);
        }
    }
    if text.is_empty() {
        text.push('-');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request<'a>(peer: &'a Peer, service: &'a str) -> Request<'a> {
        Request {
            reporter: "source",
            source: peer,
            destination: peer,
            service,
            service_name: "orders",
            service_namespace: "shop",
            protocol: "http",
            response_code: 200,
            grpc_status: "",
            response_flags: 0,
            security_policy: UNKNOWN,
        }
    }

    #[test]
    fn every_label_stands_in_the_prefix_once_and_in_order() {
        let peer = Peer::default();
        let prefix = request(&peer, "orders.shop.svc.cluster.local").stat_prefix();
        let names: Vec<_> =
            prefix.split_terminator(";.;").map(|pair| pair.split_once("=.=").unwrap().0).collect();
        assert_eq!(names, LABELS);
        assert!(prefix.contains(";.;grpc_response_status=.=;.;response_flags=.=-;.;"));
    }

    #[test]
    fn a_value_cannot_forge_another_label() {
        let peer = Peer::default();
        let prefix = request(&peer, "x;.;response_code=.=500;.;\n\u{fe}").stat_prefix();
        assert_eq!(prefix.split_terminator(";.;").count(), LABELS.len());
        assert!(prefix.contains("destination_service=.=x_._response_code=.=500_.___;.;"));
        let long = "h".repeat(100_000);
        assert!(request(&peer, &long).stat_prefix().len() < 2000);
    }

    #[test]
    fn flags_are_named_and_joined() {
        assert_eq!(flags_text(0), "-");
        assert_eq!(flags_text(1 << 5 | 1 << 15), "UF,URX");
        assert_eq!(flags_text(1 << 14), "DC");
        assert_eq!(flags_text(1 << 63), "-");
    }
}

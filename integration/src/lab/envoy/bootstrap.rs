//! A whole bootstrap file.

use super::super::plan::{CLUSTER_ID, PodPlan, TRUST_DOMAIN};
use super::{ADMIN_PORT, Proxy, clusters, listeners, socket_address};
use serde_json::{Value, json};

/// The release that node metadata names: the newest one whose labels and metadata the lab follows.
const ISTIO_VERSION: &str = "1.31.0";

/// Labels of `istio_*` metrics, as `istio-stats/src/labels.rs` writes them into names.
const ISTIO_LABELS: [&str; 25] = [
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

/// Istio's default buckets, which are Envoy's too.
const BUCKETS: [f64; 19] =
    [0.5, 1., 5., 10., 25., 50., 100., 250., 500., 1e3, 2500., 5e3, 1e4, 3e4, 6e4, 3e5, 6e5, 1.8e6, 3.6e6];

/// The bootstrap of one proxy.
pub(crate) fn bootstrap(proxy: &Proxy<'_>) -> Value {
    json!({
        "node": node(proxy.pod),
        "admin": {"address": socket_address("127.0.0.1", ADMIN_PORT)},
        "stats_config": {
            "use_all_default_tags": false,
            "stats_tags": stats_tags(),
            "histogram_bucket_settings": [{"match": {"prefix": "wasmcustom"}, "buckets": BUCKETS}],
        },
        // Histograms reach the Prometheus page when they are merged. Istio waits Envoy's default of
        // 5 s; a test that looks at the page need not.
        "stats_flush_interval": "1s",
        "static_resources": {
            "listeners": listeners::listeners(proxy),
            "clusters": clusters::clusters(proxy),
        },
    })
}

/// One regex per label. Envoy looks at the first word (`^wasmcustom\.`) before it tries a regex, so
/// that its own thousands of statistics pay nothing for these.
fn stats_tags() -> Vec<Value> {
    let istio = ISTIO_LABELS.iter().map(|label| {
        json!({"tag_name": label, "regex": format!(r"^wasmcustom\.(?:.*?;\.;)?({label}=\.=(.*?);\.;)")})
    });
    // The lab's cluster names have no dots but those of a service's full name.
    let envoy = [
        ("cluster_name", r"^cluster\.(([^.]+(?:\.[^.]+\.svc\.cluster\.local)?)\.)"),
        ("http_conn_manager_prefix", r"^http\.(([^.]+)\.)"),
    ];
    let envoy = envoy.iter().map(|(name, regex)| json!({"tag_name": name, "regex": regex}));
    istio.chain(envoy).collect()
}

/// The node as pilot-agent describes it.
fn node(pod: &PodPlan) -> Value {
    let PodPlan { name, namespace, workload, address, service, .. } = pod;
    let kind = if pod.is_gateway() { "router" } else { "sidecar" };
    let mut labels = json!({
        "app": service,
        "service.istio.io/canonical-name": service,
        "service.istio.io/canonical-revision": pod.revision(),
    });
    if let Some(version) = &pod.version {
        labels["version"] = json!(version);
    }
    let mut metadata = json!({
        "NAME": name,
        "NAMESPACE": namespace,
        "WORKLOAD_NAME": workload,
        "CLUSTER_ID": CLUSTER_ID,
        "LABELS": labels,
        "SERVICE_ACCOUNT": pod.service_account,
        "MESH_ID": TRUST_DOMAIN,
        "ISTIO_VERSION": ISTIO_VERSION,
        "INSTANCE_IPS": address.to_string(),
        "OWNER": format!("kubernetes://apis/apps/v1/namespaces/{namespace}/deployments/{workload}"),
        "NODE_NAME": "lab",
    });
    if !pod.is_gateway() {
        metadata["INTERCEPTION_MODE"] = json!("REDIRECT");
        metadata["APP_CONTAINERS"] = json!(workload);
    }
    json!({
        "id": format!("{kind}~{address}~{name}.{namespace}~{namespace}.svc.{TRUST_DOMAIN}"),
        "cluster": format!("{service}.{namespace}"),
        "metadata": metadata,
    })
}

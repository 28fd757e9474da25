//! The clusters.

use super::super::plan::{PodPlan, Service};
use super::{
    ADMIN_PORT, Proxy, inbound_cluster, outbound_cluster, outbound_tcp_cluster, socket_address, tls_context,
    typed,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Traffic out to where the app meant to go.
pub(super) const PASSTHROUGH: &str = "PassthroughCluster";
/// Traffic in to a port that the mesh file does not name.
pub(super) const INBOUND_PASSTHROUGH: &str = "InboundPassthroughCluster";
/// The agent's cluster, the filter's default.
const AGENT: &str = "meshweft-agent";

/// What an app sees as the peer of its inbound connections.
const INBOUND_SOURCE: &str = "127.0.0.6";

/// Istio's default: as good as no limit.
const NO_LIMIT: u32 = u32::MAX;

pub(super) fn clusters(proxy: &Proxy<'_>) -> Vec<Value> {
    let mut clusters = vec![admin(), agent(&proxy.files.agent_socket)];
    for service in &proxy.plan.services {
        for port in &service.ports {
            let http = ["istio-http/1.1", "istio", "http/1.1"];
            clusters.push(outbound(proxy, service, *port, &outbound_cluster(service, *port), &http));
            if !proxy.pod.is_gateway() {
                clusters.push(outbound(
                    proxy,
                    service,
                    *port,
                    &outbound_tcp_cluster(service, *port),
                    &["istio"],
                ));
            }
        }
    }
    if !proxy.pod.is_gateway() {
        clusters.push(original_destination(PASSTHROUGH, None, None));
        clusters.push(original_destination(INBOUND_PASSTHROUGH, Some(INBOUND_SOURCE), None));
        for port in &proxy.pod.ports {
            let name = inbound_cluster(*port);
            clusters.push(original_destination(&name, Some(INBOUND_SOURCE), Some(proxy.pod)));
        }
    }
    clusters
}

fn cluster(name: &str, connect_timeout: &str) -> Value {
    json!({
        "name": name,
        "connect_timeout": connect_timeout,
        "circuit_breakers": {"thresholds": [{
            "max_connections": NO_LIMIT,
            "max_pending_requests": NO_LIMIT,
            "max_requests": NO_LIMIT,
            "max_retries": NO_LIMIT,
        }]},
    })
}

fn http_options(options: Value) -> Value {
    let mut options = options;
    let kind = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    options["@type"] = json!(format!("type.googleapis.com/{kind}"));
    json!({ kind: options })
}

fn services_metadata(host: &str, name: &str, namespace: &str) -> Value {
    json!({"filter_metadata": {"istio": {"services": [{"host": host, "name": name, "namespace": namespace}]}}})
}

fn outbound(proxy: &Proxy<'_>, service: &Service, port: u16, name: &str, alpn: &[&str]) -> Value {
    let pods: Vec<&PodPlan> = service
        .endpoints
        .iter()
        .map(|index| &proxy.plan.pods[*index])
        .filter(|pod| pod.ports.contains(&port))
        .collect();
    let endpoints: Vec<_> = pods
        .iter()
        .map(|pod| {
            let mut metadata = json!({"istio": {"workload": pod.workload_metadata()}});
            if pod.sidecar {
                metadata["envoy.transport_socket_match"] = json!({"tlsMode": "istio"});
            }
            json!({
                "endpoint": {"address": socket_address(&pod.address.to_string(), port)},
                "metadata": {"filter_metadata": metadata},
            })
        })
        .collect();
    let identities: BTreeSet<_> = pods.iter().map(|pod| pod.spiffe_id()).collect();
    let identities: Vec<_> = identities.into_iter().collect();
    let tls = typed(
        "envoy.transport_sockets.tls",
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        json!({
            "sni": format!("outbound_.{port}_._.{}", service.host()),
            "common_tls_context": tls_context(proxy.files, alpn, &identities),
        }),
    );
    let plaintext = typed(
        "envoy.transport_sockets.raw_buffer",
        "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
        json!({}),
    );
    let mut cluster = cluster(name, "10s");
    cluster["type"] = json!("STATIC");
    cluster["lb_policy"] = json!("LEAST_REQUEST");
    cluster["metadata"] = services_metadata(&service.host(), &service.name, &service.namespace);
    cluster["load_assignment"] = json!({"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]});
    cluster["transport_socket_matches"] = json!([
        {"name": "tlsMode-istio", "match": {"tlsMode": "istio"}, "transport_socket": tls},
        {"name": "tlsMode-disabled", "match": {}, "transport_socket": plaintext},
    ]);
    cluster["typed_extension_protocol_options"] =
        http_options(json!({"explicit_http_config": {"http_protocol_options": {}}}));
    cluster
}

fn original_destination(name: &str, source: Option<&str>, pod: Option<&PodPlan>) -> Value {
    let mut cluster = cluster(name, "10s");
    cluster["type"] = json!("ORIGINAL_DST");
    cluster["lb_policy"] = json!("CLUSTER_PROVIDED");
    // The app is spoken to as the client spoke: HTTP/1.1 or HTTP/2 in plaintext.
    cluster["typed_extension_protocol_options"] = http_options(json!({
        "use_downstream_protocol_config": {"http_protocol_options": {}, "http2_protocol_options": {}},
    }));
    if let Some(source) = source {
        cluster["upstream_bind_config"] = json!({"source_address": {"address": source, "port_value": 0}});
    }
    if let Some(pod) = pod {
        let host = format!("{}.{}.svc.{}", pod.service, pod.namespace, super::super::plan::TRUST_DOMAIN);
        cluster["metadata"] = services_metadata(&host, &pod.service, &pod.namespace);
    }
    cluster
}

fn admin() -> Value {
    let mut cluster = cluster("admin", "0.25s");
    cluster["load_assignment"] = json!({
        "cluster_name": "admin",
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket_address("127.0.0.1", ADMIN_PORT)}}]}],
    });
    cluster
}

/// The agent on its Unix socket. It may be absent or dead: a question fails at once then.
fn agent(socket: &str) -> Value {
    let mut cluster = cluster(AGENT, "0.25s");
    cluster["load_assignment"] = json!({
        "cluster_name": AGENT,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": socket}}}}]}],
    });
    cluster["typed_extension_protocol_options"] =
        http_options(json!({"explicit_http_config": {"http_protocol_options": {}}}));
    cluster
}

//! The HTTP connection manager and its filters.

use super::super::plan::Plan;
use super::{Proxy, typed};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Most kilobytes of a request's head. Envoy's own default is 60; a head of 60 KiB must pass.
const MAX_HEADERS_KB: u32 = 96;

/// Where a connection manager stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Inbound,
    Outbound,
    Gateway,
}

/// A connection manager with this route configuration.
pub(super) fn connection_manager(proxy: &Proxy<'_>, side: Side, stat_prefix: &str, routes: &Value) -> Value {
    let mut config = json!({
        "stat_prefix": stat_prefix,
        "server_name": "istio-envoy",
        "generate_request_id": true,
        "use_remote_address": side == Side::Gateway,
        "normalize_path": true,
        "max_request_headers_kb": MAX_HEADERS_KB,
        "http_protocol_options": {"accept_http_10": true},
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "stream_idle_timeout": "0s",
        "route_config": routes,
        "http_filters": filters(proxy),
    });
    match side {
        Side::Inbound => {
            config["forward_client_cert_details"] = json!("APPEND_FORWARD");
            config["set_current_client_cert_details"] = json!({"subject": true, "dns": true, "uri": true});
        }
        Side::Gateway => {
            config["forward_client_cert_details"] = json!("SANITIZE_SET");
        }
        Side::Outbound => {}
    }
    typed(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        config,
    )
}

/// The filters in Istio's order: extensions, statistics, router. At a request's end each is asked to
/// log in this order too, all of them seeing the same finished request.
fn filters(proxy: &Proxy<'_>) -> Vec<Value> {
    let mut filters = Vec::new();
    if let Some(module) = &proxy.files.filter {
        let config = Value::Object(proxy.plan.filter_config.clone());
        filters.push(wasm("meshweft", module, &config));
    }
    filters.push(wasm("istio_stats_standin", &proxy.files.istio_stats, &peers(proxy.plan)));
    filters.push(typed(
        "envoy.filters.http.router",
        "envoy.extensions.filters.http.router.v3.Router",
        json!({}),
    ));
    filters
}

/// A module in a VM of its own. If it cannot be loaded or dies, traffic goes on without it.
fn wasm(name: &str, module: &str, configuration: &Value) -> Value {
    typed(
        name,
        "envoy.extensions.filters.http.wasm.v3.Wasm",
        json!({"config": {
            "name": name,
            "root_id": name,
            "failure_policy": "FAIL_OPEN",
            "vm_config": {
                "vm_id": name,
                "runtime": "envoy.wasm.runtime.v8",
                "code": {"local": {"filename": module}},
            },
            "configuration": {
                "@type": "type.googleapis.com/google.protobuf.StringValue",
                "value": configuration.to_string(),
            },
        }}),
    )
}

/// The stand-in's table of workloads by address.
fn peers(plan: &Plan) -> Value {
    let workloads: BTreeMap<_, _> = plan
        .pods
        .iter()
        .filter(|pod| pod.sidecar)
        .map(|pod| {
            let version = pod.version.as_deref().unwrap_or_default();
            let entry = json!({"workload": pod.workload_metadata(), "principal": pod.spiffe_id(), "app": pod.service, "version": version});
            (pod.address.to_string(), entry)
        })
        .collect();
    json!({"workloads": workloads})
}

/// A route of everything below `prefix` to `cluster`, with Istio's defaults: no timeout, and one
/// more try where the request cannot have reached an app.
pub(super) fn route(prefix: &str, cluster: &str, retry_on: &str) -> Value {
    json!({
        "match": {"prefix": prefix},
        "route": {
            "cluster": cluster,
            "timeout": "0s",
            "retry_policy": {"retry_on": retry_on, "num_retries": 2},
        },
    })
}

/// Retries of the client's side.
pub(super) const RETRY_OUTBOUND: &str =
    "connect-failure,refused-stream,unavailable,cancelled,reset-before-request";
/// Retries of the server's side.
pub(super) const RETRY_INBOUND: &str = "reset-before-request";

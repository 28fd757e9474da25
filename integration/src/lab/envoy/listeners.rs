//! The listeners, as istiod shapes them.

use super::super::plan::{GATEWAY_PORT, PodPlan, Service};
use super::clusters::{INBOUND_PASSTHROUGH, PASSTHROUGH};
use super::http::{RETRY_INBOUND, RETRY_OUTBOUND, Side, connection_manager, route};
use super::{
    INBOUND_PORT, OUTBOUND_PORT, Proxy, READY_PORT, STATS_PORT, inbound_cluster, outbound_cluster,
    outbound_tcp_cluster, socket_address, tls_context, typed,
};
use serde_json::{Value, json};

/// How long a new connection may stay silent before it counts as not HTTP (a server that speaks
/// first). Long enough that a slow client's request is not taken for that.
const DETECTION_TIMEOUT: &str = "5s";

/// ALPN of HTTP between sidecars.
const HTTP_ALPN: &[&str] = &["istio-http/1.0", "istio-http/1.1", "istio-h2"];
/// ALPN of everything else between sidecars.
const TCP_ALPN: &[&str] = &["istio", "istio-peer-exchange"];
/// What the HTTP inspector reports.
const PLAIN_HTTP: &[&str] = &["http/1.0", "http/1.1", "h2c"];

pub(super) fn listeners(proxy: &Proxy<'_>) -> Vec<Value> {
    let mut listeners = vec![prometheus(), ready()];
    if proxy.pod.is_gateway() {
        listeners.push(gateway(proxy));
    } else {
        listeners.push(outbound(proxy));
        listeners.push(inbound(proxy));
    }
    listeners
}

fn redirected(name: &str, port: u16, direction: &str, chains: &[Value], default: &Value) -> Value {
    let filter = |name: &str| {
        let kind: String = name.split('_').map(capitalized).collect();
        typed(
            &format!("envoy.filters.listener.{name}"),
            &format!("envoy.extensions.filters.listener.{name}.v3.{kind}"),
            json!({}),
        )
    };
    json!({
        "name": name,
        "address": socket_address("0.0.0.0", port),
        "traffic_direction": direction,
        "listener_filters": [filter("original_dst"), filter("tls_inspector"), filter("http_inspector")],
        "listener_filters_timeout": DETECTION_TIMEOUT,
        "continue_on_listener_filters_timeout": true,
        "filter_chains": chains,
        "default_filter_chain": {"name": "passthrough", "filters": [default]},
    })
}

fn capitalized(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

fn tcp_proxy(cluster: &str) -> Value {
    typed(
        "envoy.filters.network.tcp_proxy",
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        json!({"stat_prefix": cluster, "cluster": cluster}),
    )
}

/// 15001: HTTP is routed by its host, a connection that is not HTTP by its address; what is not
/// known passes through to where the app meant to go.
fn outbound(proxy: &Proxy<'_>) -> Value {
    let services = &proxy.plan.services;
    let range =
        |service: &Service| json!({"address_prefix": service.virtual_address.to_string(), "prefix_len": 32});
    // A chain without ranges would lose against the services' own chains, which are more specific.
    let mut everywhere: Vec<_> = services.iter().map(range).collect();
    everywhere.push(json!({"address_prefix": "0.0.0.0", "prefix_len": 0}));
    let mut chains = vec![json!({
        "name": "http",
        "filter_chain_match": {
            "transport_protocol": "raw_buffer",
            "application_protocols": PLAIN_HTTP,
            "prefix_ranges": everywhere,
        },
        "filters": [connection_manager(proxy, Side::Outbound, "outbound", &outbound_routes(proxy.pod, services))],
    })];
    for service in services {
        // One virtual address cannot tell several ports apart here; such a service is HTTP alone.
        if let [port] = service.ports.as_slice() {
            // The HTTP chain claims this transport; what it does not match goes to no chain that does
            // not name it too.
            for transport in ["raw_buffer", "tls"] {
                chains.push(json!({
                    "name": format!("tcp {} {transport}", service.host()),
                    "filter_chain_match": {"prefix_ranges": [range(service)], "transport_protocol": transport},
                    "filters": [tcp_proxy(&outbound_tcp_cluster(service, *port))],
                }));
            }
        }
    }
    redirected("virtualOutbound", OUTBOUND_PORT, "OUTBOUND", &chains, &tcp_proxy(PASSTHROUGH))
}

fn outbound_routes(pod: &PodPlan, services: &[Service]) -> Value {
    let mut hosts = Vec::new();
    for service in services {
        let Service { name, namespace, virtual_address, ports, .. } = service;
        let mut names = vec![
            service.host(),
            format!("{name}.{namespace}.svc"),
            format!("{name}.{namespace}"),
            virtual_address.to_string(),
        ];
        if *namespace == pod.namespace {
            names.push(name.clone());
        }
        for port in ports {
            let mut domains: Vec<_> = names.iter().map(|name| format!("{name}:{port}")).collect();
            // A host without a port means 80, or the only port that there is.
            let implied = if ports.contains(&80) { Some(&80) } else { ports.first() };
            if implied == Some(port) {
                domains.extend(names.iter().cloned());
            }
            hosts.push(json!({
                "name": format!("{}:{port}", service.host()),
                "domains": domains,
                "routes": [route("/", &outbound_cluster(service, *port), RETRY_OUTBOUND)],
            }));
        }
    }
    hosts.push(json!({
        "name": "allow_any",
        "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": PASSTHROUGH, "timeout": "0s"}}],
    }));
    json!({"name": "outbound", "virtual_hosts": hosts})
}

/// 15006, PERMISSIVE: mutual TLS between sidecars, plaintext from elsewhere, both to the app; TLS of
/// the app's own passes through.
fn inbound(proxy: &Proxy<'_>) -> Value {
    let mut chains = Vec::new();
    for port in proxy.pod.ports.iter().copied().map(Some).chain([None]) {
        let cluster = port.map_or_else(|| INBOUND_PASSTHROUGH.to_owned(), inbound_cluster);
        let routes = json!({
            "name": cluster,
            "virtual_hosts": [{
                "name": "inbound",
                "domains": ["*"],
                "routes": [route("/", &cluster, RETRY_INBOUND)],
            }],
        });
        let prefix = port.map_or_else(|| "inbound_any".to_owned(), |port| format!("inbound_0.0.0.0_{port}"));
        let http = || connection_manager(proxy, Side::Inbound, &prefix.replace('.', "_"), &routes);
        let tcp = || tcp_proxy(&cluster);
        let kinds = [
            (
                "mtls http",
                json!({"transport_protocol": "tls", "application_protocols": HTTP_ALPN}),
                http(),
                Some(["h2", "http/1.1"]),
            ),
            (
                "mtls tcp",
                json!({"transport_protocol": "tls", "application_protocols": TCP_ALPN}),
                tcp(),
                Some(["istio-peer-exchange", "istio"]),
            ),
            (
                "http",
                json!({"transport_protocol": "raw_buffer", "application_protocols": PLAIN_HTTP}),
                http(),
                None,
            ),
            ("tcp", json!({"transport_protocol": "raw_buffer"}), tcp(), None),
            ("tls", json!({"transport_protocol": "tls"}), tcp(), None),
        ];
        for (name, mut matching, filter, mutual_tls) in kinds {
            if let Some(port) = port {
                matching["destination_port"] = json!(port);
            }
            let mut chain = json!({"name": format!("{cluster} {name}"), "filter_chain_match": matching, "filters": [filter]});
            if let Some(alpn) = mutual_tls {
                chain["transport_socket"] = typed(
                    "envoy.transport_sockets.tls",
                    "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                    json!({
                        "require_client_certificate": true,
                        "common_tls_context": tls_context(proxy.files, &alpn, &[]),
                    }),
                );
            }
            chains.push(chain);
        }
    }
    redirected("virtualInbound", INBOUND_PORT, "INBOUND", &chains, &tcp_proxy(INBOUND_PASSTHROUGH))
}

fn gateway(proxy: &Proxy<'_>) -> Value {
    let routes: Vec<_> = proxy
        .plan
        .routes
        .iter()
        .map(|entry| {
            let service = &proxy.plan.services[entry.service];
            route(&entry.prefix, &outbound_cluster(service, entry.port), RETRY_OUTBOUND)
        })
        .collect();
    let hosts = json!({
        "name": "http.8080",
        "virtual_hosts": [{"name": "*:80", "domains": ["*"], "routes": routes}],
    });
    json!({
        "name": format!("0.0.0.0_{GATEWAY_PORT}"),
        "address": socket_address("0.0.0.0", GATEWAY_PORT),
        "traffic_direction": "OUTBOUND",
        "filter_chains": [{
            "filters": [connection_manager(proxy, Side::Gateway, "outbound_gateway", &hosts)],
        }],
    })
}

/// 15090: Envoy's statistics for Prometheus, without the rest of its admin page.
fn prometheus() -> Value {
    observer("prometheus", STATS_PORT, "/stats/prometheus", "/stats/prometheus")
}

/// 15021: whether the proxy is ready.
fn ready() -> Value {
    observer("ready", READY_PORT, "/healthz/ready", "/ready")
}

fn observer(name: &str, port: u16, path: &str, admin_path: &str) -> Value {
    json!({
        "name": name,
        "address": socket_address("0.0.0.0", port),
        "filter_chains": [{"filters": [typed(
            "envoy.filters.network.http_connection_manager",
            "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            json!({
                "stat_prefix": name,
                "route_config": {"virtual_hosts": [{
                    "name": name,
                    "domains": ["*"],
                    "routes": [{
                        "match": {"path": path},
                        "route": {"cluster": "admin", "prefix_rewrite": admin_path},
                    }],
                }]},
                "http_filters": [typed(
                    "envoy.filters.http.router",
                    "envoy.extensions.filters.http.router.v3.Router",
                    json!({}),
                )],
            }),
        )]}],
    })
}

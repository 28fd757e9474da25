//! The Envoys of the filter's bench: all alike but for what is measured.

use super::Interrupt;
use super::agent::Agent;
use super::load::CONNECTIONS;
use super::site::{Part, Site};
use crate::lab::fetch;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

/// What looks at the requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Observer {
    /// Nothing.
    Nobody,
    /// Our filter.
    Filter,
    /// Envoy's native OpenTelemetry tracer.
    Tracer,
}

/// The parts that all of them use.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    pub(super) binary: &'a Path,
    pub(super) module: &'a Path,
    pub(super) upstream: SocketAddr,
    pub(super) agent: &'a Agent,
    pub(super) site: &'a Site,
}

/// An Envoy with one worker.
#[derive(Debug)]
pub(super) struct Envoy {
    part: Part,
    admin: SocketAddr,
    address: SocketAddr,
}

impl Envoy {
    /// Starts it. `name` names its files.
    pub(super) fn start(
        name: &str,
        observer: Observer,
        around: &Surroundings<'_>,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let site = around.site;
        let file = site.write(&format!("{name}.json"), &bootstrap(observer, around).to_string())?;
        let admin_file = site.path(&format!("{name}.admin"));
        let mut command = Command::new(around.binary);
        command.arg("-c").arg(&file).arg("--admin-address-path").arg(&admin_file);
        command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]);
        let mut part = Part::start("Envoy", command, &site.path(&format!("{name}.log")))?;
        let mut admin = None;
        part.wait_until(interrupt, || {
            admin = std::fs::read_to_string(&admin_file).ok().and_then(|text| text.trim().parse().ok());
            admin.is_some_and(|admin| get(admin, "/ready").is_ok_and(|text| text.trim() == "LIVE"))
        })?;
        let admin: SocketAddr = admin.context("Envoy's admin address")?;
        // The kernel chose the ports.
        let listeners: Value = serde_json::from_str(&get(admin, "/listeners?format=json")?)?;
        let socket = &listeners["listener_statuses"][0]["local_address"]["socket_address"];
        let port = socket["port_value"].as_u64().and_then(|port| u16::try_from(port).ok());
        let address = super::site::loopback(port.with_context(|| format!("Envoy's listener: {listeners}"))?);
        Ok(Self { part, admin, address })
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn pid(&self) -> u32 {
        self.part.pid()
    }

    /// The filter's own counters now. Fails where Envoy has ended.
    pub(super) fn counters(&mut self) -> Result<Counters> {
        self.part.check()?;
        Ok(Counters(get(self.admin, "/stats?filter=meshweft_").context("Envoy's statistics")?))
    }
}

/// The filter's counters, as Envoy's admin page has them.
#[derive(Debug)]
pub(super) struct Counters(String);

impl Counters {
    /// A counter by its name; 0 where it is not there.
    pub(super) fn get(&self, name: &str) -> u64 {
        let mut lines = self.0.lines().filter_map(|line| line.split_once(": "));
        let found = lines.find(|(key, _)| key.rsplit('.').next() == Some(name));
        found.and_then(|(_, value)| value.parse().ok()).unwrap_or_default()
    }

    /// Sum of the counters whose names begin so.
    pub(super) fn sum(&self, prefix: &str) -> u64 {
        let lines = self.0.lines().filter_map(|line| line.split_once(": "));
        let meant =
            lines.filter(|(key, _)| key.rsplit('.').next().is_some_and(|name| name.starts_with(prefix)));
        meant.filter_map(|(_, value)| value.parse::<u64>().ok()).sum()
    }
}

fn get(admin: SocketAddr, path: &str) -> Result<String> {
    let answer = fetch::get(TcpStream::connect(admin)?, "envoy", path, &[])?;
    ensure!(answer.status == 200, "GET {path}: status {}", answer.status);
    Ok(answer.text())
}

const SERVICE: &str = "orders.shop.svc.cluster.local";
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

fn typed(name: &str, kind: &str, mut config: Value) -> Value {
    config["@type"] = json!(format!("type.googleapis.com/{kind}"));
    json!({"name": name, "typed_config": config})
}

fn socket_address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip(), "port_value": address.port()}})
}

fn cluster(name: &str, address: &Value, protocol: &str) -> Value {
    json!({
        "name": name,
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{
            "endpoint": {"address": address},
            "metadata": {"filter_metadata": {"istio": {"workload": "orders;shop;orders;v1;Kubernetes"}}},
        }]}]},
        "metadata": {"filter_metadata": {"istio": {"services": [{"host": SERVICE, "name": "orders", "namespace": "shop"}]}}},
        "typed_extension_protocol_options": {HTTP_OPTIONS: {
            "@type": format!("type.googleapis.com/{HTTP_OPTIONS}"),
            "explicit_http_config": {protocol: {}},
        }},
    })
}

/// A sidecar's outbound listener with node and cluster metadata as istiod sets them.
fn bootstrap(observer: Observer, around: &Surroundings<'_>) -> Value {
    let mut filters = Vec::new();
    if observer == Observer::Filter {
        filters.push(wasm(around.module));
    }
    filters.push(typed(
        "envoy.filters.http.router",
        "envoy.extensions.filters.http.router.v3.Router",
        json!({}),
    ));
    let mut manager = json!({
        "stat_prefix": "outbound",
        "generate_request_id": true,
        "normalize_path": true,
        "stream_idle_timeout": "0s",
        "http_filters": filters,
        "route_config": {"name": "outbound", "virtual_hosts": [{
            "name": "orders",
            "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "orders", "timeout": "0s"}}],
        }]},
    });
    if observer == Observer::Tracer {
        manager["tracing"] = tracing();
    }
    let manager = typed(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        manager,
    );
    let any_port = json!({"socket_address": {"address": "127.0.0.1", "port_value": 0}});
    let socket = json!({"pipe": {"path": around.agent.socket()}});
    let mut upstream = cluster("orders", &socket_address(around.upstream), "http_protocol_options");
    upstream["circuit_breakers"] = json!({"thresholds": [{"max_connections": CONNECTIONS * 4}]});
    json!({
        "node": {
            "id": "sidecar~10.0.0.1~storefront-1.shop~shop.svc.cluster.local",
            "cluster": "storefront.shop",
            "metadata": {
                "NAME": "storefront-1",
                "NAMESPACE": "shop",
                "WORKLOAD_NAME": "storefront",
                "CLUSTER_ID": "Kubernetes",
                "MESH_ID": "cluster.local",
                "LABELS": {
                    "app": "storefront",
                    "service.istio.io/canonical-name": "storefront",
                    "service.istio.io/canonical-revision": "v1",
                },
            },
        },
        "admin": {"address": any_port},
        "static_resources": {
            "listeners": [{
                "name": "outbound",
                "address": any_port,
                "traffic_direction": "OUTBOUND",
                "filter_chains": [{"filters": [manager]}],
            }],
            "clusters": [
                upstream,
                cluster("meshweft-agent", &socket, "http_protocol_options"),
                cluster("opentelemetry", &socket_address(around.agent.grpc()), "http2_protocol_options"),
            ],
        },
    })
}

fn wasm(module: &Path) -> Value {
    // The deadline of the question is longer than by default: a slow answer on a busy machine costs
    // the proxy the same CPU as a quick one, but one that is given up on does not. The queue is
    // longer too, so that high rates can be measured: a span that is dropped costs less.
    let config = json!({
        "context": {"deadline_ms": 200},
        "export": {"max_queue": 65536, "max_queue_bytes": 64 << 20},
    });
    typed(
        "meshweft",
        "envoy.extensions.filters.http.wasm.v3.Wasm",
        json!({"config": {
            "name": "meshweft",
            "root_id": "meshweft",
            "failure_policy": "FAIL_OPEN",
            "vm_config": {
                "vm_id": "meshweft",
                "runtime": "envoy.wasm.runtime.v8",
                "code": {"local": {"filename": module}},
            },
            "configuration": {
                "@type": "type.googleapis.com/google.protobuf.StringValue",
                "value": config.to_string(),
            },
        }}),
    )
}

/// As Istio sets it for a sidecar, but without the custom tags that Istio adds: they would make the
/// tracer dearer.
fn tracing() -> Value {
    json!({
        "client_sampling": {"value": 100.0},
        "random_sampling": {"value": 100.0},
        "overall_sampling": {"value": 100.0},
        "provider": typed(
            "envoy.tracers.opentelemetry",
            "envoy.config.trace.v3.OpenTelemetryConfig",
            json!({
                "grpc_service": {"envoy_grpc": {"cluster_name": "opentelemetry"}, "timeout": "10s"},
                "service_name": "storefront.shop",
            }),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_whatever_stands_before_their_names() {
        let page = Counters("wasmcustom.meshweft_a_total: 3\nwasmcustom.meshweft_dropped_x_total: 1\nwasmcustom.meshweft_dropped_y_total: 4\n".to_owned());
        assert_eq!((page.get("meshweft_a_total"), page.get("meshweft_b_total")), (3, 0));
        assert_eq!(page.sum("meshweft_dropped_"), 5);
    }
}

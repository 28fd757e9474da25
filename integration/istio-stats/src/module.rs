//! The adapter to proxy-wasm. It does nothing before `on_log`, so it costs a request one callback.

use crate::labels::{Peer, Request, UNKNOWN};
use crate::peers::{Config, Workload, from_metadata, ip_of, known};
use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{ContextType, LogLevel, MetricType};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| -> Box<dyn RootContext> { Box::new(Root::default()) });
}}

/// Most label sets that one worker counts. A host name is a label where traffic passes through, and
/// clients choose it: what comes later is counted under an unknown service.
const MAX_SERIES: usize = 2000;

/// `xds.listener_direction` of an inbound listener (`envoy.config.core.v3.TrafficDirection`).
const INBOUND: u64 = 1;

/// The ids of one label set's metrics.
#[derive(Clone, Copy)]
struct Series {
    requests: u32,
    duration: u32,
    request_bytes: u32,
    response_bytes: u32,
}

impl Series {
    fn define(prefix: &str) -> Option<Self> {
        let define = |kind, name| hostcalls::define_metric(kind, &format!("{prefix}{name}")).ok();
        Some(Self {
            requests: define(MetricType::Counter, "istio_requests_total")?,
            duration: define(MetricType::Histogram, "istio_request_duration_milliseconds")?,
            request_bytes: define(MetricType::Histogram, "istio_request_bytes")?,
            response_bytes: define(MetricType::Histogram, "istio_response_bytes")?,
        })
    }
}

#[derive(Default)]
struct Shared {
    config: Config,
    /// This proxy's own workload.
    local: Peer,
    series: RefCell<HashMap<String, Series>>,
}

impl Shared {
    fn series(&self, request: &Request<'_>) -> Option<Series> {
        let mut prefix = request.stat_prefix();
        let mut series = self.series.borrow_mut();
        if !series.contains_key(&prefix) && series.len() >= MAX_SERIES {
            let unknown = Request { service: UNKNOWN, service_name: UNKNOWN, ..request.clone() };
            prefix = unknown.stat_prefix();
        }
        if let Some(found) = series.get(&prefix) {
            return Some(*found);
        }
        let defined = Series::define(&prefix)?;
        series.insert(prefix, defined);
        Some(defined)
    }

    fn peer_at(&self, address: &str) -> Option<Peer> {
        self.config.by_address(ip_of(address)?).map(Workload::peer)
    }
}

#[derive(Default)]
struct Root {
    shared: Rc<Shared>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _: usize) -> bool {
        let bytes = self.get_plugin_configuration().unwrap_or_default();
        let parsed = if bytes.is_empty() { Ok(Config::default()) } else { serde_json::from_slice(&bytes) };
        match parsed {
            Ok(config) => {
                self.shared = Rc::new(Shared { config, local: local_peer(), series: RefCell::default() });
                true
            }
            Err(error) => {
                let _ = hostcalls::log(LogLevel::Error, &format!("istio-stats: configuration: {error}"));
                false
            }
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Stream { shared: Rc::clone(&self.shared) }))
    }
}

struct Stream {
    shared: Rc<Shared>,
}

impl Context for Stream {}

impl HttpContext for Stream {
    fn on_log(&mut self) {
        let inbound = number(&["xds", "listener_direction"]) == Some(INBOUND);
        let local = &self.shared.local;
        let remote = if inbound { self.client() } else { self.server() };
        let (source, destination) = if inbound { (&remote, local) } else { (local, &remote) };
        let mutual_tls = flag(&["connection", "mtls"]);
        let local_principal = [if inbound { "connection" } else { "upstream" }, "uri_san_local_certificate"];
        let local = Peer { principal: known(&text(&local_principal).unwrap_or_default()), ..local.clone() };
        let (source, destination) = if inbound { (source, &local) } else { (&local, destination) };
        let (service, service_name, service_namespace) = service(inbound, destination);
        let grpc = text(&["request", "headers", "content-type"])
            .is_some_and(|content| content.starts_with("application/grpc"));
        let grpc_status = if grpc { number(&["response", "grpc_status"]) } else { None };
        let request = Request {
            reporter: if inbound { "destination" } else { "source" },
            source,
            destination,
            service: &service,
            service_name: &service_name,
            service_namespace: &service_namespace,
            protocol: if grpc { "grpc" } else { "http" },
            response_code: number(&["response", "code"]).unwrap_or(0),
            grpc_status: &grpc_status.map(|status| status.to_string()).unwrap_or_default(),
            response_flags: number(&["response", "flags"]).unwrap_or(0),
            security_policy: match (inbound, mutual_tls) {
                (true, true) => "mutual_tls",
                (true, false) => "none",
                (false, _) => UNKNOWN,
            },
        };
        let Some(series) = self.shared.series(&request) else {
            return;
        };
        let milliseconds = number(&["request", "duration"]).unwrap_or(0) / 1_000_000;
        let _ = hostcalls::increment_metric(series.requests, 1);
        let _ = hostcalls::record_metric(series.duration, milliseconds);
        let _ =
            hostcalls::record_metric(series.request_bytes, number(&["request", "total_size"]).unwrap_or(0));
        let _ =
            hostcalls::record_metric(series.response_bytes, number(&["response", "total_size"]).unwrap_or(0));
    }
}

impl Stream {
    /// Who sent this request to the server beside us. The certificate comes first: where a request
    /// has an x-forwarded-for, Envoy takes the source address from there, not from the connection.
    fn client(&self) -> Peer {
        let config = &self.shared.config;
        let principal = text(&["connection", "uri_san_peer_certificate"]).unwrap_or_default();
        let by_address = || {
            let address = text(&["source", "address"]).unwrap_or_default();
            config.by_address(ip_of(&address)?)
        };
        let found = config.by_principal(&principal).or_else(by_address).map(Workload::peer);
        Peer { principal: known(&principal), ..found.unwrap_or_default() }
    }

    /// Whom we sent this request to: what its endpoint says. `app` and `version` are not part of
    /// that; Istio has them from exchanged metadata, we have them from the table.
    fn server(&self) -> Peer {
        let address = text(&["upstream", "address"]).unwrap_or_default();
        let principal = known(&text(&["upstream", "uri_san_peer_certificate"]).unwrap_or_default());
        let metadata = text(&["xds", "upstream_host_metadata", "filter_metadata", "istio", "workload"]);
        match (metadata, self.shared.peer_at(&address)) {
            (Some(workload), Some(Peer { app, version, .. })) => {
                Peer { app, version, principal, ..from_metadata(&workload) }
            }
            (Some(workload), None) => Peer { principal, ..from_metadata(&workload) },
            // Traffic that passed through to a bare address: Istio does not know the peer either.
            (None, _) => Peer { principal, ..Peer::default() },
        }
    }
}

/// Host, name and namespace of the service that was asked for.
fn service(inbound: bool, destination: &Peer) -> (String, String, String) {
    let field = |name: &str| {
        text(&["xds", "cluster_metadata", "filter_metadata", "istio", "services", "0", name])
            .filter(|value| !value.is_empty())
    };
    if let Some(host) = field("host") {
        let name = field("name").unwrap_or_else(|| UNKNOWN.to_owned());
        let namespace = field("namespace").unwrap_or_else(|| destination.namespace.clone());
        return (host, name, namespace);
    }
    // As Istio does: the host that the client named, but never on the server's side.
    let host = if inbound { None } else { text(&["request", "host"]) };
    let cluster = text(&["xds", "cluster_name"]).filter(|name| {
        matches!(name.as_str(), "PassthroughCluster" | "InboundPassthroughCluster" | "BlackHoleCluster")
    });
    let unknown = || UNKNOWN.to_owned();
    (host.unwrap_or_else(unknown), cluster.unwrap_or_else(unknown), UNKNOWN.to_owned())
}

/// This proxy's workload, as its node's metadata has it.
fn local_peer() -> Peer {
    let field = |name: &str| text(&["xds", "node", "metadata", name]).unwrap_or_default();
    let label =
        |name: &str| text(&["xds", "node", "metadata", "LABELS", name]).filter(|value| !value.is_empty());
    let workload = field("WORKLOAD_NAME");
    let app = label("app");
    let version = label("version");
    Peer {
        canonical_service: label("service.istio.io/canonical-name")
            .or_else(|| app.clone())
            .unwrap_or_else(|| known(&workload)),
        canonical_revision: label("service.istio.io/canonical-revision")
            .or_else(|| version.clone())
            .unwrap_or_else(|| "latest".to_owned()),
        workload: known(&workload),
        namespace: known(&field("NAMESPACE")),
        app: known(&app.unwrap_or_default()),
        version: known(&version.unwrap_or_default()),
        cluster: known(&field("CLUSTER_ID")),
        principal: UNKNOWN.to_owned(),
    }
}

fn bytes(path: &[&str]) -> Option<Vec<u8>> {
    hostcalls::get_property(path.to_vec()).ok().flatten()
}

fn text(path: &[&str]) -> Option<String> {
    bytes(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// A number, time or duration: Envoy hands on eight bytes, little endian (durations in ns).
fn number(path: &[&str]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes(path)?.try_into().ok()?))
}

/// A bool: Envoy hands on one byte.
fn flag(path: &[&str]) -> bool {
    bytes(path).is_some_and(|bytes| bytes.first().is_some_and(|byte| *byte != 0))
}

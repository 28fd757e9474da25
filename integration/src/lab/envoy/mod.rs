//! The configuration of the lab's Envoys: what istiod would send, as one static bootstrap file.
//!
//! | module | what |
//! |---|---|
//! | [`bootstrap`] | node, admin, statistics; puts the rest together |
//! | [`listeners`] | 15001 out, 15006 in, 15090 and 15021 for observers, the gateway's port |
//! | [`http`] | the HTTP connection manager and its filters |
//! | [`clusters`] | services with mTLS, original destinations, the agent |

pub(crate) mod bootstrap;
mod clusters;
mod http;
mod listeners;

use super::plan::{Plan, PodPlan, Service};
use serde_json::{Value, json};
use std::path::Path;

/// The user and group that sidecars run as; redirection lets their connections pass.
pub const PROXY_ID: u32 = 1337;
/// Redirected outbound connections arrive here.
pub(crate) const OUTBOUND_PORT: u16 = 15001;
/// Redirected inbound connections arrive here.
pub(crate) const INBOUND_PORT: u16 = 15006;
/// Envoy's Prometheus page.
pub const STATS_PORT: u16 = 15090;
/// `/healthz/ready`.
pub const READY_PORT: u16 = 15021;
/// Envoy's admin page, on the pod's loopback.
pub const ADMIN_PORT: u16 = 15000;

/// What a proxy's configuration is made from.
pub(crate) struct Proxy<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) pod: &'a PodPlan,
    /// The files of this proxy, as it can read them.
    pub(crate) files: &'a ProxyFiles,
}

/// Files that a proxy reads.
pub(crate) struct ProxyFiles {
    pub(crate) certificate: String,
    pub(crate) key: String,
    pub(crate) root: String,
    /// The filter's module, if the lab has one.
    pub(crate) filter: Option<String>,
    /// The module that stands in for istio.stats.
    pub(crate) istio_stats: String,
    /// The agent's Unix socket.
    pub(crate) agent_socket: String,
}

/// A path as it stands in Envoy's configuration.
pub(crate) fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn outbound_cluster(service: &Service, port: u16) -> String {
    format!("outbound|{port}||{}", service.host())
}

/// The cluster of connections to the service that are not HTTP. It differs in its ALPN alone.
fn outbound_tcp_cluster(service: &Service, port: u16) -> String {
    format!("outbound_tcp|{port}||{}", service.host())
}

fn inbound_cluster(port: u16) -> String {
    format!("inbound|{port}||")
}

fn socket_address(address: &str, port: u16) -> Value {
    json!({"socket_address": {"address": address, "port_value": port}})
}

fn typed(name: &str, kind: &str, mut config: Value) -> Value {
    config["@type"] = json!(format!("type.googleapis.com/{kind}"));
    json!({"name": name, "typed_config": config})
}

/// The certificate of this proxy, and the root that its peers' certificates must come from.
fn tls_context(files: &ProxyFiles, alpn: &[&str], peers: &[String]) -> Value {
    let names: Vec<_> = peers.iter().map(|id| json!({"san_type": "URI", "matcher": {"exact": id}})).collect();
    // Any SPIFFE id of the trust domain, where no list of names is given.
    let any = vec![json!({"san_type": "URI", "matcher": {"prefix": "spiffe://cluster.local/"}})];
    json!({
        "alpn_protocols": alpn,
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "tls_certificates": [{
            "certificate_chain": {"filename": files.certificate},
            "private_key": {"filename": files.key},
        }],
        "validation_context": {
            "trusted_ca": {"filename": files.root},
            "match_typed_subject_alt_names": if names.is_empty() { any } else { names },
        },
    })
}

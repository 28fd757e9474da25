//! From a mesh file to names and addresses: who gets which namespace, address and service.
//! Pure: nothing is created here.

use super::mesh::{Mesh, Pod};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// Trust domain of the lab's SPIFFE ids, and suffix of its names, as in Istio's defaults.
pub const TRUST_DOMAIN: &str = "cluster.local";
/// `CLUSTER_ID` of every proxy, as in Istio's defaults.
pub const CLUSTER_ID: &str = "Kubernetes";
/// Name of the gateway's workload.
pub const GATEWAY: &str = "gateway";
/// Its namespace.
pub const GATEWAY_NAMESPACE: &str = "istio-system";
/// The port that the gateway listens on.
pub const GATEWAY_PORT: u16 = 8080;

/// Most labs side by side: each takes the network `10.(66 + id).0.0/16`.
pub const MAX_LABS: u8 = 64;

/// Where a lab lives: its names and its network follow from its id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Site {
    id: u8,
}

impl Site {
    pub(crate) const fn new(id: u8) -> Self {
        Self { id }
    }

    pub(crate) const fn id(self) -> u8 {
        self.id
    }

    const fn address(self, third: u8, fourth: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 66 + self.id, third, fourth)
    }

    /// The host's own address in the lab's network.
    pub(crate) const fn host_address(self) -> Ipv4Addr {
        self.address(0, 1)
    }

    /// The host's end of the link into the lab.
    pub(crate) fn host_link(self) -> String {
        format!("mw{}", self.id)
    }

    /// The namespace that holds the lab's bridge.
    pub(crate) fn switch(self) -> String {
        format!("mw{}-switch", self.id)
    }

    /// What the names of all of the lab's namespaces begin with.
    pub(crate) fn prefix(self) -> String {
        format!("mw{}-", self.id)
    }
}

/// A pod: a network namespace with a program and, mostly, a sidecar in it.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct PodPlan {
    /// Name of the pod: the workload's, and the replica's number from 0.
    pub name: String,
    /// The workload that it is a replica of.
    pub workload: String,
    /// Its namespace in the mesh.
    pub namespace: String,
    /// Service account.
    pub service_account: String,
    /// The service that it is an endpoint of, also its label `app`.
    pub service: String,
    /// Label `version`.
    pub version: Option<String>,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its network namespace (`ip netns`).
    pub netns: String,
    /// The ports that its program listens on.
    pub ports: Vec<u16>,
    /// Whether it has a sidecar (the gateway is one).
    pub sidecar: bool,
    /// Program and arguments; empty for the gateway.
    pub command: Vec<String>,
    /// Working folder of the program.
    pub workdir: PathBuf,
    /// Environment of the program.
    pub env: BTreeMap<String, String>,
}

impl PodPlan {
    /// Its SPIFFE id.
    #[must_use]
    pub fn spiffe_id(&self) -> String {
        format!("spiffe://{TRUST_DOMAIN}/ns/{}/sa/{}", self.namespace, self.service_account)
    }

    /// Whether this is the gateway.
    #[must_use]
    pub fn is_gateway(&self) -> bool {
        self.command.is_empty()
    }

    /// Canonical revision, as Istio finds it.
    pub(crate) fn revision(&self) -> &str {
        self.version.as_deref().unwrap_or("latest")
    }

    /// istiod's form of a workload in an endpoint's metadata.
    pub(crate) fn workload_metadata(&self) -> String {
        format!("{};{};{};{};{CLUSTER_ID}", self.workload, self.namespace, self.service, self.revision())
    }

    /// A name that is unique in the lab and fit for a file.
    pub(crate) fn unique_name(&self) -> String {
        format!("{}.{}", self.name, self.namespace)
    }
}

/// A service: a name, a virtual address, and the pods behind it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) virtual_address: Ipv4Addr,
    pub(crate) ports: Vec<u16>,
    /// Indices into [`Plan::pods`].
    pub(crate) endpoints: Vec<usize>,
}

impl Service {
    /// The full name.
    pub(crate) fn host(&self) -> String {
        format!("{}.{}.svc.{TRUST_DOMAIN}", self.name, self.namespace)
    }
}

/// A route of the gateway, resolved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RoutePlan {
    pub(crate) prefix: String,
    /// Index into [`Plan::services`].
    pub(crate) service: usize,
    pub(crate) port: u16,
}

/// Everything that has to be there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Plan {
    pub(crate) site: Site,
    /// The pods; the gateway is the last.
    pub(crate) pods: Vec<PodPlan>,
    pub(crate) services: Vec<Service>,
    pub(crate) routes: Vec<RoutePlan>,
    pub(crate) concurrency: usize,
    pub(crate) filter_config: serde_json::Map<String, serde_json::Value>,
}

impl Plan {
    /// The plan of a checked mesh.
    pub(crate) fn new(mesh: &Mesh, site: Site) -> Self {
        let mut pods = Vec::new();
        let mut services: Vec<Service> = Vec::new();
        for pod in &mesh.pods {
            let ports = pod.all_ports();
            let first = pods.len();
            for replica in 0..pod.replicas {
                // .0.1 is the host, .0.2 the gateway; the pods follow (at most 100 of them).
                let address = site.address(0, u8::try_from(pods.len() + 10).unwrap_or(u8::MAX));
                pods.push(plan_pod(mesh, pod, site, replica, address));
            }
            if ports.is_empty() {
                continue;
            }
            let found = services
                .iter()
                .position(|service| service.name == pod.service() && service.namespace == pod.namespace);
            let index = found.unwrap_or_else(|| {
                services.push(Service {
                    name: pod.service().to_owned(),
                    namespace: pod.namespace.clone(),
                    virtual_address: site.address(128, u8::try_from(services.len() + 1).unwrap_or(u8::MAX)),
                    ports: Vec::new(),
                    endpoints: Vec::new(),
                });
                services.len() - 1
            });
            let service = &mut services[index];
            service.endpoints.extend(first..pods.len());
            service.ports.extend(
                ports.iter().filter(|port| !service.ports.contains(port)).copied().collect::<Vec<_>>(),
            );
        }
        pods.push(gateway(site));
        let routes = routes(mesh, &services);
        Self {
            site,
            pods,
            services,
            routes,
            concurrency: mesh.envoy.concurrency,
            filter_config: mesh.filter.clone(),
        }
    }

    /// `/etc/hosts` of a pod: as in Kubernetes, a short name finds a service of its own namespace.
    /// A pod without a sidecar has nobody who would translate virtual addresses: it finds the first
    /// endpoint.
    pub(crate) fn hosts(&self, pod: &PodPlan) -> String {
        let mut text =
            format!("127.0.0.1 localhost\n::1 localhost ip6-localhost\n{} {}\n", pod.address, pod.name);
        for service in &self.services {
            let address = match service.endpoints.first() {
                Some(first) if !pod.sidecar => self.pods[*first].address,
                _ => service.virtual_address,
            };
            let (name, namespace) = (&service.name, &service.namespace);
            let _ = write!(text, "{address} {} {name}.{namespace}.svc {name}.{namespace}", service.host());
            if *namespace == pod.namespace {
                let _ = write!(text, " {name}");
            }
            text.push('\n');
        }
        text
    }
}

fn plan_pod(mesh: &Mesh, pod: &Pod, site: Site, replica: usize, address: Ipv4Addr) -> PodPlan {
    let name = format!("{}-{replica}", pod.name);
    let ports = pod.all_ports();
    let mut variables =
        BTreeMap::from([("POD_NAME".to_owned(), name.clone()), ("POD_IP".to_owned(), address.to_string())]);
    if let Some(port) = ports.first() {
        variables.insert("PORT".to_owned(), port.to_string());
    }
    let fill = |text: &String| {
        variables
            .iter()
            .fold(text.clone(), |text, (name, value)| text.replace(&format!("${{{name}}}"), value))
    };
    let mut env: BTreeMap<_, _> = pod.env.iter().map(|(name, value)| (name.clone(), fill(value))).collect();
    for (name, value) in &variables {
        env.entry(name.clone()).or_insert_with(|| value.clone());
    }
    PodPlan {
        netns: format!("{}{name}.{}", site.prefix(), pod.namespace),
        workload: pod.name.clone(),
        namespace: pod.namespace.clone(),
        service_account: pod.service_account().to_owned(),
        service: pod.service().to_owned(),
        version: pod.version.clone(),
        address,
        ports,
        sidecar: pod.sidecar,
        command: pod.command.iter().map(fill).collect(),
        workdir: mesh.folder.join(&pod.workdir),
        env,
        name,
    }
}

fn gateway(site: Site) -> PodPlan {
    let name = format!("{GATEWAY}-0");
    PodPlan {
        netns: format!("{}{name}.{GATEWAY_NAMESPACE}", site.prefix()),
        name,
        workload: GATEWAY.to_owned(),
        namespace: GATEWAY_NAMESPACE.to_owned(),
        service_account: GATEWAY.to_owned(),
        service: GATEWAY.to_owned(),
        version: None,
        address: site.address(0, 2),
        ports: vec![GATEWAY_PORT],
        sidecar: true,
        command: Vec::new(),
        workdir: PathBuf::from("/"),
        env: BTreeMap::new(),
    }
}

fn routes(mesh: &Mesh, services: &[Service]) -> Vec<RoutePlan> {
    if mesh.gateway.routes.is_empty() {
        // The first service is that of the first pod with a port.
        let first = services.first().and_then(|service| service.ports.first());
        return first
            .map(|port| RoutePlan { prefix: "/".to_owned(), service: 0, port: *port })
            .into_iter()
            .collect();
    }
    let resolve = |route| {
        let (namespace, name, port) = mesh.resolve(route).ok()?;
        let service =
            services.iter().position(|service| service.name == name && service.namespace == namespace)?;
        Some(RoutePlan { prefix: route.prefix.clone(), service, port })
    };
    mesh.gateway.routes.iter().filter_map(resolve).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn plan(text: &str) -> Plan {
        Plan::new(&Mesh::parse(text, Path::new("/")).unwrap(), Site::new(3))
    }

    #[test]
    fn replicas_and_versions_share_their_service() {
        let plan = plan(
            "pods:\n  - {name: front, command: [x], port: 80}\n  - {name: a-v1, service: a, version: v1, command: [x], port: 80, replicas: 2}\n  - {name: a-v2, service: a, version: v2, command: [x], ports: [80, 81]}\n",
        );
        let addresses: Vec<_> = plan.pods.iter().map(|pod| pod.address.to_string()).collect();
        assert_eq!(addresses, ["10.69.0.10", "10.69.0.11", "10.69.0.12", "10.69.0.13", "10.69.0.2"]);
        assert_eq!(plan.services.len(), 2);
        assert_eq!(plan.services[1].endpoints, [1, 2, 3]);
        assert_eq!(plan.services[1].ports, [80, 81]);
        assert_eq!(plan.pods[3].workload_metadata(), "a-v2;default;a;v2;Kubernetes");
        assert_eq!(plan.pods[2].netns, "mw3-a-v1-1.default");
        assert_eq!(plan.routes, [RoutePlan { prefix: "/".to_owned(), service: 0, port: 80 }]);
    }

    #[test]
    fn a_pod_without_a_sidecar_finds_pods_and_others_find_virtual_addresses() {
        let plan = plan(
            "pods:\n  - {name: a, command: [x], port: 80}\n  - {name: b, namespace: other, sidecar: false, command: [x]}\n",
        );
        assert!(
            plan.hosts(&plan.pods[0])
                .contains("10.69.128.1 a.default.svc.cluster.local a.default.svc a.default a\n")
        );
        assert!(
            plan.hosts(&plan.pods[1])
                .contains("10.69.0.10 a.default.svc.cluster.local a.default.svc a.default\n")
        );
    }

    #[test]
    fn placeholders_are_filled_and_others_are_left_alone() {
        let plan = plan(
            "pods:\n  - {name: a, command: [x, \"${PORT}\", \"${HOME}\"], port: 80, env: {URL: \"http://${POD_IP}:${PORT}\"}}\n",
        );
        assert_eq!(plan.pods[0].command, ["x", "80", "${HOME}"]);
        assert_eq!(plan.pods[0].env["URL"], "http://10.69.0.10:80");
        assert_eq!(plan.pods[0].env["POD_NAME"], "a-0");
    }
}

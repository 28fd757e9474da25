//! The file that describes a mesh.
//!
//! ```yaml
//! pods:
//!   - {name: storefront, command: [python3, app.py], port: 8080, env: {ORDERS_URL: "http://orders:8080"}}
//!   - {name: orders, command: [./orders], port: 8080}
//! gateway: {routes: [{prefix: /checkout, service: storefront}]}
//! ```
//!
//! Every mistake is an error that names the key, the cause and the way out.

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Most pods of one mesh, replicas counted: the lab is for one machine.
const MAX_PODS: usize = 100;
/// Ports that the sidecar listens on, and ssh, which redirection leaves alone.
pub(crate) const RESERVED_PORTS: &[u16] = &[22, 15000, 15001, 15006, 15008, 15020, 15021, 15090];

/// A mesh: pods, and a gateway in front of them.
#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub struct Mesh {
    /// The pods, in the order in which they are started.
    pub pods: Vec<Pod>,
    /// The ingress gateway.
    #[serde(default)]
    pub gateway: Gateway,
    /// Settings of every Envoy.
    #[serde(default)]
    pub envoy: Envoy,
    /// Merged into the filter's configuration (`pluginConfig`), key by key.
    #[serde(default)]
    pub filter: serde_json::Map<String, serde_json::Value>,
    /// Folder of the file: relative working folders start here.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// One program, in one or more pods.
#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Pod {
    /// Name of the workload.
    pub name: String,
    /// Its namespace.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// The service that it is an endpoint of; its name if absent. Several pods may share one.
    pub service: Option<String>,
    /// Service account, part of the SPIFFE id; the workload's name if absent.
    pub service_account: Option<String>,
    /// Label `version`.
    pub version: Option<String>,
    /// The program and its arguments. `${PORT}`, `${POD_IP}` and `${POD_NAME}` are replaced.
    pub command: Vec<String>,
    /// Working folder, relative to the mesh file's folder.
    #[serde(default)]
    pub workdir: PathBuf,
    /// Environment beside `PORT`, `POD_IP` and `POD_NAME`; the same replacements.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The port that it listens on.
    pub port: Option<u16>,
    /// The ports, if there are several. The first one is `PORT`.
    #[serde(default)]
    pub ports: Vec<u16>,
    /// How many pods run it.
    #[serde(default = "one")]
    pub replicas: usize,
    /// Whether it has a sidecar.
    #[serde(default = "yes")]
    pub sidecar: bool,
}

/// The ingress gateway.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct Gateway {
    /// Routes, the first match wins. None: everything goes to the first pod that has a port.
    #[serde(default)]
    pub routes: Vec<Route>,
}

/// A route of the gateway.
#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Prefix of the path.
    pub prefix: String,
    /// Service: `name` or `name.namespace`.
    pub service: String,
    /// Its port; the first one if absent.
    pub port: Option<u16>,
}

/// Settings of every Envoy.
#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub struct Envoy {
    /// Worker threads of each Envoy.
    #[serde(default = "one")]
    pub concurrency: usize,
}

impl Default for Envoy {
    fn default() -> Self {
        Self { concurrency: 1 }
    }
}

fn default_namespace() -> String {
    "default".to_owned()
}

const fn one() -> usize {
    1
}

const fn yes() -> bool {
    true
}

impl Pod {
    /// The service that the pod is an endpoint of.
    #[must_use]
    pub fn service(&self) -> &str {
        self.service.as_deref().unwrap_or(&self.name)
    }

    /// The service account.
    #[must_use]
    pub fn service_account(&self) -> &str {
        self.service_account.as_deref().unwrap_or(&self.name)
    }

    /// Every port that the program listens on.
    #[must_use]
    pub fn all_ports(&self) -> Vec<u16> {
        self.port.iter().chain(&self.ports).copied().collect()
    }
}

impl Mesh {
    /// Reads and checks a mesh file.
    ///
    /// # Errors
    /// The file cannot be read, is no YAML, or says something that cannot be.
    pub fn load(path: &Path) -> Result<Self> {
        let shown = path.display();
        let text = fs::read_to_string(path).with_context(|| format!("cannot read the mesh file {shown}"))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = folder
            .canonicalize()
            .with_context(|| format!("cannot find the folder of the mesh file {shown}"))?;
        Self::parse(&text, &folder).with_context(|| format!("mesh file {shown}"))
    }

    /// Reads and checks the text of a mesh file that stands in `folder`.
    ///
    /// # Errors
    /// The text is no YAML or says something that cannot be.
    pub fn parse(text: &str, folder: &Path) -> Result<Self> {
        let mut mesh: Self = serde_yaml_ng::from_str(text)?;
        mesh.folder = folder.to_owned();
        mesh.check()?;
        Ok(mesh)
    }

    fn check(&self) -> Result<()> {
        ensure!(!self.pods.is_empty(), "pods: is empty; a mesh needs one pod at least");
        let mut names = BTreeSet::new();
        for (index, pod) in self.pods.iter().enumerate() {
            let key = format!("pods[{index}]");
            pod.check(&key, &self.folder)?;
            ensure!(
                names.insert((&pod.namespace, &pod.name)),
                "{key}.name: {:?} stands twice in namespace {:?}; names are unique there (for several pods of one \
                 service use `service`, for equal pods `replicas`)",
                pod.name,
                pod.namespace
            );
        }
        let total: usize = self.pods.iter().map(|pod| pod.replicas).sum();
        ensure!(total <= MAX_PODS, "pods: {total} pods with their replicas; at most {MAX_PODS} fit");
        ensure!(
            (1..=64).contains(&self.envoy.concurrency),
            "envoy.concurrency: {} is not between 1 and 64",
            self.envoy.concurrency
        );
        ensure!(
            !self.gateway.routes.is_empty() || self.pods.iter().any(|pod| !pod.all_ports().is_empty()),
            "gateway.routes: is empty and no pod has a port to send requests to; give one pod a `port`"
        );
        for (index, route) in self.gateway.routes.iter().enumerate() {
            let key = format!("gateway.routes[{index}]");
            ensure!(route.prefix.starts_with('/'), "{key}.prefix: {:?} does not start with /", route.prefix);
            self.resolve(route).with_context(|| key)?;
        }
        Ok(())
    }

    /// Namespace, service and port that a route of the gateway leads to.
    ///
    /// # Errors
    /// No such service, several, or it has no such port.
    pub(crate) fn resolve(&self, route: &Route) -> Result<(String, String, u16)> {
        let (name, namespace) = match route.service.split_once('.') {
            Some((name, namespace)) => (name, Some(namespace)),
            None => (route.service.as_str(), None),
        };
        let matching =
            |pod: &&Pod| pod.service() == name && namespace.is_none_or(|wanted| wanted == pod.namespace);
        let namespaces: BTreeSet<_> =
            self.pods.iter().filter(matching).map(|pod| pod.namespace.as_str()).collect();
        let mut namespaces = namespaces.into_iter();
        let Some(found) = namespaces.next() else {
            let known: BTreeSet<_> =
                self.pods.iter().map(|pod| format!("{}.{}", pod.service(), pod.namespace)).collect();
            let known: Vec<_> = known.into_iter().collect();
            bail!("service: {:?} is no service of this mesh; there are {}", route.service, known.join(", "));
        };
        if let Some(other) = namespaces.next() {
            bail!("service: {name:?} stands in several namespaces; write {name}.{found} or {name}.{other}");
        }
        let ports: Vec<u16> = self
            .pods
            .iter()
            .filter(matching)
            .filter(|pod| pod.namespace == found)
            .flat_map(Pod::all_ports)
            .collect();
        let port = match (route.port, ports.first()) {
            (_, None) => bail!("service: {:?} has no port; give its pod a `port`", route.service),
            (None, Some(first)) => *first,
            (Some(port), Some(_)) => {
                ensure!(
                    ports.contains(&port),
                    "port: {:?} has no port {port}, only {ports:?}",
                    route.service
                );
                port
            }
        };
        Ok((found.to_owned(), name.to_owned(), port))
    }
}

impl Pod {
    fn check(&self, key: &str, folder: &Path) -> Result<()> {
        for (field, name) in [
            ("name", self.name.as_str()),
            ("namespace", &self.namespace),
            ("service", self.service()),
            ("serviceAccount", self.service_account()),
        ] {
            ensure!(
                is_dns_label(name),
                "{key}.{field}: {name:?} is no DNS label; use a-z, 0-9 and -, at most 63, no - at either end"
            );
        }
        ensure!(
            self.command.first().is_some_and(|program| !program.is_empty()),
            "{key}.command: is empty; name a program and its arguments, such as [python3, app.py]"
        );
        let workdir = folder.join(&self.workdir);
        ensure!(
            workdir.is_dir(),
            "{key}.workdir: {} is no folder; it is relative to the mesh file's",
            workdir.display()
        );
        ensure!(
            self.port.is_none() || self.ports.is_empty(),
            "{key}.port: stands beside `ports`; use one of the two"
        );
        let field = if self.port.is_some() { "port" } else { "ports" };
        let mut seen = BTreeSet::new();
        for port in self.all_ports() {
            ensure!(port != 0, "{key}.{field}: 0 is no port to listen on");
            ensure!(
                !RESERVED_PORTS.contains(&port),
                "{key}.{field}: {port} belongs to the sidecar or to ssh; reserved are {RESERVED_PORTS:?}"
            );
            ensure!(seen.insert(port), "{key}.{field}: {port} stands twice");
        }
        ensure!(
            (1..=MAX_PODS).contains(&self.replicas),
            "{key}.replicas: {} is not between 1 and {MAX_PODS}",
            self.replicas
        );
        for name in self.env.keys() {
            ensure!(
                !name.is_empty() && !name.contains(['=', '\0']),
                "{key}.env: {name:?} is no name of an environment variable"
            );
        }
        Ok(())
    }
}

/// RFC 1123, as Kubernetes names things.
fn is_dns_label(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        format!("{:#}", Mesh::parse(text, Path::new("/")).expect_err("must be refused"))
    }

    #[test]
    fn six_lines_are_enough() {
        let text = "pods:\n  - {name: front, command: [a], port: 80}\n  - {name: back, command: [b], ports: [81, 82]}\n";
        let mesh = Mesh::parse(text, Path::new("/")).unwrap();
        assert_eq!(mesh.pods[1].all_ports(), [81, 82]);
        assert_eq!((mesh.pods[0].namespace.as_str(), mesh.pods[0].replicas), ("default", 1));
        assert!(mesh.pods[0].sidecar);
    }

    #[test]
    fn every_mesh_file_of_the_repository_is_right() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("meshes");
        let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let files: Vec<_> = files.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect();
        assert!(files.len() >= 3);
        for file in files {
            Mesh::load(&file).unwrap();
        }
    }

    #[test]
    fn each_mistake_names_its_key_and_the_way_out() {
        let pod = "pods:\n  - {name: a, command: [x], port: 80";
        for (text, parts) in [
            ("pods: []".to_owned(), vec!["pods:", "one pod"]),
            (
                "pods:\n  - {name: a, comand: [x]}".to_owned(),
                vec!["pods[0]", "comand", "expected one of", "`command`", "line 2"],
            ),
            ("pods:\n  - {name: a}".to_owned(), vec!["pods[0]", "missing field `command`"]),
            ("pods:\n  - {name: A_b, command: [x]}".to_owned(), vec!["pods[0].name", "DNS label"]),
            ("pods:\n  - {name: a, command: []}".to_owned(), vec!["pods[0].command", "name a program"]),
            ("pods:\n  - {name: a, command: [x]}".to_owned(), vec!["gateway.routes", "`port`"]),
            (format!("{pod}, ports: [81]}}"), vec!["pods[0].port", "`ports`"]),
            (format!("{pod}, replicas: 0}}"), vec!["pods[0].replicas", "between 1 and"]),
            (format!("{pod}, workdir: nowhere}}"), vec!["pods[0].workdir", "/nowhere"]),
            (format!("{pod}, namespace: a.b}}"), vec!["pods[0].namespace"]),
            (format!("{pod}}}\n  - {{name: a, command: [y]}}"), vec!["pods[1].name", "twice", "`replicas`"]),
            ("pods:\n  - {name: a, command: [x], port: 15001}".to_owned(), vec!["pods[0].port", "sidecar"]),
            ("pods:\n  - {name: a, command: [x], port: 70000}".to_owned(), vec!["pods[0].port", "u16"]),
            (
                format!("{pod}}}\ngateway: {{routes: [{{prefix: x, service: a}}]}}"),
                vec!["gateway.routes[0].prefix"],
            ),
            (
                format!("{pod}}}\ngateway: {{routes: [{{prefix: /, service: b}}]}}"),
                vec!["gateway.routes[0]", "service", "a.default"],
            ),
            (
                format!("{pod}}}\ngateway: {{routes: [{{prefix: /, service: a, port: 81}}]}}"),
                vec!["gateway.routes[0]", "port", "[80]"],
            ),
            (format!("{pod}}}\nenvoy: {{concurrency: 0}}"), vec!["envoy.concurrency"]),
            (format!("{pod}}}\nenvoy: {{workers: 1}}"), vec!["envoy", "workers", "`concurrency`"]),
        ] {
            let message = error(&text);
            for part in parts {
                assert!(message.contains(part), "{text}\n  gives {message:?}\n  without {part:?}");
            }
        }
    }

    #[test]
    fn a_route_to_a_name_in_two_namespaces_must_say_which() {
        let text = "pods:\n  - {name: a, command: [x], port: 80}\n  - {name: a, namespace: b, command: [x], port: 80}\n";
        let routes = "gateway: {routes: [{prefix: /, service: a}]}";
        assert!(error(&format!("{text}{routes}")).contains("write a.b or a.default"));
        let routes = "gateway: {routes: [{prefix: /, service: a.b}]}";
        let mesh = Mesh::parse(&format!("{text}{routes}"), Path::new("/")).unwrap();
        assert_eq!(mesh.resolve(&mesh.gateway.routes[0]).unwrap(), ("b".to_owned(), "a".to_owned(), 80));
    }
}

//! Who depends on whom, from `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::repository::{Repository, output};

/// A package of the workspace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Member {
    /// Folder relative to the workspace, `/` between the parts.
    pub(crate) folder: String,
    /// SPDX expression, where the manifest has one.
    pub(crate) license: Option<String>,
}

/// Normal dependencies: what ends up in the built artifact. Build and dev dependencies are not
/// part of it.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    /// By name.
    pub(crate) members: BTreeMap<String, Member>,
    /// Package name → names of its direct dependencies. Two versions of one package are one node:
    /// the rules speak of names.
    pub(crate) edges: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    /// The graph of the checkout.
    ///
    /// # Errors
    /// Where `cargo metadata` fails or prints something else than its documented format.
    pub(crate) fn load(repository: &Repository) -> Result<Self> {
        let text = output(repository.cargo("metadata").args(["--format-version", "1"]))?;
        let metadata = serde_json::from_str(&text).context("cargo metadata printed no JSON")?;
        Self::parse(&metadata).context("cargo metadata has an unknown format")
    }

    /// Reads the format version 1 of `cargo metadata`; `None` where a field is missing.
    fn parse(metadata: &Value) -> Option<Self> {
        let root = metadata["workspace_root"].as_str()?;
        let member_ids: BTreeSet<&str> =
            metadata["workspace_members"].as_array()?.iter().filter_map(Value::as_str).collect();
        let mut graph = Self::default();
        let mut names = BTreeMap::new();
        for package in metadata["packages"].as_array()? {
            let (id, name) = (package["id"].as_str()?, package["name"].as_str()?);
            names.insert(id, name);
            if member_ids.contains(id) {
                let manifest = package["manifest_path"].as_str()?;
                let folder = manifest.strip_prefix(root)?.strip_suffix("/Cargo.toml")?;
                let member = Member {
                    folder: folder.trim_start_matches('/').to_owned(),
                    license: package["license"].as_str().map(str::to_owned),
                };
                graph.members.insert(name.to_owned(), member);
            }
        }
        for node in metadata["resolve"]["nodes"].as_array()? {
            let from = *names.get(node["id"].as_str()?)?;
            let edges = graph.edges.entry(from.to_owned()).or_default();
            for dependency in node["deps"].as_array()? {
                // A normal dependency has the kind null.
                let normal = dependency["dep_kinds"].as_array()?.iter().any(|kind| kind["kind"].is_null());
                if normal {
                    edges.insert((*names.get(dependency["pkg"].as_str()?)?).to_owned());
                }
            }
        }
        Some(graph)
    }

    /// The direct dependencies of a package.
    pub(crate) fn direct<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.edges.get(name).into_iter().flatten().map(String::as_str)
    }

    /// The shortest way from a member to a dependency that leads through no other member: each
    /// member answers for itself. `None` where there is none.
    pub(crate) fn path(&self, from: &str, to: &str) -> Option<Vec<&str>> {
        let mut came_from: BTreeMap<&str, &str> = BTreeMap::new();
        let (start, _) = self.edges.get_key_value(from)?;
        let mut queue = VecDeque::from([start.as_str()]);
        while let Some(name) = queue.pop_front() {
            for next in self.direct(name) {
                if next == from || came_from.contains_key(next) {
                    continue;
                }
                came_from.insert(next, name);
                if next == to {
                    let mut path = vec![next];
                    let mut at = next;
                    while let Some(previous) = came_from.get(at) {
                        path.push(previous);
                        at = previous;
                    }
                    path.reverse();
                    return Some(path);
                }
                if !self.members.contains_key(next) {
                    queue.push_back(next);
                }
            }
        }
        None
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// A graph of members, each with its dependencies; `->` edges of foreign crates are extra.
    pub(crate) fn made_up(members: &[(&str, &[&str])], foreign: &[(&str, &[&str])]) -> Graph {
        let mut graph = Graph::default();
        for (name, dependencies) in members {
            graph.members.insert((*name).to_owned(), Member::default());
            let edges = dependencies.iter().map(|&name| name.to_owned()).collect();
            graph.edges.insert((*name).to_owned(), edges);
        }
        for (name, dependencies) in foreign {
            let edges = dependencies.iter().map(|&name| name.to_owned()).collect();
            graph.edges.insert((*name).to_owned(), edges);
        }
        graph
    }

    #[test]
    fn metadata_is_read_without_dev_and_build_dependencies() {
        let metadata = json!({
            "workspace_root": "/w",
            "workspace_members": ["path+a"],
            "packages": [
                {"id": "path+a", "name": "a", "manifest_path": "/w/deep/a/Cargo.toml", "license": "MIT"},
                {"id": "reg+x", "name": "x", "manifest_path": "/r/x/Cargo.toml", "license": null},
                {"id": "reg+y", "name": "y", "manifest_path": "/r/y/Cargo.toml", "license": null},
                {"id": "reg+z", "name": "z", "manifest_path": "/r/z/Cargo.toml", "license": null},
            ],
            "resolve": {"nodes": [
                {"id": "path+a", "deps": [
                    {"pkg": "reg+x", "dep_kinds": [{"kind": null}, {"kind": "dev"}]},
                    {"pkg": "reg+y", "dep_kinds": [{"kind": "dev"}]},
                    {"pkg": "reg+z", "dep_kinds": [{"kind": "build"}]},
                ]},
                {"id": "reg+x", "deps": []},
            ]},
        });
        let graph = Graph::parse(&metadata).unwrap();
        assert_eq!(graph.direct("a").collect::<Vec<_>>(), ["x"]);
        assert_eq!(graph.members["a"].folder, "deep/a");
        assert_eq!(graph.members["a"].license.as_deref(), Some("MIT"));
        assert_eq!(graph.members.len(), 1);
    }

    #[test]
    fn unknown_format_is_refused() {
        assert!(Graph::parse(&json!({"version": 2})).is_none());
    }

    #[test]
    fn path_leads_through_foreign_crates_only() {
        let graph =
            made_up(&[("a", &["b", "x"]), ("b", &["tokio"])], &[("x", &["y", "x"]), ("y", &["x", "serde"])]);
        assert_eq!(graph.path("a", "serde"), Some(vec!["a", "x", "y", "serde"]));
        assert_eq!(graph.path("b", "tokio"), Some(vec!["b", "tokio"]));
        assert_eq!(graph.path("a", "tokio"), None);
        assert_eq!(graph.path("nobody", "tokio"), None);
    }
}

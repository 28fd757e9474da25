//! The walls of the architecture, read off the dependency graph.
//!
//! Only normal dependencies count: tests may use what they like.

use std::fmt;

use crate::workspace_graph::Graph;

/// Crates that only a few members may reach, be it through other foreign crates.
const CONFINED: &[Confined] = &[
    Confined {
        dependency: "proxy-wasm",
        members: &["meshweft-filter", "istio-stats-standin"],
        rule: "proxy-wasm only in wasm-filter's adapter and in the lab's own module",
    },
    Confined {
        dependency: "wasmtime",
        members: &["meshweft-plugin-host"],
        rule: "wasmtime only in host-agent/plugin-host",
    },
    Confined { dependency: "aya", members: &["meshweft"], rule: "aya only in host-agent" },
    Confined {
        dependency: "tokio",
        members: &["meshweft", "meshweft-integration"],
        rule: "tokio only in host-agent and integration",
    },
    Confined { dependency: "aya-ebpf", members: &["meshweft-probes"], rule: "aya-ebpf only in ebpf/probes" },
];

/// What each member may depend on directly. A member that is missing here is a violation, so
/// that a new crate has to say where it stands.
const PLACES: &[Place] = &[
    Place {
        member: "meshweft-telemetry",
        members: &[],
        foreign: Foreign::Only(&[]),
        rule: "telemetry depends on nothing",
    },
    Place {
        member: "meshweft-abi",
        members: &[],
        foreign: Foreign::Only(&[]),
        rule: "ebpf/abi depends on nothing",
    },
    Place {
        member: "meshweft-probes",
        members: &["meshweft-abi"],
        foreign: Foreign::Any,
        rule: "ebpf/probes depends on ebpf/abi alone",
    },
    Place {
        member: "meshweft-filter-core",
        members: &["meshweft-telemetry"],
        foreign: Foreign::Any,
        rule: "wasm-filter/core depends on telemetry alone",
    },
    Place {
        member: "meshweft-filter",
        members: &["meshweft-filter-core", "meshweft-telemetry"],
        foreign: Foreign::Any,
        rule: "wasm-filter depends on its core and telemetry",
    },
    Place {
        member: "meshweft-protocols",
        members: &["meshweft-telemetry"],
        foreign: Foreign::Only(PARSERS),
        rule: "protocols is pure: telemetry and small parser crates alone",
    },
    Place {
        member: "meshweft-correlator",
        members: &["meshweft-telemetry"],
        foreign: Foreign::Only(PARSERS),
        rule: "correlator is pure: telemetry and small parser crates alone",
    },
    Place {
        member: "meshweft-exposition",
        members: &["meshweft-telemetry"],
        foreign: Foreign::Only(PARSERS),
        rule: "exposition is pure: telemetry and small parser crates alone",
    },
    Place {
        member: "meshweft-plugin-host",
        members: &[],
        foreign: Foreign::Any,
        rule: "plugin-host depends on no crate of the workspace",
    },
    Place {
        member: "meshweft",
        members: &[
            "meshweft-abi",
            "meshweft-correlator",
            "meshweft-exposition",
            "meshweft-plugin-host",
            "meshweft-protocols",
            "meshweft-telemetry",
        ],
        foreign: Foreign::Any,
        rule: "host-agent depends on its own parts, ebpf/abi and telemetry",
    },
    Place {
        member: "meshweft-integration",
        members: &[
            "meshweft",
            "meshweft-abi",
            "meshweft-correlator",
            "meshweft-exposition",
            "meshweft-filter-core",
            "meshweft-plugin-host",
            "meshweft-protocols",
            "meshweft-telemetry",
        ],
        foreign: Foreign::Any,
        rule: "integration depends on crates of the host alone",
    },
    Place {
        member: "istio-stats-standin",
        members: &[],
        foreign: Foreign::Any,
        rule: "the lab's own module depends on no crate of the workspace",
    },
    Place {
        member: "xtask",
        members: &[],
        foreign: Foreign::Only(&["anyhow", "clap", "serde_json"]),
        rule: "xtask stays quick to compile",
    },
];

/// Foreign crates without input, output or time, that the pure crates may use.
const PARSERS: &[&str] = &["httparse", "thiserror"];

/// The licence of programs that run in the kernel: helper functions ask for GPL.
const KERNEL_LICENCE: &str = "MIT OR GPL-2.0";
/// The licence of everything else.
const LICENCE: &str = "Apache-2.0";

struct Confined {
    dependency: &'static str,
    members: &'static [&'static str],
    rule: &'static str,
}

struct Place {
    member: &'static str,
    members: &'static [&'static str],
    foreign: Foreign,
    rule: &'static str,
}

enum Foreign {
    Any,
    Only(&'static [&'static str]),
}

/// A dependency that the architecture does not allow.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    member: String,
    /// The way to what is not allowed; empty where the member itself is the problem.
    path: Vec<String>,
    rule: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            write!(f, "{}: {}", self.member, self.rule)
        } else {
            write!(f, "{} ({})", self.path.join(" → "), self.rule)
        }
    }
}

/// All violations, in the members' order.
pub(crate) fn check(graph: &Graph) -> Vec<Violation> {
    let mut violations = Vec::new();
    for member in graph.members.keys() {
        let mut report = |path: &[&str], rule: &str| {
            violations.push(Violation {
                member: member.clone(),
                path: path.iter().map(|&name| name.to_owned()).collect(),
                rule: rule.to_owned(),
            });
        };
        for confined in CONFINED {
            if confined.members.contains(&member.as_str()) {
                continue;
            }
            if let Some(path) = graph.path(member, confined.dependency) {
                report(&path, confined.rule);
            }
        }
        let Some(place) = PLACES.iter().find(|place| place.member == member) else {
            report(&[], "has no place yet: add it to PLACES in xtask/src/walls.rs");
            continue;
        };
        for dependency in graph.direct(member) {
            let allowed = if graph.members.contains_key(dependency) {
                place.members.contains(&dependency)
            } else {
                match place.foreign {
                    Foreign::Any => true,
                    Foreign::Only(list) => list.contains(&dependency),
                }
            };
            if !allowed {
                report(&[member, dependency], place.rule);
            }
        }
    }
    violations
}

/// Members whose licence is not the one of their folder.
pub(crate) fn check_licences(graph: &Graph) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (name, member) in &graph.members {
        let expected = if member.folder.starts_with("ebpf/") { KERNEL_LICENCE } else { LICENCE };
        if member.license.as_deref() != Some(expected) {
            let stated = member.license.as_deref().unwrap_or("none");
            violations.push(Violation {
                member: name.clone(),
                path: Vec::new(),
                rule: format!("its licence is {stated}, but {}/ has {expected}", member.folder),
            });
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace_graph::{Member, tests::made_up};

    fn messages(graph: &Graph) -> Vec<String> {
        check(graph).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_architecture_itself_has_no_violation() {
        let graph = made_up(
            &[
                ("meshweft-telemetry", &[]),
                ("meshweft-abi", &[]),
                ("meshweft-probes", &["aya-ebpf", "meshweft-abi"]),
                ("meshweft-filter-core", &["meshweft-telemetry", "prost"]),
                ("meshweft-filter", &["meshweft-filter-core", "proxy-wasm"]),
                ("meshweft-protocols", &["meshweft-telemetry", "httparse", "thiserror"]),
                ("meshweft-correlator", &["meshweft-telemetry"]),
                ("meshweft-exposition", &["meshweft-telemetry", "thiserror"]),
                ("meshweft-plugin-host", &["wasmtime"]),
                ("meshweft", &["aya", "tokio", "meshweft-abi", "meshweft-protocols"]),
                ("meshweft-integration", &["meshweft", "tokio"]),
                ("istio-stats-standin", &["proxy-wasm"]),
                ("xtask", &["anyhow", "clap", "serde_json"]),
            ],
            &[("aya", &["tokio"])],
        );
        assert_eq!(messages(&graph), [""; 0]);
    }

    #[test]
    fn confined_crates_are_found_wherever_they_stand() {
        for (member, dependency) in [
            ("meshweft-filter-core", "proxy-wasm"),
            ("meshweft", "wasmtime"),
            ("meshweft-integration", "aya"),
            ("meshweft-filter-core", "tokio"),
            ("meshweft", "aya-ebpf"),
        ] {
            let graph = made_up(&[(member, &[dependency])], &[]);
            let messages = messages(&graph);
            assert_eq!(messages.len(), 1, "{member} {dependency}: {messages:?}");
            assert!(messages[0].starts_with(&format!("{member} → {dependency} (")), "{messages:?}");
        }
    }

    #[test]
    fn confined_crate_behind_a_foreign_crate_is_named_with_the_way_to_it() {
        let graph = made_up(&[("meshweft-filter-core", &["tonic"])], &[("tonic", &["tokio"])]);
        assert_eq!(
            messages(&graph),
            ["meshweft-filter-core → tonic → tokio (tokio only in host-agent and integration)"]
        );
    }

    #[test]
    fn confined_crate_behind_an_allowed_member_is_that_members_business() {
        let graph = made_up(&[("meshweft-integration", &["meshweft"]), ("meshweft", &["aya"])], &[]);
        assert_eq!(messages(&graph), [""; 0]);
    }

    #[test]
    fn telemetry_and_abi_depend_on_nothing() {
        let graph =
            made_up(&[("meshweft-telemetry", &["serde"]), ("meshweft-abi", &["meshweft-telemetry"])], &[]);
        assert_eq!(
            messages(&graph),
            [
                "meshweft-abi → meshweft-telemetry (ebpf/abi depends on nothing)",
                "meshweft-telemetry → serde (telemetry depends on nothing)",
            ]
        );
    }

    #[test]
    fn pure_crates_take_parsers_and_telemetry_only() {
        let graph = made_up(&[("meshweft-correlator", &["rand"])], &[]);
        assert_eq!(messages(&graph).len(), 1);
        let members: &[(&str, &[&str])] =
            &[("meshweft-protocols", &["meshweft-correlator"]), ("meshweft-correlator", &[])];
        assert_eq!(messages(&made_up(members, &[])).len(), 1);
    }

    #[test]
    fn only_integration_depends_on_the_agent() {
        let graph = made_up(&[("xtask", &["meshweft"]), ("meshweft", &[])], &[]);
        assert_eq!(messages(&graph), ["xtask → meshweft (xtask stays quick to compile)"]);
        let graph = made_up(&[("meshweft-filter", &["meshweft"]), ("meshweft", &[])], &[]);
        assert_eq!(messages(&graph).len(), 1);
    }

    #[test]
    fn a_new_member_has_to_say_where_it_stands() {
        let graph = made_up(&[("meshweft-new", &[])], &[]);
        assert!(messages(&graph)[0].starts_with("meshweft-new: has no place yet"));
    }

    #[test]
    fn licence_follows_the_folder() {
        let mut graph = Graph::default();
        for (name, folder, license) in [
            ("good", "telemetry", Some("Apache-2.0")),
            ("kernel", "ebpf/abi", Some("MIT OR GPL-2.0")),
            ("bad", "ebpf/probes", Some("Apache-2.0")),
            ("none", "xtask", None),
        ] {
            let member = Member { folder: folder.to_owned(), license: license.map(str::to_owned) };
            graph.members.insert(name.to_owned(), member);
        }
        let messages: Vec<_> = check_licences(&graph).iter().map(ToString::to_string).collect();
        assert_eq!(
            messages,
            [
                "bad: its licence is Apache-2.0, but ebpf/probes/ has MIT OR GPL-2.0",
                "none: its licence is none, but xtask/ has Apache-2.0",
            ]
        );
    }
}

//! The agent of a bench, and its metrics.

use super::Interrupt;
use super::site::{Part, Site, free_port, loopback};
use crate::lab::fetch;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

/// An agent that runs.
#[derive(Debug)]
pub(super) struct Agent {
    part: Part,
    admin: SocketAddr,
    grpc: SocketAddr,
    socket: PathBuf,
}

impl Agent {
    /// Starts it with `discovery.select`; returns when it is ready. It exports to `endpoint`,
    /// whatever the environment says.
    pub(super) fn start(
        binary: &Path,
        site: &Site,
        select: &Value,
        endpoint: &str,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let (admin, grpc) = (loopback(free_port()?), loopback(free_port()?));
        let socket = site.path("agent.sock");
        // JSON is YAML.
        let config = json!({
            "receiver": {"grpc": grpc, "http": null, "socket": socket},
            "admin": {"address": admin},
            "discovery": {"select": select},
            "export": {"endpoint": endpoint, "protocol": "http/protobuf"},
        });
        let file = site.write("agent.yaml", &config.to_string())?;
        let mut command = Command::new(binary);
        command.args(["agent", "--config"]).arg(&file);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("OTEL_") {
                command.env_remove(name);
            }
        }
        let mut part = Part::start("the agent", command, &site.path("agent.log"))?;
        part.wait_until(interrupt, || get(admin, "/readyz").is_ok())?;
        Ok(Self { part, admin, grpc, socket })
    }

    pub(super) const fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(super) fn pid(&self) -> u32 {
        self.part.pid()
    }

    /// Its metrics now. Fails where it has ended.
    pub(super) fn metrics(&mut self) -> Result<Metrics> {
        self.part.check()?;
        Ok(Metrics(get(self.admin, "/metrics").context("the agent's metrics")?))
    }

    /// Asks it to end, and waits.
    pub(super) fn end(self) -> Result<()> {
        self.part.end()
    }
}

fn get(address: SocketAddr, path: &str) -> Result<String> {
    let answer = fetch::get(TcpStream::connect(address)?, "agent", path, &[])?;
    ensure!(answer.status == 200, "GET {path}: status {}", answer.status);
    Ok(answer.text())
}

/// A metrics page.
#[derive(Debug)]
pub(super) struct Metrics(String);

impl Metrics {
    /// Sum of a counter over its series.
    pub(super) fn sum(&self, name: &str) -> u64 {
        self.series(name).map(|(_, value)| value).sum()
    }

    /// The series of a counter with this value of its label; 0 where there is none.
    pub(super) fn of(&self, name: &str, label: &str) -> u64 {
        self.series(name).filter(|(value, _)| *value == label).map(|(_, count)| count).sum()
    }

    /// The series of a counter that has one label at most: its value and the count.
    pub(super) fn series(&self, name: &str) -> impl Iterator<Item = (&str, u64)> {
        self.0.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']))?;
            let (labels, value) = rest.rsplit_once(' ')?;
            Some((labels.split('"').nth(1).unwrap_or_default(), value.parse().ok()?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_by_name_and_label() {
        let page =
            Metrics("# TYPE a counter\na_total{x=\"b\"} 2\na_total{x=\"c\"} 3\na_total_more 9\n".to_owned());
        assert_eq!(page.sum("a_total"), 5);
        assert_eq!((page.of("a_total", "c"), page.of("a_total", "d")), (3, 0));
        assert_eq!(page.series("a_total").collect::<Vec<_>>(), [("b", 2), ("c", 3)]);
        assert_eq!(page.sum("a_total_more"), 9);
    }
}

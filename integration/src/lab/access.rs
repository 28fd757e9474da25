//! Looking at a lab that runs: commands and connections inside its pods, its Envoys' pages.

use super::Lab;
use super::envoy::{ADMIN_PORT, STATS_PORT};
use super::fetch::{self, Answer};
use super::plan::PodPlan;
use super::{network, process};
use anyhow::{Context as _, Result, bail, ensure};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Output};
use std::time::Duration;

impl Lab {
    /// Runs a command in a pod, in its program's working folder and environment, and waits for it.
    ///
    /// # Errors
    /// There is no such pod, or the command cannot be run. A failing command is no error.
    pub fn exec(&self, pod: &str, command: &[&str]) -> Result<Output> {
        exec_command(self.pod(pod)?, command)
            .output()
            .with_context(|| format!("cannot run {command:?} in pod {pod}"))
    }

    /// Opens a TCP connection from inside a pod. As any connection of the pod's program it goes
    /// through the sidecar, except to the loopback.
    ///
    /// # Errors
    /// There is no such pod, or the connection fails.
    pub fn connect(&self, pod: &str, address: SocketAddr) -> Result<TcpStream> {
        network::connect(self.pod(pod)?, address, Duration::from_secs(5))
    }

    /// Asks a pod's Envoy for a page of its admin interface, such as `/stats` or `/config_dump`.
    ///
    /// # Errors
    /// There is no such pod or page, or its Envoy does not answer.
    pub fn envoy_admin(&self, pod: &str, path: &str) -> Result<String> {
        let stream = self.connect(pod, SocketAddr::from(([127, 0, 0, 1], ADMIN_PORT)))?;
        page(&fetch::get(stream, "localhost", path, &[])?, path)
    }

    /// A pod's Prometheus page, as a scraper gets it.
    ///
    /// # Errors
    /// There is no such pod, or its Envoy does not answer.
    pub fn prometheus(&self, pod: &str) -> Result<String> {
        let address = SocketAddr::new(self.pod(pod)?.address.into(), STATS_PORT);
        let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        page(&fetch::get(stream, "envoy", "/stats/prometheus", &[])?, "/stats/prometheus")
    }
}

/// The command that runs `command` in a pod, in its program's working folder and environment.
#[must_use]
pub fn exec_command(pod: &PodPlan, command: &[&str]) -> Command {
    let mut exec = Command::new("ip");
    exec.args(["netns", "exec", &pod.netns]).args(command);
    exec.current_dir(&pod.workdir).env_clear().envs(process::environment(&pod.env));
    exec
}

/// Index of the pod with this name; see [`Lab::pod`].
///
/// # Errors
/// There is none, or there are several in different namespaces.
pub fn find_pod(pods: &[PodPlan], name: &str) -> Result<usize> {
    let (name, namespace) =
        name.split_once('.').map_or((name, None), |(name, namespace)| (name, Some(namespace)));
    let found = |exact: bool| -> Vec<usize> {
        let matches = |pod: &PodPlan| {
            let same = if exact {
                pod.name == name
            } else {
                pod.name == format!("{name}-0") && pod.workload == name
            };
            same && namespace.is_none_or(|wanted| wanted == pod.namespace)
        };
        pods.iter().enumerate().filter(|(_, pod)| matches(pod)).map(|(index, _)| index).collect()
    };
    let candidates = Some(found(true)).filter(|exact| !exact.is_empty()).unwrap_or_else(|| found(false));
    match candidates.as_slice() {
        [index] => Ok(*index),
        [] => {
            let known: Vec<_> = pods.iter().map(PodPlan::unique_name).collect();
            bail!("there is no pod {name:?}; there are {}", known.join(", "))
        }
        several => {
            let known: Vec<_> = several.iter().map(|index| pods[*index].unique_name()).collect();
            bail!("{name:?} is not one pod; write {}", known.join(" or "))
        }
    }
}

fn page(answer: &Answer, path: &str) -> Result<String> {
    ensure!(answer.status == 200, "{path} answered {}: {}", answer.status, answer.text());
    Ok(answer.text())
}

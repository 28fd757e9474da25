//! The agent beside a lab: a process of its own, as on a real node.

use super::Lab;
use super::fetch;
use super::process::{Process, end_all, start_time};
use super::state::{ProcessName, write_file};
use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// How long the agent may take until it is ready: it loads its probes and reads /proc.
const READY: Duration = Duration::from_secs(20);
/// How long it may take to end: it exports what it has.
const END: Duration = Duration::from_secs(10);

/// An agent that runs. Dropping it asks it to end, and waits.
#[derive(Debug)]
pub struct Agent {
    process: Option<Process>,
    admin: SocketAddr,
}

/// Where the agent of a lab is asked. Each lab has a port of its own; lab 0 has the default.
#[must_use]
pub fn admin_address(lab: &Lab) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 9464 + u16::from(lab.id())))
}

/// The configuration of a lab's agent: it watches the programs by their ports, listens on the lab's
/// socket, and may scrape the lab's Envoys. Lab 0 has the standard OTLP ports too. Where spans go is
/// left to the standard variables (`OTEL_EXPORTER_OTLP_ENDPOINT`).
#[must_use]
pub fn config(lab: &Lab) -> Value {
    let ports: BTreeSet<u16> =
        lab.pods().iter().filter(|pod| !pod.is_gateway()).flat_map(|pod| pod.ports.iter().copied()).collect();
    let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
    let receiver = |port: u16| if lab.id() == 0 { json!(format!("127.0.0.1:{port}")) } else { Value::Null };
    let targets: Vec<_> = lab.scrape_targets().iter().map(SocketAddr::to_string).collect();
    json!({
        "receiver": {"grpc": receiver(4317), "http": receiver(4318), "socket": lab.agent_socket()},
        "admin": {"address": admin_address(lab)},
        "discovery": {"select": [{"ports": ports.join(",")}]},
        "scrape": {"targets": targets},
    })
}

impl Agent {
    /// Starts `binary` with this configuration, in the lab's folder; returns when it is ready.
    ///
    /// # Errors
    /// It cannot be started, ended, or was not ready in time (with the end of its log).
    pub fn start(lab: &Lab, binary: &Path, config: &Value) -> Result<Self> {
        Self::run(lab, Command::new(binary), config)
    }

    /// As [`Agent::start`], but the standard variables (`OTEL_*`) do not reach it.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn start_isolated(lab: &Lab, binary: &Path, config: &Value) -> Result<Self> {
        let mut command = Command::new(binary);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("OTEL_") {
                command.env_remove(name);
            }
        }
        Self::run(lab, command, config)
    }

    fn run(lab: &Lab, mut command: Command, config: &Value) -> Result<Self> {
        // JSON is YAML.
        let file = lab.folder().join("agent.yaml");
        write_file(&file, &serde_json::to_vec_pretty(config)?, 0o644)?;
        command.args(["agent", "--config"]).arg(&file).current_dir("/");
        let process = Process::spawn(command, &lab.folder().join("logs/agent.log"))?;
        let mut agent = Self { process: Some(process), admin: admin_address(lab) };
        agent.wait_until_ready()?;
        Ok(agent)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY;
        let Some(process) = &mut self.process else { return Ok(()) };
        loop {
            process.check("the agent")?;
            let answer = TcpStream::connect_timeout(&self.admin, Duration::from_secs(1))
                .ok()
                .and_then(|stream| fetch::get(stream, "agent", "/readyz", &[]).ok());
            if answer.is_some_and(|answer| answer.status == 200) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("the agent is not ready in time; the end of its log:\n{}", process.log_tail());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Where it is asked: `/metrics`, `/scrape`, `/healthz`, `/readyz`.
    #[must_use]
    pub const fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Leaves it running; see [`Lab::detach`].
    ///
    /// # Errors
    /// It has ended.
    pub fn detach(mut self) -> Result<ProcessName> {
        let process = self.process.take().context("the agent has ended")?;
        ProcessName::of(process.pid()).context("the agent has ended")
    }

    /// Kills it with SIGKILL, as a crash would.
    pub fn kill(mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let pid = process.pid();
            if let Err(error) = end_all(|| start_time(pid).map(|_| pid).into_iter().collect(), END) {
                eprintln!("the agent: {error:#}");
            }
            // It has ended; this only collects it.
            process.kill();
        }
    }
}

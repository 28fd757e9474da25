use anyhow::Result;
use clap::{ArgAction, Args};
use meshweft_integration::lab::agent::{self, Agent};
use meshweft_integration::lab::mesh::Mesh;
use meshweft_integration::lab::state::Record;
use meshweft_integration::lab::tools::{Filter, Tools};
use meshweft_integration::lab::{Lab, Options};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

/// See `meshweft-lab up --help`.
#[derive(Args, Debug)]
pub(crate) struct Up {
    /// The mesh file, such as integration/meshes/demo.yaml.
    file: PathBuf,
    /// Unix socket of an agent that is there already.
    #[arg(long, value_name = "PATH")]
    agent_socket: Option<PathBuf>,
    /// Start no agent.
    #[arg(long)]
    no_agent: bool,
    /// A mesh without Meshweft's filter, to compare with.
    #[arg(long)]
    no_filter: bool,
    /// Return when the mesh is ready. If false: stay, and end it at Ctrl-C.
    #[arg(long, default_value_t = true, action = ArgAction::Set)]
    detach: bool,
    /// The lab's id: its network is 10.(66 + id).0.0/16.
    #[arg(long, default_value_t = 0)]
    id: u8,
}

impl Up {
    pub(crate) fn run(self) -> Result<()> {
        let mesh = Mesh::load(&self.file)?;
        let filter = if self.no_filter { Filter::Without } else { Filter::Required };
        let tools = Tools::from_environment(filter)?;
        let binary = if self.no_agent || self.agent_socket.is_some() { None } else { Some(tools.agent()?) };
        let mut options = Options::new(tools);
        options.id = Some(self.id);
        options.agent_socket = self.agent_socket;
        let lab = Lab::start(&mesh, options)?;
        let agent = binary.map(|binary| Agent::start(&lab, &binary, &agent::config(&lab))).transpose()?;
        let mut text = shown(&lab.record());
        if let Some(agent) = &agent {
            let _ = writeln!(text, "agent: http://{}/metrics", agent.admin());
        }
        if self.detach {
            lab.detach(agent.map(Agent::detach).transpose()?)?;
            print(&format!("{text}\n`exec POD COMMAND` runs something in a pod, `down` ends the mesh.\n"));
            return Ok(());
        }
        print(&format!("{text}\nCtrl-C ends the mesh.\n"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(super::wait_for_signal())?;
        drop(agent);
        lab.down()
    }
}

fn shown(record: &Record) -> String {
    let mut text = format!("{:<28} {:<14} {:<40} ports\n", "pod", "address", "namespace (ip netns)");
    for pod in &record.pods {
        let ports: Vec<_> = pod.ports.iter().map(u16::to_string).collect();
        let (name, ports) = (format!("{}.{}", pod.name, pod.namespace), ports.join(","));
        let proxy = if pod.sidecar { "" } else { " (no sidecar)" };
        let _ = writeln!(text, "{name:<28} {:<14} {:<40} {ports}{proxy}", pod.address.to_string(), pod.netns);
    }
    let _ =
        writeln!(text, "\ngateway: {}\nagent socket: {}", record.gateway_url, record.agent_socket.display());
    text
}

/// That nobody reads on (`up FILE | head`) must not end the mesh.
fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

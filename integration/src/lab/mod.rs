//! The lab: a mesh in one machine.
//!
//! A pod is a network namespace with a program in it and, mostly, its own stock Envoy as a sidecar,
//! with the redirection, the listeners and the certificates that Istio would give it.
//!
//! | module | what |
//! |---|---|
//! | [`mesh`] | the file that describes a mesh |
//! | [`plan`] | names and addresses that follow from it |
//! | [`access`] | looking at a lab that runs |
//! | [`agent`] | the agent beside it |
//! | [`certificates`] | the mesh's authority |
//! | [`envoy`] | the Envoys' configuration |
//! | [`network`] | namespaces, links, redirection |
//! | [`process`] | starting, watching and ending processes |
//! | [`state`] | files, locks, clean-up |
//! | [`tools`] | where Envoy and the modules are |
//! | [`fetch`] | a small HTTP client |

mod access;
pub mod agent;
mod certificates;
pub mod envoy;
pub mod fetch;
pub mod mesh;
mod network;
pub mod plan;
pub(crate) mod process;
pub mod state;
pub mod tools;

pub use access::{exec_command, find_pod};
use anyhow::{Context as _, Result, bail, ensure};
use certificates::Authority;
use envoy::{PROXY_ID, Proxy, ProxyFiles, READY_PORT, STATS_PORT, shown};
use mesh::Mesh;
use plan::{GATEWAY_PORT, Plan, PodPlan};
use process::{EnvoyLaunch, Process};
use state::{Claim, ProcessName, Record, Watchdog, make_folder, write_file, write_secret};
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use tools::Tools;

/// How a lab is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// What it starts.
    pub tools: Tools,
    /// Its id, from which its network `10.(66 + id).0.0/16` follows. None takes a free one from 1.
    pub id: Option<u8>,
    /// The agent's Unix socket. None is `agent.sock` in the lab's folder. User and group 1337 must be
    /// able to connect to it, and to pass through its folders.
    pub agent_socket: Option<PathBuf>,
    /// How long all pods together may take until they are ready.
    pub ready_timeout: Duration,
}

impl Options {
    /// The defaults with these tools.
    #[must_use]
    pub const fn new(tools: Tools) -> Self {
        // A JVM that compiles its program on two busy cores takes a few seconds.
        Self { tools, id: None, agent_socket: None, ready_timeout: Duration::from_secs(60) }
    }
}

/// A mesh that runs. Dropping it ends and removes everything; so does the death of this process.
#[derive(Debug)]
pub struct Lab {
    plan: Plan,
    folder: PathBuf,
    envoy: PathBuf,
    agent_socket: PathBuf,
    pods: Vec<Running>,
    watchdog: Option<Watchdog>,
    claim: Option<Claim>,
}

#[derive(Debug, Default)]
struct Running {
    app: Option<Process>,
    envoy: Option<Process>,
}

impl Lab {
    /// Starts a mesh; returns when each program listens on its ports and each Envoy is ready.
    ///
    /// # Errors
    /// A tool is missing, something cannot be created, or a process ended or was not ready in time
    /// (then with the end of its log). Nothing is left behind.
    pub fn start(mesh: &Mesh, options: Options) -> Result<Self> {
        // SAFETY: geteuid takes nothing and cannot fail.
        ensure!(unsafe { libc::geteuid() } == 0, "the lab needs root: it creates network namespaces");
        let deadline = Instant::now() + options.ready_timeout;
        let claim = Claim::take(options.id)?;
        let site = claim.site;
        let watchdog = claim.watchdog()?;
        let folder = state::folder(site);
        let plan = Plan::new(mesh, site);
        let mut lab = Self {
            agent_socket: options.agent_socket.unwrap_or_else(|| folder.join("agent.sock")),
            envoy: options.tools.envoy.clone(),
            pods: plan.pods.iter().map(|_| Running::default()).collect(),
            plan,
            folder,
            watchdog: Some(watchdog),
            claim: Some(claim),
        };
        // From here on Drop cleans up, on errors too.
        lab.write_files(&options.tools)?;
        network::build(&lab.plan)?;
        for index in 0..lab.pods.len() {
            lab.start_app_at(index)?;
            lab.start_envoy_at(index)?;
        }
        lab.wait_until_ready(deadline)?;
        lab.record().write(site)?;
        Ok(lab)
    }

    fn write_files(&self, tools: &Tools) -> Result<()> {
        for name in ["bin", "modules", "logs", "pods"] {
            make_folder(&self.folder.join(name))?;
        }
        // What Envoy's binary is shown at.
        write_file(&self.envoy_mount_point(), b"", 0o755)?;
        let module = |from: &Path, name: &str| {
            let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
            let path = self.folder.join("modules").join(name);
            write_file(&path, &bytes, 0o644)?;
            Ok::<_, anyhow::Error>(shown(&path))
        };
        let filter = tools.filter.as_deref().map(|path| module(path, "meshweft_filter.wasm")).transpose()?;
        let istio_stats = module(&tools.istio_stats, "istio_stats_standin.wasm")?;
        let authority = Authority::new()?;
        for pod in self.plan.pods.iter().filter(|pod| pod.sidecar) {
            let folder = self.pod_folder(pod);
            make_folder(&folder)?;
            let identity = authority.issue(&pod.spiffe_id())?;
            let [certificate, key, root, bootstrap] =
                ["certificate.pem", "key.pem", "root.pem", "bootstrap.json"].map(|name| folder.join(name));
            write_file(&certificate, identity.certificate.as_bytes(), 0o644)?;
            write_secret(&key, identity.key.as_bytes(), PROXY_ID)?;
            write_file(&root, authority.root().as_bytes(), 0o644)?;
            let files = ProxyFiles {
                certificate: shown(&certificate),
                key: shown(&key),
                root: shown(&root),
                filter: filter.clone(),
                istio_stats: istio_stats.clone(),
                agent_socket: shown(&self.agent_socket),
            };
            let config = envoy::bootstrap::bootstrap(&Proxy { plan: &self.plan, pod, files: &files });
            write_file(&bootstrap, &serde_json::to_vec_pretty(&config)?, 0o644)?;
        }
        Ok(())
    }

    fn pod_folder(&self, pod: &PodPlan) -> PathBuf {
        self.folder.join("pods").join(pod.unique_name())
    }

    fn envoy_mount_point(&self) -> PathBuf {
        self.folder.join("bin/envoy")
    }

    fn log(&self, pod: &PodPlan, what: &str) -> PathBuf {
        self.folder.join("logs").join(format!("{}.{what}.log", pod.unique_name()))
    }

    fn start_app_at(&mut self, index: usize) -> Result<()> {
        let pod = &self.plan.pods[index];
        if !pod.is_gateway() {
            self.pods[index].app = Some(Process::app(pod, &self.log(pod, "app"))?);
        }
        Ok(())
    }

    fn start_envoy_at(&mut self, index: usize) -> Result<()> {
        let pod = &self.plan.pods[index];
        if pod.sidecar {
            let launch = EnvoyLaunch {
                binary: &self.envoy,
                mount_point: &self.envoy_mount_point(),
                bootstrap: &self.pod_folder(pod).join("bootstrap.json"),
                concurrency: self.plan.concurrency,
                log: &self.log(pod, "envoy"),
            };
            self.pods[index].envoy = Some(Process::envoy(pod, &launch)?);
        }
        Ok(())
    }

    fn wait_until_ready(&mut self, deadline: Instant) -> Result<()> {
        for index in 0..self.pods.len() {
            self.wait_until_pod_is_ready(index, deadline)?;
        }
        Ok(())
    }

    fn wait_until_pod_is_ready(&mut self, index: usize, deadline: Instant) -> Result<()> {
        let pod = &self.plan.pods[index];
        let running = &mut self.pods[index];
        if let Some(app) = &mut running.app {
            let what = format!("the program of pod {}", pod.name);
            let pid = app.pid();
            let silent = || pod.ports.iter().copied().find(|port| !network::listens(pid, *port));
            wait(
                deadline,
                app,
                &what,
                || silent().is_none(),
                || silent().map_or_else(String::new, |port| format!("does not listen on port {port}")),
            )?;
        }
        if let Some(envoy) = &mut running.envoy {
            let what = format!("the Envoy of pod {}", pod.name);
            let address = SocketAddr::new(pod.address.into(), READY_PORT);
            wait(deadline, envoy, &what, || envoy_is_ready(address), || "is not ready".to_owned())?;
        }
        Ok(())
    }

    /// What `exec` and `down` know about this lab.
    #[must_use]
    pub fn record(&self) -> Record {
        Record {
            pods: self.plan.pods.clone(),
            gateway_url: self.gateway_url(),
            agent_socket: self.agent_socket.clone(),
            agent: None,
        }
    }

    /// Its id.
    #[must_use]
    pub const fn id(&self) -> u8 {
        self.plan.site.id()
    }

    /// The pods; the gateway is the last.
    #[must_use]
    pub fn pods(&self) -> &[PodPlan] {
        &self.plan.pods
    }

    /// The pod with this name: `workload` (its first replica), `workload-N`, or either with
    /// `.namespace`. The gateway is `gateway`.
    ///
    /// # Errors
    /// There is none, or there are several in different namespaces.
    pub fn pod(&self, name: &str) -> Result<&PodPlan> {
        Ok(&self.plan.pods[find_pod(&self.plan.pods, name)?])
    }

    /// Process id of a pod's program: the one that was started, which may have children.
    #[must_use]
    pub fn app_pid(&self, pod: &str) -> Option<u32> {
        self.running(pod)?.app.as_ref().map(Process::pid)
    }

    /// Process id of a pod's Envoy.
    #[must_use]
    pub fn envoy_pid(&self, pod: &str) -> Option<u32> {
        self.running(pod)?.envoy.as_ref().map(Process::pid)
    }

    fn running(&self, pod: &str) -> Option<&Running> {
        self.pods.get(find_pod(&self.plan.pods, pod).ok()?)
    }

    /// Where requests enter the mesh, without a slash at the end.
    #[must_use]
    pub fn gateway_url(&self) -> String {
        format!("http://{}", self.gateway_address())
    }

    /// Where requests enter the mesh.
    #[must_use]
    pub fn gateway_address(&self) -> SocketAddr {
        let gateway = self.plan.pods.last().map_or(self.plan.site.host_address(), |pod| pod.address);
        SocketAddr::new(gateway.into(), GATEWAY_PORT)
    }

    /// The host's own address in the lab's network: outside the mesh, but reachable from it.
    #[must_use]
    pub const fn host_address(&self) -> std::net::Ipv4Addr {
        self.plan.site.host_address()
    }

    /// The Unix socket on which the Envoys look for the agent.
    #[must_use]
    pub fn agent_socket(&self) -> &Path {
        &self.agent_socket
    }

    /// The lab's folder: logs, certificates, configurations.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `IP:15090` of every Envoy: what Prometheus scrapes.
    #[must_use]
    pub fn scrape_targets(&self) -> Vec<SocketAddr> {
        let proxies = self.plan.pods.iter().filter(|pod| pod.sidecar);
        proxies.map(|pod| SocketAddr::new(pod.address.into(), STATS_PORT)).collect()
    }

    /// Kills a pod's program, with SIGKILL.
    ///
    /// # Errors
    /// There is no such pod.
    pub fn kill_app(&mut self, pod: &str) -> Result<()> {
        let index = find_pod(&self.plan.pods, pod)?;
        if let Some(mut app) = self.pods[index].app.take() {
            app.kill();
        }
        Ok(())
    }

    /// Kills a pod's program if it runs, starts it again, and waits until it listens.
    ///
    /// # Errors
    /// There is no such pod, or its program does not start.
    pub fn restart_app(&mut self, pod: &str) -> Result<()> {
        self.kill_app(pod)?;
        let index = find_pod(&self.plan.pods, pod)?;
        self.start_app_at(index)?;
        self.wait_until_pod_is_ready(index, Instant::now() + Duration::from_secs(30))
    }

    /// Kills a pod's Envoy, with SIGKILL.
    ///
    /// # Errors
    /// There is no such pod.
    pub fn kill_envoy(&mut self, pod: &str) -> Result<()> {
        let index = find_pod(&self.plan.pods, pod)?;
        if let Some(mut envoy) = self.pods[index].envoy.take() {
            envoy.kill();
        }
        Ok(())
    }

    /// Kills a pod's Envoy if it runs, starts it again, and waits until it is ready.
    ///
    /// # Errors
    /// There is no such pod, or its Envoy does not start.
    pub fn restart_envoy(&mut self, pod: &str) -> Result<()> {
        self.kill_envoy(pod)?;
        let index = find_pod(&self.plan.pods, pod)?;
        self.start_envoy_at(index)?;
        self.wait_until_pod_is_ready(index, Instant::now() + Duration::from_secs(30))
    }

    /// Fails if one of the lab's processes has ended, with the end of its log.
    ///
    /// # Errors
    /// A process has ended that nobody killed through this value.
    pub fn check(&mut self) -> Result<()> {
        for (running, pod) in self.pods.iter_mut().zip(&self.plan.pods) {
            if let Some(app) = &mut running.app {
                app.check(&format!("the program of pod {}", pod.name))?;
            }
            if let Some(envoy) = &mut running.envoy {
                envoy.check(&format!("the Envoy of pod {}", pod.name))?;
            }
        }
        Ok(())
    }

    /// Leaves the lab running, for `exec` and `down` to find by its id. `agent` is ended with it.
    ///
    /// # Errors
    /// Its record cannot be written; then it is ended.
    pub fn detach(mut self, agent: Option<ProcessName>) -> Result<Record> {
        let record = Record { agent, ..self.record() };
        record.write(self.plan.site)?;
        self.watchdog = None;
        self.claim = None;
        Ok(record)
    }

    /// Ends and removes everything. Dropping does the same, but cannot say what went wrong.
    ///
    /// # Errors
    /// A process does not end, or something cannot be removed.
    pub fn down(mut self) -> Result<()> {
        self.remove()
    }

    fn remove(&mut self) -> Result<()> {
        let Some(claim) = self.claim.take() else {
            return Ok(());
        };
        let cleaned = state::clean(claim.site);
        for running in &mut self.pods {
            // They have ended, unless that failed; without this they would stay zombies.
            for process in running.app.iter_mut().chain(running.envoy.iter_mut()) {
                if process.ended().is_none() {
                    process.kill();
                }
            }
        }
        self.watchdog = None;
        cleaned
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            eprintln!("lab {}: {error:#}", self.plan.site.id());
        }
    }
}

/// Ends the lab with this id and removes whatever is there. Nothing there is fine.
///
/// # Errors
/// It belongs to a process that is running, or something cannot be removed.
pub fn down(id: u8) -> Result<()> {
    let claim = Claim::take_over(id)?;
    state::clean(claim.site)
}

fn wait(
    deadline: Instant,
    process: &mut Process,
    what: &str,
    mut ready: impl FnMut() -> bool,
    why_not: impl Fn() -> String,
) -> Result<()> {
    loop {
        process.check(what)?;
        if ready() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("{what} {} in time; the end of its log:\n{}", why_not(), process.log_tail());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn envoy_is_ready(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_secs(1))
        .map_err(anyhow::Error::from)
        .and_then(|stream| fetch::get(stream, "envoy", "/healthz/ready", &[]))
        .is_ok_and(|answer| answer.status == 200)
}

//! Which processes are apps.
//!
//! At the start, all processes of the node are looked at; afterwards those that run a new program
//! or begin to listen, of which the kernel tells, and the children of instrumented ones, which the
//! kernel's side instruments by itself. A proxy of the mesh is never an app, whatever selects it.

mod name;
mod procfs;

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use crate::capture::probes::{ProbeError, ProcessTable};
use crate::config::{Discovery, Subject};

/// What is known of an instrumented process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Process {
    /// What it runs: the program, or for an interpreter the script, module or jar.
    pub name: String,
    /// File name of its executable.
    pub executable: String,
    /// Whether it was built by Go, whose scheduler moves a request from thread to thread.
    pub is_go: bool,
}

/// The instrumented processes, shared with who makes spans.
pub type Processes = Arc<RwLock<HashMap<u32, Arc<Process>>>>;

/// Executables that are proxies of a mesh, or this agent.
const PROXIES: [&str; 7] =
    ["envoy", "pilot-agent", "ztunnel", "meshweft", "linkerd2-proxy", "agentgateway", "istio-cni"];

/// Something about a process changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// It runs a new program.
    Exec(u32),
    /// It listens on a further port.
    Listen(u32),
    /// An instrumented process made this child, which is instrumented already.
    Fork {
        /// Who.
        parent: u32,
        /// The new process.
        child: u32,
    },
    /// It is gone.
    Exit(u32),
}

/// Decides which processes are instrumented.
#[derive(Debug)]
pub struct Discoverer {
    rules: Discovery,
    table: ProcessTable,
    processes: Processes,
    own: u32,
}

/// What a change led to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The process is instrumented from now on.
    Began(Arc<Process>),
    /// It is not any more.
    Ended,
    /// As before.
    Same,
}

impl Discoverer {
    /// Works with these rules on this table.
    #[must_use]
    pub fn new(rules: Discovery, table: ProcessTable) -> Self {
        Self { rules, table, processes: Processes::default(), own: std::process::id() }
    }

    /// The instrumented processes.
    #[must_use]
    pub fn processes(&self) -> Processes {
        Arc::clone(&self.processes)
    }

    /// Looks at every process there is. Returns those that are instrumented from now on, and forgets
    /// those that are gone.
    ///
    /// # Errors
    /// Where a process cannot be put into the kernel's table.
    pub fn scan(&mut self) -> Result<Vec<(u32, Arc<Process>)>, ProbeError> {
        let mut found = Vec::new();
        let processes = procfs::processes();
        self.write(|known| known.retain(|process, _| processes.contains(process)));
        for process in processes {
            if let Outcome::Began(info) = self.look(process)? {
                found.push((process, info));
            }
        }
        Ok(found)
    }

    /// Takes in a change.
    ///
    /// # Errors
    /// Where a process cannot be put into the kernel's table.
    pub fn change(&mut self, change: Change) -> Result<Outcome, ProbeError> {
        match change {
            Change::Exec(process) | Change::Listen(process) => self.look(process),
            Change::Fork { parent, child } => {
                let info = self.get(parent);
                let Some(info) = info else { return self.look(child) };
                self.write(|processes| processes.insert(child, Arc::clone(&info)));
                Ok(Outcome::Began(info))
            }
            Change::Exit(process) => {
                self.table.remove(process);
                self.write(|processes| processes.remove(&process));
                Ok(Outcome::Ended)
            }
        }
    }

    fn get(&self, process: u32) -> Option<Arc<Process>> {
        self.processes.read().ok()?.get(&process).cloned()
    }

    fn write<T>(&self, change: impl FnOnce(&mut HashMap<u32, Arc<Process>>) -> T) {
        // A poisoned lock means that a reader panicked; the table itself is whole.
        let mut processes = self.processes.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        change(&mut processes);
    }

    /// Whether this process is to be instrumented, and does it.
    fn look(&mut self, process: u32) -> Result<Outcome, ProbeError> {
        if process == self.own {
            return Ok(Outcome::Same);
        }
        let known = self.get(process);
        let selected = procfs::Facts::of(process).filter(|facts| self.selects(facts));
        match (selected, known) {
            (Some(facts), known) => {
                let info = Arc::new(facts.describe());
                if known.as_ref() == Some(&info) {
                    return Ok(Outcome::Same);
                }
                self.table.insert(process)?;
                self.write(|processes| processes.insert(process, Arc::clone(&info)));
                Ok(Outcome::Began(info))
            }
            (None, Some(_)) => {
                self.table.remove(process);
                self.write(|processes| processes.remove(&process));
                Ok(Outcome::Ended)
            }
            (None, None) => {
                // A child of an instrumented process that runs another program now.
                self.table.remove(process);
                Ok(Outcome::Same)
            }
        }
    }

    fn selects(&self, facts: &procfs::Facts) -> bool {
        let executable = facts.executable_name();
        if PROXIES.contains(&executable) {
            return false;
        }
        let ports = facts.listening_ports();
        let path = facts.path().to_str().unwrap_or_default();
        let subject = Subject { ports: &ports, executable, path };
        self.rules.selects(&subject)
    }
}

//! What a lab keeps on disk, and whose it is.
//!
//! `/run/meshweft/lab-N/` holds the files of lab N; `/run/meshweft/lab-N.lock` is locked while a
//! process starts, owns or ends it. A lab that `up` left running has a record and live processes
//! and nobody's lock. Whatever else is found is left over from a killed run, and is removed.

use super::network;
use super::plan::{MAX_LABS, PodPlan, Site};
use super::process::{end_all, signal, start_time};
use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Parent of every lab's folder.
const PARENT: &str = "/run/meshweft";
/// How long programs get to end in good order.
const PATIENCE: Duration = Duration::from_secs(3);

/// Folder of a lab.
pub(crate) fn folder(site: Site) -> PathBuf {
    Path::new(PARENT).join(format!("lab-{}", site.id()))
}

/// What `exec` and `down` have to know about a lab that runs.
#[derive(Serialize, Deserialize, Debug)]
pub struct Record {
    /// The pods; the gateway is the last.
    pub pods: Vec<PodPlan>,
    /// Where requests enter.
    pub gateway_url: String,
    /// The agent's Unix socket.
    pub agent_socket: PathBuf,
    /// The agent, if the lab was asked to start one.
    pub agent: Option<ProcessName>,
}

/// Names a process for good: ids are used again, but not with the same start time.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProcessName {
    /// Its id.
    pub pid: u32,
    /// When it was started, in clock ticks since boot.
    pub started: u64,
}

impl ProcessName {
    /// Names a process that is there.
    #[must_use]
    pub fn of(pid: u32) -> Option<Self> {
        start_time(pid).map(|started| Self { pid, started })
    }

    fn is_alive(self) -> bool {
        start_time(self.pid) == Some(self.started)
    }
}

impl Record {
    fn path(site: Site) -> PathBuf {
        folder(site).join("lab.json")
    }

    fn read(site: Site) -> Result<Option<Self>> {
        let path = Self::path(site);
        match fs::read(&path) {
            Ok(bytes) => {
                let parsed = serde_json::from_slice(&bytes);
                Ok(Some(parsed.with_context(|| format!("{} is damaged; run `down`", path.display()))?))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// The record of a lab that runs.
    ///
    /// # Errors
    /// There is none with this id.
    pub fn of_running(id: u8) -> Result<Self> {
        let site = checked(id)?;
        match Self::read(site)? {
            Some(record) => Ok(record),
            None => bail!("no lab {id} is up; start one with `up FILE`"),
        }
    }

    pub(crate) fn write(&self, site: Site) -> Result<()> {
        let bytes = serde_json::to_vec_pretty(self).context("cannot write the lab's record")?;
        // Complete or not there at all.
        let temporary = folder(site).join("lab.json.new");
        write_file(&temporary, &bytes, 0o644)?;
        fs::rename(&temporary, Self::path(site)).context("cannot write the lab's record")
    }
}

fn checked(id: u8) -> Result<Site> {
    if id >= MAX_LABS {
        bail!("lab id {id} is too large; there is room for 0 to {}", MAX_LABS - 1);
    }
    Ok(Site::new(id))
}

/// The right to create, change and remove a lab.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) site: Site,
    /// Locked as long as it is open.
    _lock: File,
}

impl Claim {
    /// Claims a lab's id, or any free one, and removes what a killed run left there.
    pub(crate) fn take(id: Option<u8>) -> Result<Self> {
        match id {
            Some(id) => {
                let claim = Self::lock(checked(id)?)?
                    .with_context(|| format!("lab {id} belongs to a process that is running"))?;
                if is_up(claim.site) {
                    bail!("lab {id} is up already; end it with `down`, or use another id");
                }
                clean(claim.site)?;
                Ok(claim)
            }
            // 0 is for people.
            None => {
                for id in 1..MAX_LABS {
                    if let Some(claim) = Self::lock(Site::new(id))?
                        && !is_up(claim.site)
                    {
                        clean(claim.site)?;
                        return Ok(claim);
                    }
                }
                bail!("{} labs are up; end some", MAX_LABS - 1)
            }
        }
    }

    /// Claims a lab to end it, whatever its state.
    pub(crate) fn take_over(id: u8) -> Result<Self> {
        Self::lock(checked(id)?)?
            .with_context(|| format!("lab {id} belongs to a process that is running; end that process"))
    }

    fn lock(site: Site) -> Result<Option<Self>> {
        make_folder(Path::new(PARENT))?;
        let path = lock_path(site);
        let lock = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot open {}; the lab needs root", path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self { site, _lock: lock })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("cannot lock {}", path.display()))
            }
        }
    }

    /// Creates the lab's folder, and starts the watchdog that removes everything should this process
    /// end without doing so.
    pub(crate) fn watchdog(&self) -> Result<Watchdog> {
        let folder = folder(self.site);
        make_folder(&folder)?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let token = format!("{}-{}", std::process::id(), since.as_nanos());
        write_file(&folder.join("token"), token.as_bytes(), 0o644)?;
        use std::os::unix::process::CommandExt as _;
        let child = Command::new("sh")
            .args(["-c", include_str!("watchdog.sh"), "lab-watchdog"])
            .args([&lock_path(self.site), &folder])
            .args([&token, &self.site.prefix(), &self.site.host_link()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .process_group(0)
            .spawn()
            .context("cannot start the lab's watchdog")?;
        Ok(Watchdog { child })
    }
}

fn lock_path(site: Site) -> PathBuf {
    Path::new(PARENT).join(format!("lab-{}.lock", site.id()))
}

/// A lab that `up` left running.
fn is_up(site: Site) -> bool {
    Record::path(site).exists()
        && network::namespaces(site).is_ok_and(|namespaces| !network::processes(&namespaces).is_empty())
}

/// Ends every process of a lab and removes its namespaces, links and files. Nothing there is fine.
pub(crate) fn clean(site: Site) -> Result<()> {
    let agent = Record::read(site).ok().flatten().and_then(|record| record.agent);
    if let Some(agent) = agent {
        // First, so that it sees the mesh alive and exports what it has.
        end_all(
            || Some(agent).filter(|agent| agent.is_alive()).map(|agent| agent.pid).into_iter().collect(),
            PATIENCE,
        )
        .context("the agent")?;
    }
    let namespaces = network::namespaces(site)?;
    end_all(|| network::processes(&namespaces), PATIENCE)?;
    network::remove(site)?;
    network::remove_folder(&folder(site))
}

/// See `watchdog.sh`. Ends with this value.
#[derive(Debug)]
pub(crate) struct Watchdog {
    child: Child,
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        // Killed before its input is closed: it never wakes.
        signal(self.child.id(), libc::SIGKILL);
        let _ = self.child.wait();
    }
}

/// Creates a folder that everybody may pass through. That it exists is fine.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("cannot create {}; the lab needs root", path.display()))
}

/// Writes a file with these permissions, whatever the umask.
pub(crate) fn write_file(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let write = || {
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(mode).open(path)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Writes a file that only this user may read.
pub(crate) fn write_secret(path: &Path, bytes: &[u8], user: u32) -> Result<()> {
    write_file(path, bytes, 0o400)?;
    chown(path, Some(user), Some(user)).with_context(|| format!("cannot give {} away", path.display()))
}

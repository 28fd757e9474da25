//! The parts of a bench: a folder, ports, processes that end with it.

use crate::lab::process::{Process, end_all, start_time};
use anyhow::{Context as _, Result, bail};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a part may take until it is ready: Envoy compiles the filter's module on a busy machine.
const READY: Duration = Duration::from_secs(60);

/// A folder that is removed with this value.
#[derive(Debug)]
pub(super) struct Site(TempDir);

impl Site {
    pub(super) fn new() -> Result<Self> {
        Ok(Self(
            tempfile::Builder::new().prefix("meshweft-bench-").tempdir().context("cannot make a folder")?,
        ))
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

/// A port of the loopback on which nobody listens at the moment. Somebody else could take it before
/// it is used; its user then fails to start, with a message that says so.
pub(super) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot find a free port")?;
    Ok(listener.local_addr()?.port())
}

pub(super) fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// A process of a bench. It ends when this value is dropped; when the thread that started it ends
/// without that, the kernel kills it (so the thread must be one that stays).
#[derive(Debug)]
pub(super) struct Part {
    name: &'static str,
    process: Process,
}

impl Part {
    pub(super) fn start(name: &'static str, mut command: Command, log: &Path) -> Result<Self> {
        let parent = std::process::id();
        command.current_dir("/");
        // SAFETY: between fork and exec this calls prctl and getppid alone, which are safe there.
        unsafe {
            command.pre_exec(move || {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                // It may have ended before the line above.
                if u32::try_from(libc::getppid()).ok() != Some(parent) {
                    return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
                }
                Ok(())
            });
        }
        let process = Process::spawn(command, log)
            .with_context(|| format!("cannot start {name}; `cargo xtask setup` installs what is missing"))?;
        Ok(Self { name, process })
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(super) fn check(&mut self) -> Result<()> {
        self.process.check(self.name)
    }

    /// Waits until it ends. Fails where that takes longer than `limit`.
    pub(super) fn wait(&mut self, limit: Duration, interrupt: &super::Interrupt) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            interrupt.check()?;
            match self.process.ended() {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("{} ended ({status}): {}", self.name, self.process.log_tail()),
                None if Instant::now() >= deadline => bail!("{} does not end", self.name),
                None => thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Waits until `ready` says so.
    pub(super) fn wait_until(
        &mut self,
        interrupt: &super::Interrupt,
        mut ready: impl FnMut() -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + READY;
        loop {
            interrupt.check()?;
            self.check()?;
            if ready() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("{} is not ready in time; the end of its log:\n{}", self.name, self.process.log_tail());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks it to end, and waits.
    pub(super) fn end(self) -> Result<()> {
        let pid = self.pid();
        end_all(|| start_time(pid).map(|_| pid).into_iter().collect(), Duration::from_secs(10))
            .with_context(|| self.name)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.process.ended().is_none() {
            self.process.kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;

    /// The child of a thread that ends stands for the child of a bench that is killed.
    #[test]
    fn a_part_ends_with_its_thread_even_if_nobody_drops_it() {
        let site = Site::new().unwrap();
        let log = site.path("log");
        let pid = thread::spawn(move || {
            let mut command = Command::new("sleep");
            command.arg("600").stdin(Stdio::null());
            let part = Part::start("sleep", command, &log).unwrap();
            let pid = part.pid();
            std::mem::forget(part);
            pid
        })
        .join()
        .unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while start_time(pid).is_some() {
            assert!(Instant::now() < deadline, "{pid} is alive");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_part_that_ends_early_is_named_with_its_last_words() {
        let site = Site::new().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no room >&2; exit 7"]);
        let mut part = Part::start("the shell", command, &site.path("log")).unwrap();
        let error =
            part.wait(Duration::from_secs(10), &super::super::Interrupt::default()).unwrap_err().to_string();
        assert!(error.contains("the shell ended (exit status: 7): no room"), "{error}");
    }
}

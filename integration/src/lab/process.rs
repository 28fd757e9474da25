//! Starting, watching and ending processes.

use super::envoy::PROXY_ID;
use super::plan::PodPlan;
use anyhow::{Context as _, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What of the caller's environment programs of the mesh see: what it takes to run, nothing else.
const PASSED_ON: [&str; 6] = ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "JAVA_HOME"];
/// How much of a log stands in an error, in bytes.
const LOG_TAIL: u64 = 2000;
/// Pause between two looks at a process that should end.
const POLL: Duration = Duration::from_millis(10);

/// Runs a tool and waits for it.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<()> {
    run_with_input(program, arguments, "")
}

/// Runs a tool with this text as its input and waits for it.
pub(crate) fn run_with_input(program: &str, arguments: &[&str], input: &str) -> Result<()> {
    let shown = || format!("{program} {}", arguments.join(" "));
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{}`; `cargo xtask setup` installs what is missing", shown()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that fails early closes its input; its own message says more than EPIPE.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().with_context(|| format!("cannot wait for `{}`", shown()))?;
    let message = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{}` failed ({}): {}", shown(), output.status, message.trim());
    Ok(())
}

/// The environment of a program in a pod.
pub(crate) fn environment(pod_env: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let passed = PASSED_ON.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
    passed.chain(pod_env.iter().map(|(name, value)| (name.clone(), value.clone()))).collect()
}

/// A process of the lab, in a process group of its own.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program of a pod.
    pub(crate) fn app(pod: &PodPlan, log: &Path) -> Result<Self> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &pod.netns]).args(&pod.command);
        command.current_dir(&pod.workdir).env_clear().envs(environment(&pod.env));
        Self::spawn(command, log).with_context(|| format!("cannot start the program of pod {}", pod.name))
    }

    /// Starts an Envoy in a pod, as the proxy's user. `binary` need not be readable to that user: it
    /// is shown at `mount_point`, in a mount namespace that ends with the process.
    pub(crate) fn envoy(pod: &PodPlan, launch: &EnvoyLaunch<'_>) -> Result<Self> {
        const SCRIPT: &str = r#"mount --bind "$1" "$2" || exit 1; shift; exec setpriv --reuid "$0" --regid "$0" --clear-groups "$@""#;
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &pod.netns, "sh", "-c", SCRIPT, &PROXY_ID.to_string()])
            .args([launch.binary, launch.mount_point])
            .arg("-c")
            .arg(launch.bootstrap)
            .args(["--concurrency", &launch.concurrency.to_string(), "--disable-hot-restart"])
            .args(["--log-level", "warning", "--component-log-level", "wasm:info"]);
        command.current_dir("/").env_clear().envs(environment(&BTreeMap::new()));
        Self::spawn(command, launch.log)
            .with_context(|| format!("cannot start the Envoy of pod {}", pod.name))
    }

    /// Starts a command with its output in `log`.
    pub(crate) fn spawn(mut command: Command, log: &Path) -> Result<Self> {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        let errors = file.try_clone().with_context(|| format!("cannot open {} twice", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Fails with the end of its log if it has ended.
    pub(crate) fn check(&mut self, what: &str) -> Result<()> {
        match self.ended() {
            Some(status) => {
                bail!("{what} ended ({status}); the end of {}:\n{}", self.log.display(), self.log_tail())
            }
            None => Ok(()),
        }
    }

    /// The end of its log.
    pub(crate) fn log_tail(&self) -> String {
        tail(&self.log).unwrap_or_else(|error| format!("(cannot be read: {error})"))
    }

    /// Kills it and waits for its end.
    pub(crate) fn kill(&mut self) {
        signal(self.pid(), libc::SIGKILL);
        let _ = self.child.wait();
    }
}

/// What it takes to start an Envoy.
pub(crate) struct EnvoyLaunch<'a> {
    pub(crate) binary: &'a Path,
    pub(crate) mount_point: &'a Path,
    pub(crate) bootstrap: &'a Path,
    pub(crate) concurrency: usize,
    pub(crate) log: &'a Path,
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// Sends a signal to one process. That it is gone already is no error.
pub(crate) fn signal(pid: u32, signal: i32) {
    let Ok(pid) = i32::try_from(pid) else { return };
    if pid > 1 {
        // SAFETY: kill takes no pointers; pid is one process, never a group or everybody.
        unsafe { libc::kill(pid, signal) };
    }
}

/// When a process was started, in clock ticks since boot: with its id, this names it for good.
/// None if there is no such process (one that only waits for its parent counts as none).
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in brackets, and may contain both blanks and brackets.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" { None } else { fields.nth(18)?.parse().ok() }
}

/// Asks each process that `find` finds to end, then kills what is left after `patience`.
/// Zombies do not count: it is their parent's part to wait for them.
pub(crate) fn end_all(mut find: impl FnMut() -> Vec<u32>, patience: Duration) -> Result<()> {
    let mut alive =
        move || -> Vec<u32> { find().into_iter().filter(|pid| start_time(*pid).is_some()).collect() };
    for (number, patience) in [(libc::SIGTERM, patience), (libc::SIGKILL, Duration::from_secs(5))] {
        let deadline = Instant::now() + patience;
        let mut asked = Vec::new();
        loop {
            let left = alive();
            if left.is_empty() {
                return Ok(());
            }
            for pid in left {
                if !asked.contains(&pid) {
                    signal(pid, number);
                    asked.push(pid);
                }
            }
            if Instant::now() >= deadline {
                break;
            }
            thread::sleep(POLL);
        }
    }
    bail!("processes {:?} do not end", alive())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_tool_is_named_with_its_own_words() {
        let error =
            run_with_input("sh", &["-c", "echo no such thing >&2; exit 3"], "").expect_err("must fail");
        let message = format!("{error:#}");
        assert!(message.contains("exit status: 3") && message.contains("no such thing"), "{message}");
        assert!(
            format!("{:#}", run("no-such-tool", &[]).expect_err("must fail")).contains("cargo xtask setup")
        );
    }

    #[test]
    fn a_process_has_a_start_time_until_it_ends() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id();
        assert!(start_time(pid).is_some());
        end_all(|| vec![pid], Duration::from_secs(5)).unwrap();
        assert_eq!(start_time(pid), None);
        child.wait().unwrap();
    }

    #[test]
    fn a_process_that_ignores_sigterm_is_killed() {
        let mut child = Command::new("sh")
            .args(["-c", "trap '' TERM; echo; while :; do sleep 0.1; done"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = [0];
        child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
        let pid = child.id();
        end_all(|| vec![pid], Duration::from_millis(50)).unwrap();
        assert!(!child.wait().unwrap().success());
    }
}

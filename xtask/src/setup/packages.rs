//! Debian's packages.

use std::{
    fs, io,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::{
    progress::Progress,
    repository::{output, run},
    toolchain::find_program,
};

/// Asked by Debian's package scripts before they start a service.
/// <https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt>
const POLICY: &str = "/usr/sbin/policy-rc.d";
/// Tells our file from one of the machine's owner.
const POLICY_MARK: &str = "# written by cargo xtask setup";

/// Services of packages that we install for their programs alone.
const SERVICES: &[(&str, &str)] = &[("prometheus", "prometheus"), ("nginx-light", "nginx")];

/// Which of `packages` are not installed; `None` where the machine has no apt-get.
pub(super) fn missing(packages: &[&'static str]) -> Option<Vec<&'static str>> {
    find_program("apt-get")?;
    // Ends with 1 where a package is unknown, which is an answer too.
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\\n"])
        .args(packages)
        .output()
        .ok()?;
    Some(not_installed(packages, &String::from_utf8_lossy(&output.stdout)))
}

fn not_installed(packages: &[&'static str], list: &str) -> Vec<&'static str> {
    packages
        .iter()
        .copied()
        .filter(|package| !list.lines().any(|line| line.split_once(' ') == Some((package, "installed"))))
        .collect()
}

/// Installs packages without starting their services.
///
/// # Errors
/// Where the user is not root (the message is the command to run as root), where the machine has
/// no apt-get, or where apt-get fails.
pub(super) fn install(packages: &[&str], progress: Progress) -> Result<()> {
    if find_program("apt-get").is_none() {
        bail!(
            "these are missing, and this machine has no apt-get to install them: {} \
             (names of Debian's packages)",
            packages.join(" ")
        );
    }
    if !is_root()? {
        bail!("some tools are missing. Run as root:\n  {}", command_for_root(packages));
    }
    progress.line(format_args!("apt-get    {}", packages.join(" ")));
    let _policy = Policy::forbid_services(Path::new(POLICY))?;
    if let Err(first) = run(&mut apt_get(packages)) {
        // Unknown packages and names of files that are gone have the same cure.
        progress.line("apt-get    update");
        run(&mut apt(&["update"])).with_context(|| first.to_string())?;
        run(&mut apt_get(packages))?;
    }
    keep_services_off(packages);
    Ok(())
}

fn command_for_root(packages: &[&str]) -> String {
    format!("apt-get update && apt-get install --yes --no-install-recommends {}", packages.join(" "))
}

fn apt(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command
        // Another apt may be at work, a fresh machine's own for example.
        .args(["-q", "-o", "DPkg::Lock::Timeout=300"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        // Our own standard output may be somebody's data.
        .stdout(io::stderr());
    command
}

fn apt_get(packages: &[&str]) -> Command {
    let mut command = apt(&["install", "--yes", "--no-install-recommends"]);
    command.args(packages);
    command
}

/// The package scripts enable services for the next boot as well.
fn keep_services_off(packages: &[&str]) {
    if find_program("systemctl").is_none() {
        return;
    }
    for (package, service) in SERVICES {
        if packages.contains(package) {
            // Where systemd is installed but has never run, there is nothing to turn off.
            let _ =
                Command::new("systemctl").args(["--quiet", "disable", service]).stdin(Stdio::null()).output();
        }
    }
}

fn is_root() -> Result<bool> {
    Ok(output(Command::new("id").arg("-u"))?.trim() == "0")
}

/// Forbids package scripts to start services, as long as this value lives. A policy that the
/// machine's owner wrote stays as it is.
struct Policy<'a> {
    path: Option<&'a Path>,
}

impl<'a> Policy<'a> {
    fn forbid_services(path: &'a Path) -> Result<Self> {
        match fs::read_to_string(path) {
            Ok(text) if !text.contains(POLICY_MARK) => return Ok(Self { path: None }),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
            Ok(_) | Err(_) => {}
        }
        write_program(path, &policy(std::process::id()))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { path: Some(path) })
    }
}

impl Drop for Policy<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.path {
            // If it stays, it allows everything from the end of this process on.
            let _ = fs::remove_file(path);
        }
    }
}

/// Forbids (101) while this process runs, and allows (0) afterwards: if we are killed, the file
/// that stays behind does no harm.
fn policy(process: u32) -> String {
    format!("#!/bin/sh\n{POLICY_MARK}\n[ -d /proc/{process} ] && exit 101\nexit 0\n")
}

fn write_program(path: &Path, text: &str) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packages_in_full_state_count_as_installed() {
        let list = "wrk installed\nnginx-light config-files\nnginx installed\n";
        assert_eq!(not_installed(&["wrk", "nginx-light", "ruby"], list), ["nginx-light", "ruby"]);
        assert_eq!(not_installed(&["ruby"], ""), ["ruby"]);
    }

    #[test]
    fn policy_of_the_owner_stays() {
        let path = std::env::temp_dir().join(format!("xtask-owner-{}", std::process::id()));
        fs::write(&path, "#!/bin/sh\nexit 104\n").unwrap();
        drop(Policy::forbid_services(&path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "#!/bin/sh\nexit 104\n");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn policy_forbids_while_it_lives_and_is_gone_afterwards() {
        let path = std::env::temp_dir().join(format!("xtask-policy-{}", std::process::id()));
        let guard = Policy::forbid_services(&path).unwrap();
        let status = Command::new("sh").arg(&path).status().unwrap();
        assert_eq!(status.code(), Some(101));
        drop(guard);
        assert!(!path.exists());
    }

    #[test]
    fn policy_left_behind_by_a_killed_run_allows_services_and_is_replaced() {
        let path = std::env::temp_dir().join(format!("xtask-stale-{}", std::process::id()));
        // No process has the number 0.
        write_program(&path, &policy(0)).unwrap();
        assert_eq!(Command::new("sh").arg(&path).status().unwrap().code(), Some(0));
        drop(Policy::forbid_services(&path).unwrap());
        assert!(!path.exists());
    }

    #[test]
    fn command_for_root_can_be_pasted() {
        assert_eq!(
            command_for_root(&["wrk", "ruby"]),
            "apt-get update && apt-get install --yes --no-install-recommends wrk ruby"
        );
    }
}

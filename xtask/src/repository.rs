//! Where things are in the checkout, and how to call the cargo that runs us.

use std::{
    env,
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

/// A checkout of Meshweft.
pub(crate) struct Repository {
    root: PathBuf,
    target: PathBuf,
}

impl Repository {
    /// The checkout that this program was built from.
    ///
    /// # Errors
    /// Where that checkout is gone.
    pub(crate) fn locate() -> Result<Self> {
        // The variable at run time, so that a checkout that moved is still found.
        let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&manifest)
            .parent()
            .context("xtask has no parent folder")?
            .canonicalize()
            .context("the checkout that built xtask is gone")?;
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => std::path::absolute(folder)?,
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// The folder of the workspace's Cargo.toml.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's output folder (`CARGO_TARGET_DIR` is honoured).
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// What users run: the agent and the filter.
    pub(crate) fn dist(&self) -> PathBuf {
        self.root.join("dist")
    }

    /// What only the build and the lab use: the BPF object and the lab's own proxy-wasm module.
    ///
    /// Not below [`Self::target`]: `host-agent/build.rs` looks here when plain `cargo` runs it.
    pub(crate) fn modules(&self) -> PathBuf {
        self.root.join("target/meshweft")
    }

    /// A path as the user would write it: relative to the root where it lies below it.
    pub(crate) fn shown<'a>(&self, path: &'a Path) -> std::path::Display<'a> {
        path.strip_prefix(&self.root).unwrap_or(path).display()
    }

    /// The cargo that runs xtask, for crates of the host.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command
            .arg(subcommand)
            .current_dir(&self.root)
            // What xtask sets is what a plain `cargo build` sees too: else each of the two would
            // invalidate the other's build of the agent.
            .env_remove("MESHWEFT_PROBES");
        self.forget_outer_cargo(&mut command);
        command
    }

    /// Takes away what the outer `cargo run` set for xtask, so that a child sees the user's own
    /// environment. Else build scripts would run again whenever xtask and cargo take turns.
    pub(crate) fn forget_outer_cargo(&self, command: &mut Command) {
        for (name, _) in env::vars_os() {
            let Some(name) = name.to_str() else { continue };
            if name.starts_with("CARGO_PKG_")
                || name.starts_with("CARGO_MANIFEST_")
                || name.starts_with("CARGO_BIN_")
            {
                command.env_remove(name);
            }
        }
        if let Some(libraries) = env::var_os("LD_LIBRARY_PATH") {
            match self.foreign_libraries(&libraries) {
                Some(rest) => command.env("LD_LIBRARY_PATH", rest),
                None => command.env_remove("LD_LIBRARY_PATH"),
            };
        }
    }

    /// The entries of a library path that did not come from the outer cargo.
    fn foreign_libraries(&self, libraries: &OsStr) -> Option<std::ffi::OsString> {
        let sysroot =
            env::var_os("CARGO").and_then(|cargo| Some(Path::new(&cargo).parent()?.parent()?.to_owned()));
        let rest: Vec<PathBuf> = env::split_paths(libraries)
            .filter(|entry| !entry.as_os_str().is_empty() && !entry.starts_with(&self.target))
            .filter(|entry| {
                // A sysroot of `/usr` is the system itself: leave it.
                sysroot
                    .as_ref()
                    .is_none_or(|sysroot| sysroot == Path::new("/usr") || !entry.starts_with(sysroot))
            })
            .collect();
        if rest.is_empty() {
            return None;
        }
        env::join_paths(rest).ok()
    }
}

/// Runs a command to its end.
///
/// # Errors
/// Where it cannot be started or ends with another status than zero; names the command.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = shown_command(command);
    let status = command.status().with_context(|| format!("cannot start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed: {status}");
    }
    Ok(())
}

/// Runs a command to its end and returns its standard output.
///
/// # Errors
/// As [`run`], with the command's standard error in the message.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = shown_command(command);
    let output = command.output().with_context(|| format!("cannot start `{shown}`"))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        bail!("`{shown}` failed: {}: {}", output.status, reason.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn shown_command(command: &Command) -> String {
    let mut shown = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        shown.push(' ');
        shown.push_str(&argument.to_string_lossy());
    }
    shown
}

/// Copies a file, unless the copy already has the same bytes. Returns whether anything changed.
///
/// The copy is renamed into place: a program that runs from the old file goes on, and nobody
/// ever sees half a file.
///
/// # Errors
/// Where either file cannot be read or written.
pub(crate) fn publish(from: &Path, to: &Path) -> Result<bool> {
    let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    match fs::read(to) {
        Ok(old) if old == bytes => return Ok(false),
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot read {}", to.display()));
        }
        Ok(_) | Err(_) => {}
    }
    let folder = to.parent().context("no folder to copy to")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut partial = to.as_os_str().to_owned();
    partial.push(format!(".{}", std::process::id()));
    let partial = PathBuf::from(partial);
    fs::copy(from, &partial).with_context(|| format!("cannot write {}", partial.display()))?;
    fs::rename(&partial, to).with_context(|| format!("cannot write {}", to.display()))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_file_is_left_alone_when_nothing_changed() {
        let folder = env::temp_dir().join(format!("xtask-publish-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (from, to) = (folder.join("a"), folder.join("deep/b"));
        fs::write(&from, b"one").unwrap();
        assert!(publish(&from, &to).unwrap());
        assert!(!publish(&from, &to).unwrap());
        fs::write(&from, b"two").unwrap();
        assert!(publish(&from, &to).unwrap());
        assert_eq!(fs::read(&to).unwrap(), b"two");
        assert_eq!(fs::read_dir(folder.join("deep")).unwrap().count(), 1);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn failing_command_is_named_with_its_reason() {
        let error = output(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("sh -c") && message.contains("why"), "{message}");
    }

    #[test]
    fn library_path_keeps_what_the_user_set() {
        let repository = Repository { root: "/checkout".into(), target: "/checkout/target".into() };
        let kept = repository.foreign_libraries(OsStr::new("/checkout/target/debug/deps:/opt/lib"));
        assert_eq!(kept.as_deref(), Some(OsStr::new("/opt/lib")));
        let kept = repository.foreign_libraries(OsStr::new("/checkout/target/debug"));
        assert_eq!(kept, None);
    }
}

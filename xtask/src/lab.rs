//! `cargo xtask demo`, `bench` and `lab`: hand over to the lab's own program.

use std::{
    env,
    ffi::{OsStr, OsString},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    build::{self, LAB, Profile},
    progress::Progress,
    repository::Repository,
    setup::{self, Tools},
    toolchain::SYSTEM_FOLDERS,
};

/// Sets up, builds, and becomes the lab's program, so that signals and the exit status are its
/// own. Returns only where that fails.
///
/// # Errors
/// Where set-up or build fail, or where the program cannot be started.
pub(crate) fn run(repository: &Repository, subcommand: Option<&str>, arguments: &[OsString]) -> Result<()> {
    // A lab that runs is used and ended with the program that started it; the output of `exec`
    // is that of the command.
    let program = repository.target().join(Profile::Release.folder()).join(LAB);
    let attached = subcommand.is_none()
        && matches!(arguments.first().and_then(|name| name.to_str()), Some("exec" | "down"));
    let mut command = Command::new(&program);
    repository.forget_outer_cargo(&mut command);
    if !(attached && program.exists()) {
        let tools = setup::run(repository, Progress::Stderr)?;
        build::run(repository, &tools, Profile::Release, Progress::Stderr)?;
        command.envs(environment(repository, &tools));
    }
    command.args(subcommand).args(arguments).env("PATH", path_with_system_folders()?);
    Err(command.exec()).with_context(|| format!("cannot start {}", program.display()))
}

/// What the lab and the integration tests are told about this machine.
pub(crate) fn environment(repository: &Repository, tools: &Tools) -> [(&'static str, PathBuf); 5] {
    [
        ("MESHWEFT_ROOT", repository.root().to_owned()),
        ("MESHWEFT_DIST", repository.dist()),
        ("MESHWEFT_LAB_MODULES", repository.modules()),
        ("MESHWEFT_ENVOY", tools.envoy.clone()),
        ("MESHWEFT_PROMETHEUS", tools.prometheus.clone()),
    ]
}

/// The user's `PATH`, with the folders of nft, ip and nginx behind it.
pub(crate) fn path_with_system_folders() -> Result<OsString> {
    extend_path(&env::var_os("PATH").unwrap_or_default())
}

fn extend_path(path: &OsStr) -> Result<OsString> {
    let mut folders: Vec<PathBuf> = env::split_paths(path).collect();
    for folder in SYSTEM_FOLDERS.iter().map(PathBuf::from) {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    Ok(env::join_paths(folders)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_folders_come_last_and_once() {
        let path = extend_path(OsStr::new("/own/bin:/usr/sbin")).unwrap();
        assert_eq!(path, "/own/bin:/usr/sbin:/usr/local/sbin:/sbin");
    }
}

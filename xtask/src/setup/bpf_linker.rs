//! The linker for BPF programs, built against Debian's LLVM.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use super::{cache::Cache, programs::Found};
use crate::{
    repository::{Repository, run},
    toolchain::{DEBIAN_CARGO, DEBIAN_LLVM, debian_compiler},
};

const VERSION: &str = "0.13.0";
/// Of LLVM 22, as [`DEBIAN_LLVM`].
const FEATURE: &str = "llvm-22";

/// Looks for it in the cache and runs it: after an upgrade of LLVM it may not start.
pub(super) fn look(cache: &Cache) -> Result<Found> {
    Found::verify(&folder(cache).join("bin/bpf-linker"), &["--version"], "bpf-linker ")
}

/// Builds it, which takes about a minute on two cores.
///
/// # Errors
/// Where cargo cannot download or build it.
pub(super) fn install(repository: &Repository, cache: &Cache) -> Result<Found> {
    let mut command = Command::new(DEBIAN_CARGO);
    repository.forget_outer_cargo(&mut command);
    debian_compiler(&mut command);
    command
        .args(["install", "bpf-linker", "--version", VERSION, "--locked", "--force"])
        .args(["--no-default-features", "--features", FEATURE, "--root"])
        .arg(folder(cache))
        .env("LLVM_PREFIX", DEBIAN_LLVM)
        .env_remove("RUSTFLAGS")
        .stdin(Stdio::null());
    run(&mut command).context("bpf-linker could not be built")?;
    look(cache)
}

fn folder(cache: &Cache) -> PathBuf {
    cache.folder("bpf-linker", &format!("{VERSION}-{FEATURE}"))
}

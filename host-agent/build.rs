//! Puts the BPF object where `include_bytes!(concat!(env!("OUT_DIR"), "/probes.o"))` finds it.
//!
//! The object needs another compiler than the agent, so it is built before, by
//! `cargo xtask build`. `MESHWEFT_PROBES` names another one.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

const VARIABLE: &str = "MESHWEFT_PROBES";
const DEFAULT: &str = "../target/meshweft/probes.o";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    let object = env::var_os(VARIABLE)
        .map_or_else(|| Path::new(&cargo_variable("CARGO_MANIFEST_DIR")).join(DEFAULT), PathBuf::from);
    // A file that is missing counts as changed: the next build looks again.
    println!("cargo::rerun-if-changed={}", object.display());
    let copy = Path::new(&cargo_variable("OUT_DIR")).join("probes.o");
    if let Err(error) = fs::copy(&object, &copy) {
        println!("cargo::error=no BPF object at {} ({error}): run `cargo xtask build`", object.display());
    }
}

fn cargo_variable(name: &str) -> std::ffi::OsString {
    env::var_os(name).unwrap_or_else(|| panic!("cargo did not set {name}"))
}

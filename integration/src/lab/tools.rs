//! Where the programs and modules are that the lab starts.

use anyhow::{Result, bail};
use std::env;
use std::path::{Path, PathBuf};

/// Name of the filter's module.
const FILTER: &str = "meshweft_filter.wasm";
/// Name of the module that stands in for istio.stats.
const ISTIO_STATS: &str = "istio_stats_standin.wasm";

/// Paths of what the lab starts.
#[derive(Clone, Debug)]
pub struct Tools {
    /// Stock Envoy.
    pub envoy: PathBuf,
    /// The filter's module; None for a mesh without it.
    pub filter: Option<PathBuf>,
    /// The module that stands in for istio.stats.
    pub istio_stats: PathBuf,
    /// Folder of the `meshweft` program.
    pub dist: PathBuf,
}

/// Whether the mesh has the filter in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Filter {
    /// It must have been built.
    Required,
    /// A mesh without it, to compare with.
    Without,
}

impl Tools {
    /// Finds everything by environment: `MESHWEFT_ENVOY`, `MESHWEFT_DIST` (the filter and the agent)
    /// and `MESHWEFT_LAB_MODULES`; the last two default to folders below `MESHWEFT_ROOT`.
    ///
    /// # Errors
    /// Something is missing; the error names the variable and how it comes to be.
    pub fn from_environment(filter: Filter) -> Result<Self> {
        Self::find(filter, |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from))
    }

    /// The `meshweft` program.
    ///
    /// # Errors
    /// It has not been built.
    pub fn agent(&self) -> Result<PathBuf> {
        existing(&self.dist.join("meshweft"), "MESHWEFT_DIST", "cargo xtask build")
    }

    fn find(filter: Filter, variable: impl Fn(&str) -> Option<PathBuf>) -> Result<Self> {
        let folder = |name: &str, below_root: &str| {
            variable(name).or_else(|| Some(variable("MESHWEFT_ROOT")?.join(below_root)))
        };
        let envoy = match variable("MESHWEFT_ENVOY") {
            Some(path) => path,
            None => {
                bail!("MESHWEFT_ENVOY is not set: it names Envoy's binary; `cargo xtask` commands set it")
            }
        };
        let envoy = existing(&envoy, "MESHWEFT_ENVOY", "cargo xtask setup")?;
        let Some(dist) = folder("MESHWEFT_DIST", "dist") else {
            bail!(
                "neither MESHWEFT_DIST nor MESHWEFT_ROOT is set: they say where {FILTER} is; `cargo xtask` commands set them"
            )
        };
        let Some(modules) = folder("MESHWEFT_LAB_MODULES", "target/lab") else {
            bail!(
                "neither MESHWEFT_LAB_MODULES nor MESHWEFT_ROOT is set: they say where {ISTIO_STATS} is; `cargo xtask` commands set them"
            )
        };
        let filter = match filter {
            Filter::Required => Some(existing(&dist.join(FILTER), "MESHWEFT_DIST", "cargo xtask build")?),
            Filter::Without => None,
        };
        Ok(Self {
            envoy,
            filter,
            istio_stats: existing(&modules.join(ISTIO_STATS), "MESHWEFT_LAB_MODULES", "cargo xtask build")?,
            dist,
        })
    }
}

fn existing(path: &Path, variable: &str, command: &str) -> Result<PathBuf> {
    let found = path.is_file();
    if !found {
        bail!("{} is missing ({variable}); `{command}` makes it", path.display());
    }
    Ok(path.canonicalize()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_the_command_that_makes_it() {
        let message = |set: &[(&str, &str)]| {
            let variable =
                |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
            format!("{:#}", Tools::find(Filter::Required, variable).expect_err("must fail"))
        };
        assert!(message(&[]).contains("MESHWEFT_ENVOY is not set"));
        let absent = message(&[("MESHWEFT_ENVOY", "/nowhere/envoy")]);
        assert!(
            absent.contains("/nowhere/envoy is missing") && absent.contains("cargo xtask setup"),
            "{absent}"
        );
        let envoy = ("MESHWEFT_ENVOY", "/bin/sh");
        assert!(message(&[envoy]).contains("MESHWEFT_DIST"));
        let unbuilt = message(&[envoy, ("MESHWEFT_ROOT", "/nowhere")]);
        assert!(
            unbuilt.contains("/nowhere/dist/meshweft_filter.wasm") && unbuilt.contains("cargo xtask build"),
            "{unbuilt}"
        );
    }
}

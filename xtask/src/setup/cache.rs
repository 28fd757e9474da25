//! The folder for tools that no package manager of the machine has.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// Tools in folders named after their version, shared by all checkouts of a user.
pub(crate) struct Cache {
    root: PathBuf,
}

impl Cache {
    /// `$MESHWEFT_CACHE`, or `meshweft` in `$XDG_CACHE_HOME` or `~/.cache`.
    ///
    /// # Errors
    /// Where none of the variables is set, `$HOME` included.
    pub(crate) fn locate() -> Result<Self> {
        let root = root(|name| env::var_os(name).filter(|value| !value.is_empty()))
            .context("set HOME or MESHWEFT_CACHE: the tools need a folder")?;
        Ok(Self { root: std::path::absolute(root)? })
    }

    /// The folder of one version of a tool.
    pub(crate) fn folder(&self, tool: &str, version: &str) -> PathBuf {
        self.root.join(format!("{tool}-{version}"))
    }

    /// Waits until no other xtask installs into this cache, or packages on its behalf.
    ///
    /// # Errors
    /// Where the folder cannot be written.
    pub(super) fn lock(&self) -> Result<File> {
        create(&self.root)?;
        let path = self.root.join("lock");
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(file)
    }
}

fn root(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if let Some(folder) = variable("MESHWEFT_CACHE") {
        return Some(folder.into());
    }
    // "All paths must be absolute. If an implementation encounters a relative path it should
    // consider the path invalid and ignore it." (XDG Base Directory Specification 0.8)
    let shared = variable("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|folder| folder.is_absolute())
        .or_else(|| Some(PathBuf::from(variable("HOME")?).join(".cache")))?;
    Some(shared.join("meshweft"))
}

/// Creates a folder with all above it.
pub(super) fn create(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root_with(set: &[(&str, &str)]) -> Option<PathBuf> {
        root(|name| set.iter().find(|(set, _)| *set == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn variables_are_asked_in_order() {
        let home = ("HOME", "/home/u");
        let shared = ("XDG_CACHE_HOME", "/cache");
        let ours = ("MESHWEFT_CACHE", "/ours");
        assert_eq!(root_with(&[home, shared, ours]), Some("/ours".into()));
        assert_eq!(root_with(&[home, shared]), Some("/cache/meshweft".into()));
        assert_eq!(root_with(&[home]), Some("/home/u/.cache/meshweft".into()));
        assert_eq!(root_with(&[]), None);
    }

    #[test]
    fn relative_shared_cache_is_ignored() {
        let set = [("HOME", "/home/u"), ("XDG_CACHE_HOME", "cache")];
        assert_eq!(root_with(&set), Some("/home/u/.cache/meshweft".into()));
    }
}

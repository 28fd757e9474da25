//! Which compilers build the programs for the two odd targets, wasm32 and bpf.
//!
//! Two roads lead there. rustup with its components (the wasm32 target, a nightly with rust-src)
//! and a bpf-linker that the user installed; or Debian's own packages of rustc and LLVM, for
//! machines where rustup cannot download a component.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use crate::repository::{Repository, output};

/// Debian's cargo and rustc, by path: rustup's come first in `PATH`.
pub(crate) const DEBIAN_CARGO: &str = "/usr/bin/cargo";
/// See [`DEBIAN_CARGO`].
pub(crate) const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// Where Debian's LLVM of the same version as Debian's rustc is.
pub(crate) const DEBIAN_LLVM: &str = "/usr/lib/llvm-22";

/// What the Debian road needs; without `lld-22`, /usr/bin/rust-lld is a dangling link.
pub(crate) const DEBIAN_PACKAGES: &[&str] = &[
    "rustc-web",
    "cargo-web",
    "rust-web-src",
    "rust-web-llvm",
    "libstd-rust-web-dev-bpf",
    "lld-22",
    "llvm-22-dev",
    "libpolly-22-dev",
    "zlib1g-dev",
    "libzstd-dev",
];

const WASM_TARGET: &str = "wasm32-unknown-unknown";
const BPF_TARGET: &str = "bpfel-unknown-none";

/// A way to compile for wasm32 and bpf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Road {
    /// rustup: the default toolchain for wasm32, this nightly for bpf.
    Rustup {
        /// Name of a toolchain that has rust-src.
        nightly: String,
    },
    /// Debian's packages.
    Debian,
}

/// What rustup has, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rustup {
    /// The active toolchain can compile for wasm32.
    pub(crate) wasm_target: bool,
    /// The first nightly, if any.
    pub(crate) nightly: Option<String>,
    /// That nightly has the sources of `core`.
    pub(crate) rust_src: bool,
}

/// What a look at the machine found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    /// `None` where there is no rustup.
    pub(crate) rustup: Option<Rustup>,
    /// A bpf-linker on `PATH` that runs.
    pub(crate) own_linker: Option<PathBuf>,
    /// What is not installed of [`DEBIAN_PACKAGES`]; `None` where there is no apt-get.
    pub(crate) missing_packages: Option<Vec<&'static str>>,
}

/// What to do to get a [`Road`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// It is there.
    Ready(Road),
    /// rustup may be able to download what it lacks; if not, install Debian's packages.
    TryRustup,
    /// Install these packages.
    Packages(Vec<&'static str>),
    /// Neither road is open.
    Impossible,
}

impl Machine {
    /// Looks at the machine. Asks as few programs as possible, since every subcommand waits.
    pub(crate) fn look(missing_packages: Option<Vec<&'static str>>) -> Self {
        let rustup = || {
            let ask = |arguments: &[&str]| output(Command::new("rustup").args(arguments)).ok();
            let wasm_target = lists(&ask(&["target", "list", "--installed"])?, WASM_TARGET);
            let nightly = first_nightly(&ask(&["toolchain", "list"])?);
            let rust_src = wasm_target
                && nightly.as_ref().is_some_and(|nightly| {
                    let arguments = ["component", "list", "--installed", "--toolchain", nightly];
                    ask(&arguments).is_some_and(|list| lists(&list, "rust-src"))
                });
            Some(Rustup { wasm_target, nightly, rust_src })
        };
        let own_linker = || {
            let linker = find_program("bpf-linker")?;
            output(Command::new(&linker).arg("--version")).ok()?;
            Some(linker)
        };
        Self { rustup: rustup(), own_linker: own_linker(), missing_packages }
    }

    /// Which road to take.
    pub(crate) fn plan(&self) -> Plan {
        if let (Some(rustup), Some(_)) = (&self.rustup, &self.own_linker)
            && let Rustup { wasm_target: true, nightly: Some(nightly), rust_src: true } = rustup
        {
            return Plan::Ready(Road::Rustup { nightly: nightly.clone() });
        }
        match &self.missing_packages {
            Some(missing) if missing.is_empty() => Plan::Ready(Road::Debian),
            // Only a user who has a bpf-linker is near the end of rustup's road: building one
            // takes an LLVM of the nightly's version.
            _ if self.rustup.is_some() && self.own_linker.is_some() => Plan::TryRustup,
            Some(missing) => Plan::Packages(missing.clone()),
            None => Plan::Impossible,
        }
    }
}

/// What to tell a user whose machine has no road.
pub(crate) const IMPOSSIBLE: &str = "\
no compiler for wasm32 and bpf here. Either\n  \
  rustup target add wasm32-unknown-unknown\n  \
  rustup toolchain install nightly --component rust-src\n  \
  cargo install bpf-linker      (needs an LLVM of the nightly's version)\n\
or use a Debian 12 machine, whose packages `cargo xtask setup` installs by itself";

/// The compilers of one road.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    /// The road.
    pub(crate) road: Road,
    /// The linker for bpf.
    pub(crate) bpf_linker: PathBuf,
}

impl Toolchain {
    /// `cargo build` for the proxy-wasm modules, with their profile and output folder.
    pub(crate) fn build_wasm(&self, repository: &Repository) -> Command {
        let mut command = match &self.road {
            Road::Rustup { .. } => repository.cargo("build"),
            Road::Debian => {
                let mut command = debian_build(repository);
                command.arg("-Zbuild-std=std,panic_abort");
                command
            }
        };
        command
            .args(["--profile", "wasm", "--target", WASM_TARGET, "--target-dir"])
            .arg(repository.target().join("wasm"))
            .env_remove("RUSTFLAGS");
        command
    }

    /// Where [`Self::build_wasm`] leaves a crate's module.
    pub(crate) fn wasm_module(repository: &Repository, name: &str) -> PathBuf {
        let folder = repository.target().join("wasm").join(WASM_TARGET).join("wasm");
        folder.join(format!("{name}.wasm"))
    }

    /// `cargo build` for the BPF programs, with their profile and output folder.
    pub(crate) fn build_bpf(&self, repository: &Repository) -> Command {
        let mut command = match &self.road {
            Road::Rustup { nightly } => {
                let mut command = Command::new("rustup");
                command.args(["run", nightly, "cargo", "build", "-Zbuild-std=core"]);
                command.current_dir(repository.root());
                repository.forget_outer_cargo(&mut command);
                forget_toolchain(&mut command);
                command
            }
            Road::Debian => debian_build(repository),
        };
        command
            .args(["--profile", "bpf", "--target", BPF_TARGET, "--target-dir"])
            .arg(repository.target().join("bpf"))
            // aya-build declares a newer rustc than it needs.
            .arg("--ignore-rust-version")
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.bpf_linker)
            .env("RUSTFLAGS", "-C link-arg=--btf -C debuginfo=2");
        command
    }

    /// Where [`Self::build_bpf`] leaves a crate's object.
    pub(crate) fn bpf_object(repository: &Repository, name: &str) -> PathBuf {
        repository.target().join("bpf").join(BPF_TARGET).join("bpf").join(name)
    }
}

fn debian_build(repository: &Repository) -> Command {
    let mut command = Command::new(DEBIAN_CARGO);
    command.arg("build").current_dir(repository.root());
    repository.forget_outer_cargo(&mut command);
    debian_compiler(&mut command);
    command
}

/// Makes a call of Debian's cargo use Debian's rustc, with the unstable options that
/// `-Zbuild-std` and the bpf target need.
pub(crate) fn debian_compiler(command: &mut Command) {
    forget_toolchain(command);
    command.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
}

/// Takes away what chooses the toolchain of the outer cargo, or flags meant for the host.
fn forget_toolchain(command: &mut Command) {
    for name in [
        "CARGO",
        "CARGO_BUILD_RUSTC",
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_TARGET_DIR",
        "RUSTC",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTDOC",
        "RUSTUP_TOOLCHAIN",
    ] {
        command.env_remove(name);
    }
}

/// Looks for a program in `PATH` and in the system folders that a user's `PATH` may lack.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    find_program_in(&env::var_os("PATH").unwrap_or_default(), name)
}

/// The folders of system programs, which are not in every user's `PATH`.
pub(crate) const SYSTEM_FOLDERS: &[&str] = &["/usr/local/sbin", "/usr/sbin", "/sbin"];

fn find_program_in(path: &std::ffi::OsStr, name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    env::split_paths(path)
        .chain(SYSTEM_FOLDERS.iter().map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| {
            Path::metadata(file)
                .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
        })
}

/// Whether a list of rustup has a line for `name`; components carry a target behind a dash.
fn lists(list: &str, name: &str) -> bool {
    list.lines().any(|line| line.split_whitespace().next() == Some(name))
}

fn first_nightly(list: &str) -> Option<String> {
    list.lines()
        .filter_map(|line| line.split_whitespace().next())
        .find(|name| name.starts_with("nightly"))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rustup(wasm_target: bool, rust_src: bool) -> Option<Rustup> {
        Some(Rustup { wasm_target, nightly: Some("nightly-x".to_owned()), rust_src })
    }

    #[test]
    fn complete_rustup_is_preferred() {
        let machine = Machine {
            rustup: rustup(true, true),
            own_linker: Some("/bin/bpf-linker".into()),
            missing_packages: Some(Vec::new()),
        };
        let road = Road::Rustup { nightly: "nightly-x".to_owned() };
        assert_eq!(machine.plan(), Plan::Ready(road));
    }

    #[test]
    fn installed_packages_are_used_where_rustup_is_incomplete() {
        for (rustup, own_linker) in
            [(None, None), (rustup(false, false), Some("/bin/bpf-linker".into())), (rustup(true, true), None)]
        {
            let machine = Machine { rustup, own_linker, missing_packages: Some(Vec::new()) };
            assert_eq!(machine.plan(), Plan::Ready(Road::Debian));
        }
    }

    #[test]
    fn rustup_is_asked_first_where_only_downloads_are_missing() {
        let machine = Machine {
            rustup: rustup(true, false),
            own_linker: Some("/bin/bpf-linker".into()),
            missing_packages: Some(vec!["lld-22"]),
        };
        assert_eq!(machine.plan(), Plan::TryRustup);
    }

    #[test]
    fn fresh_debian_installs_packages() {
        let machine = Machine {
            rustup: rustup(false, false),
            own_linker: None,
            missing_packages: Some(vec!["lld-22"]),
        };
        assert_eq!(machine.plan(), Plan::Packages(vec!["lld-22"]));
    }

    #[test]
    fn without_rustup_and_apt_there_is_no_road() {
        assert_eq!(Machine::default().plan(), Plan::Impossible);
        let machine = Machine { rustup: rustup(true, true), ..Machine::default() };
        assert_eq!(machine.plan(), Plan::Impossible);
    }

    #[test]
    fn rustup_lists_are_read_by_whole_names() {
        assert!(lists("wasm32-unknown-unknown\nx86_64-unknown-linux-gnu\n", WASM_TARGET));
        assert!(!lists("wasm32-unknown-unknown-extra\n", WASM_TARGET));
        assert!(lists("cargo-x86_64\nrust-src\n", "rust-src"));
        let toolchains = "stable-x86_64 (active, default)\nnightly-x86_64\n1.95.0-x86_64\n";
        assert_eq!(first_nightly(toolchains).as_deref(), Some("nightly-x86_64"));
        assert_eq!(first_nightly("stable-x86_64\n"), None);
    }

    #[test]
    fn system_folders_are_searched_with_an_empty_path() {
        assert_eq!(find_program_in("/usr/bin:/bin".as_ref(), "nothing-like-this"), None);
        assert!(find_program_in("/bin".as_ref(), "sh").is_some());
        assert_eq!(find_program_in("".as_ref(), "sh"), None);
    }
}

//! The programs that the lab, the demo, the tests and the benches run.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Result, bail};

use crate::toolchain::find_program;

/// A program that a Debian package has.
pub(super) struct Program {
    /// Its name in `PATH`.
    pub(super) name: &'static str,
    /// Arguments that make it print its version and end.
    arguments: &'static [&'static str],
    /// What it prints in front of its version. Some programs end with an error status after
    /// they printed it (wrk does), so this is the proof that it works.
    proof: &'static str,
    /// The lowest major version that will do.
    at_least: u32,
    /// Packages to install where it is missing.
    pub(super) packages: &'static [&'static str],
}

pub(super) const PROGRAMS: &[Program] = &[
    Program {
        name: "prometheus",
        arguments: &["--version"],
        proof: "prometheus, version ",
        at_least: 2,
        packages: &["prometheus"],
    },
    Program {
        name: "nft",
        arguments: &["--version"],
        proof: "nftables v",
        at_least: 1,
        packages: &["nftables"],
    },
    Program { name: "ip", arguments: &["-V"], proof: "iproute2-", at_least: 5, packages: &["iproute2"] },
    Program { name: "nginx", arguments: &["-v"], proof: "nginx/", at_least: 1, packages: &["nginx-light"] },
    Program { name: "wrk", arguments: &["-v"], proof: "wrk ", at_least: 4, packages: &["wrk"] },
    Program {
        name: "apache2",
        arguments: &["-v"],
        proof: "Apache/",
        at_least: 2,
        packages: &["apache2-bin"],
    },
    Program {
        name: "python3",
        arguments: &["--version"],
        proof: "Python ",
        at_least: 3,
        packages: &["python3"],
    },
    Program {
        name: "ruby",
        // With the web server's library, which Ruby 3 no longer brings along.
        arguments: &["-rwebrick", "-e", "puts RUBY_ENGINE + ' ' + RUBY_VERSION"],
        proof: "ruby ",
        at_least: 2,
        packages: &["ruby", "ruby-webrick"],
    },
    Program {
        name: "java",
        // The module that runs single-file sources (JEP 330): a runtime alone lacks it.
        arguments: &["--describe-module", "jdk.compiler"],
        proof: "jdk.compiler@",
        at_least: 17,
        packages: &["openjdk-17-jdk-headless"],
    },
];

/// A tool that was run and works.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) version: String,
}

impl Found {
    /// Runs a program and looks for its version behind `proof`.
    ///
    /// # Errors
    /// Where it cannot be started or prints something else.
    pub(super) fn verify(path: &Path, arguments: &[&str], proof: &str) -> Result<Self> {
        let output = match Command::new(path).args(arguments).stdin(Stdio::null()).output() {
            Ok(output) => output,
            Err(error) => bail!("cannot start {}: {error}", path.display()),
        };
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        match version_behind(&text, proof) {
            Some(version) => Ok(Self { path: path.to_owned(), version: version.to_owned() }),
            None => bail!(
                "{} {} printed no version: {}",
                path.display(),
                arguments.join(" "),
                text.lines().next().unwrap_or("nothing at all"),
            ),
        }
    }
}

impl Program {
    /// Looks for the program and runs it; the error is the reason to install it.
    pub(super) fn look(&self) -> Result<Found, String> {
        let path = find_program(self.name).ok_or("not found")?;
        let found = Found::verify(&path, self.arguments, self.proof).map_err(|error| error.to_string())?;
        if major(&found.version) < self.at_least {
            return Err(format!("{} is older than {}", found.version, self.at_least));
        }
        Ok(found)
    }
}

/// Looks for all [`PROGRAMS`], in their order, at once.
pub(super) fn look_for_all() -> Vec<Result<Found, String>> {
    thread::scope(|scope| {
        let looks: Vec<_> = PROGRAMS.iter().map(|program| scope.spawn(|| program.look())).collect();
        looks
            .into_iter()
            .map(|look| look.join().unwrap_or_else(|_| Err("the look did not end".to_owned())))
            .collect()
    })
}

/// The first number with or without dots in the text behind `proof`.
fn version_behind<'a>(text: &'a str, proof: &str) -> Option<&'a str> {
    let rest = &text[text.find(proof)? + proof.len()..];
    let rest = &rest[rest.find(|c: char| c.is_ascii_digit())?..];
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    Some(rest[..end].trim_end_matches('.'))
}

fn major(version: &str) -> u32 {
    version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_programs_print() {
        for (text, proof, version) in [
            ("wrk debian/4.1.0-3+b2 [epoll] Copyright", "wrk ", "4.1.0"),
            ("Server version: Apache/2.4.71 (Debian)", "Apache/", "2.4.71"),
            ("ip utility, iproute2-6.1.0, libbpf 1.1.2", "iproute2-", "6.1.0"),
            ("jdk.compiler@17.0.15\nexports x", "jdk.compiler@", "17.0.15"),
            ("jdk.compiler@21", "jdk.compiler@", "21"),
            ("rustc 1.96.0 (ac68faa20 2026-05-25)", "rustc", "1.96.0"),
            ("Debian LLD 22.1.8 (compatible with GNU linkers)", "LLD", "22.1.8"),
        ] {
            assert_eq!(version_behind(text, proof), Some(version), "{text}");
        }
        assert_eq!(version_behind("sh: wrk: not found", "wrk "), None);
        assert_eq!(version_behind("wrk debian", "wrk "), None);
    }

    #[test]
    fn program_that_is_too_old_is_missing() {
        let shell = |at_least| Program {
            name: "sh",
            arguments: &["-c", "echo shell 3.2"],
            proof: "shell ",
            at_least,
            packages: &[],
        };
        assert_eq!(shell(3).look().unwrap().version, "3.2");
        assert_eq!(shell(4).look().unwrap_err(), "3.2 is older than 4");
    }

    #[test]
    fn program_that_does_not_work_is_missing() {
        let program = Program {
            name: "sh",
            arguments: &["-c", "echo cannot load library >&2; exit 1"],
            proof: "shell ",
            at_least: 1,
            packages: &[],
        };
        assert!(program.look().unwrap_err().contains("cannot load library"));
        let program = Program { name: "no-such-program", ..program };
        assert_eq!(program.look().unwrap_err(), "not found");
    }
}

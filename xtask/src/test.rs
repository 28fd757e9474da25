//! `cargo xtask test`: everything that can fail.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::{
    build::{self, Profile},
    check, lab,
    progress::Progress,
    repository::{Repository, run as run_command},
    setup,
};

/// Runs all steps, goes on after a failure, and prints a summary at the end. With filters, only
/// the tests whose name contains one of them.
///
/// # Errors
/// Where a step failed.
pub(crate) fn run(repository: &Repository, filters: &[String], subcommands: &[String]) -> Result<()> {
    let progress = Progress::Stdout;
    let mut steps = Steps::default();
    let tools = setup::run(repository, progress)?;
    let built = steps.run("build", || build::run(repository, &tools, Profile::Release, progress));
    if filters.is_empty() {
        steps.run("check", || check::run(repository, subcommands));
        steps.run("format", || run_command(repository.cargo("fmt").args(["--all", "--check"])));
        if built {
            steps.run("lints", || lints(repository));
        }
    }
    // Without the BPF object and the modules, the tests would only say so once more.
    if built {
        steps.run("tests", || {
            let mut command = repository.cargo("test");
            command
                .args(["--no-fail-fast", "--target-dir"])
                .arg(repository.target())
                .envs(lab::environment(repository, &tools))
                .env("PATH", lab::path_with_system_folders()?);
            if !filters.is_empty() {
                command.arg("--").args(filters);
            }
            run_command(&mut command)
        });
    }
    steps.summary(progress)
}

/// The default members with all their tests, and the programs for the two odd targets as far as
/// the host's compiler understands them.
fn lints(repository: &Repository) -> Result<()> {
    let clippy = || {
        let mut command = repository.cargo("clippy");
        command.arg("--target-dir").arg(repository.target());
        command
    };
    run_command(clippy().args(["--all-targets", "--", "-D", "warnings"]))?;
    run_command(
        clippy().args(["-p", "meshweft-filter", "-p", "istio-stats-standin"]).args(["--", "-D", "warnings"]),
    )?;
    // A program without std has to abort on panic, as its profile says. The macros of aya-ebpf
    // hand the context over by value.
    run_command(clippy().args(["--profile", "bpf", "-p", "meshweft-probes"]).args([
        "--",
        "-D",
        "warnings",
        "-A",
        "clippy::needless_pass_by_value",
    ]))
}

/// Names, results and durations of what ran.
#[derive(Default)]
struct Steps {
    done: Vec<Step>,
}

struct Step {
    name: &'static str,
    seconds: u64,
    failure: Option<String>,
}

impl Steps {
    /// Returns whether the step succeeded.
    fn run(&mut self, name: &'static str, step: impl FnOnce() -> Result<()>) -> bool {
        let start = Instant::now();
        let failure = step().err().map(|error| format!("{error:#}"));
        let succeeded = failure.is_none();
        let seconds = start.elapsed().as_secs();
        self.done.push(Step { name, seconds, failure });
        succeeded
    }

    fn summary(&self, progress: Progress) -> Result<()> {
        progress.line("\nsummary:");
        let mut failed = Vec::new();
        for Step { name, seconds, failure } in &self.done {
            match failure {
                None => progress.line(format_args!("  {name:<8} ok      {seconds:>4} s")),
                Some(reason) => {
                    progress.line(format_args!("  {name:<8} FAILED  {seconds:>4} s  {reason}"));
                    failed.push(*name);
                }
            }
        }
        if !failed.is_empty() {
            bail!("failed: {}", failed.join(", "));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_go_on_after_a_failure_and_the_summary_names_it() {
        let mut steps = Steps::default();
        assert!(steps.run("one", || Ok(())));
        assert!(!steps.run("two", || bail!("broken")));
        assert!(steps.run("three", || Ok(())));
        let error = steps.summary(Progress::Stderr).unwrap_err();
        assert_eq!(error.to_string(), "failed: two");
    }
}

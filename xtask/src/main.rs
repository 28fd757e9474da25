//! `cargo xtask`: one entry for set-up, build, demo, test and bench.
//!
//! Each subcommand is a module. What a subcommand needs, it calls itself: `demo` sets up and
//! builds first, so that a clean clone needs no other step.

mod bpf_object;
mod build;
mod check;
mod docs;
mod fuzz;
mod lab;
mod progress;
mod repository;
mod setup;
mod test;
mod toolchain;
mod walls;
mod workspace_graph;

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};

use crate::{build::Profile, progress::Progress, repository::Repository};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about, version)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Detect the tools that the other subcommands need, install what is missing, verify each
    Setup,
    /// Build dist/meshweft and dist/meshweft_filter.wasm
    Build {
        /// Optimisation of the agent and the lab; the probes and the filter are always optimised
        #[arg(long, value_enum, default_value_t = Profile::Release)]
        profile: Profile,
    },
    /// Show one woven trace and one exemplar on a live mesh
    #[command(disable_help_flag = true)]
    Demo {
        /// Arguments of the demo; `--help` lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run everything that can fail: walls, docs, formatting, lints, tests
    Test {
        /// Only run the tests whose name contains one of these
        filters: Vec<String>,
    },
    /// Measure: `bench filter`, `bench probes`
    #[command(disable_help_flag = true)]
    Bench {
        /// Arguments of the bench; `--help` lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Run a mesh of your own: `lab up FILE`, `lab exec POD COMMAND`, `lab down`
    #[command(disable_help_flag = true)]
    Lab {
        /// Arguments of the lab; `--help` lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Check walls, licences and docs, without building anything
    Check,
    /// Run every fuzz target for a while
    Fuzz {
        /// Seconds for each target
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Without a backtrace: the chain of reasons is what a user can act on.
            Progress::Stderr.line(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    let repository = Repository::locate()?;
    match task {
        Task::Setup => setup::run(&repository, Progress::Stdout).map(drop),
        Task::Build { profile } => {
            let tools = setup::run(&repository, Progress::Stdout)?;
            build::run(&repository, &tools, profile, Progress::Stdout)
        }
        Task::Demo { arguments } => lab::run(&repository, Some("demo"), &arguments),
        Task::Test { filters } => test::run(&repository, &filters, &subcommands()),
        Task::Bench { arguments } => lab::run(&repository, Some("bench"), &arguments),
        Task::Lab { arguments } => lab::run(&repository, None, &arguments),
        Task::Check => check::run(&repository, &subcommands()),
        Task::Fuzz { seconds } => fuzz::run(&repository, seconds),
    }
}

/// The names that `cargo xtask NAME` understands.
fn subcommands() -> Vec<String> {
    Cli::command().get_subcommands().map(|subcommand| subcommand.get_name().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn lab_arguments_pass_through_untouched() {
        let cli = Cli::parse_from(["x", "lab", "exec", "orders", "curl", "-s", "--help"]);
        let Task::Lab { arguments } = cli.command else {
            panic!("not the lab");
        };
        assert_eq!(arguments, ["exec", "orders", "curl", "-s", "--help"]);
    }

    #[test]
    fn demo_passes_its_flags_through() {
        let cli = Cli::parse_from(["x", "demo", "--once", "--requests", "2000"]);
        let Task::Demo { arguments } = cli.command else {
            panic!("not the demo");
        };
        assert_eq!(arguments, ["--once", "--requests", "2000"]);
    }
}

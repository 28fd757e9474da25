//! `cargo xtask check`: what can be checked without building anything.

use std::fmt::Display;

use anyhow::{Result, bail};

use crate::{docs, progress::Progress, repository::Repository, walls, workspace_graph::Graph};

/// Runs all checks, prints each finding.
///
/// # Errors
/// Where there is a finding, or where a check cannot run.
pub(crate) fn run(repository: &Repository, subcommands: &[String]) -> Result<()> {
    let graph = Graph::load(repository)?;
    let mut findings = 0;
    findings += report("walls", &walls::check(&graph));
    findings += report("licences", &walls::check_licences(&graph));
    findings += report("docs", &docs::check(repository.root(), subcommands)?);
    if findings > 0 {
        bail!("{findings} findings in walls, licences and docs");
    }
    Ok(())
}

fn report(name: &str, findings: &[impl Display]) -> usize {
    let progress = Progress::Stdout;
    if findings.is_empty() {
        progress.line(format_args!("{name:<10} ok"));
    }
    for finding in findings {
        progress.line(format_args!("{name:<10} {finding}"));
    }
    findings.len()
}

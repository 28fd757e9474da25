//! The agent's own log, on standard error.

use crate::config::{Log, LogFormat};
use anyhow::Context as _;
use std::io::IsTerminal as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

/// Sends what is logged from now on to standard error.
///
/// # Errors
/// Where the level is no filter, or something else logs already.
pub fn start(log: &Log) -> anyhow::Result<()> {
    let level: Targets = log.level.parse().context("log.level")?;
    let colors = std::io::stderr().is_terminal();
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colors);
    let layer = match log.format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(layer.with_filter(level)).try_init().context("cannot log")
}

//! `meshweft agent`: reads the configuration, builds, runs, drains.

use clap::{Parser, Subcommand};
use meshweft::config::{Config, Environment};
use meshweft::{agent, log};
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

#[derive(Parser)]
#[command(name = "meshweft", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the node agent.
    Agent {
        /// Configuration in YAML. Without it, defaults and the environment decide.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Checks the configuration and ends.
        #[arg(long)]
        check: bool,
    },
}

// Two workers: the filter's question must not wait behind a batch of spans.
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let Command::Agent { config: file, check } = Arguments::parse().command;
    let (config, warnings) = Config::load(file.as_deref(), &Environment::of_process())?;
    log::start(&config.log)?;
    for warning in warnings {
        warn!("{warning}");
    }
    agent::check(&config)?;
    if check {
        println!("the configuration is valid");
        return Ok(());
    }
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    info!(version = env!("CARGO_PKG_VERSION"), "meshweft agent");
    let bound = agent::build(config).await?;
    bound.announce();
    bound
        .run(async move {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        })
        .await;
    Ok(())
}

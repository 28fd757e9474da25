//! `meshweft-lab`: the lab on the command line. `cargo xtask lab` sets its environment and calls it.

mod commands;

use clap::Parser;
use std::process::ExitCode;

/// Meshes in one machine: network namespaces with programs and their Envoy sidecars.
#[derive(Parser, Debug)]
#[command(version)]
enum Command {
    /// Start the mesh that a file describes and print its addresses.
    Up(commands::up::Up),
    /// Show one woven trace and one exemplar on a live mesh.
    Demo(commands::demo::DemoCommand),
    /// Measure what Meshweft costs.
    Bench(commands::bench::Bench),
    /// Run a command in a pod.
    Exec(commands::exec::Exec),
    /// End the mesh and remove everything that belongs to it.
    Down(commands::down::Down),
}

fn main() -> ExitCode {
    let done = match Command::parse() {
        Command::Up(up) => up.run().map(|()| ExitCode::SUCCESS),
        Command::Demo(demo) => demo.run(),
        Command::Bench(bench) => bench.run().map(|()| ExitCode::SUCCESS),
        Command::Exec(exec) => exec.run(),
        Command::Down(down) => down.run().map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

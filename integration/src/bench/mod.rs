//! What Meshweft costs: benches that start real parts, load them, and print a table.
//!
//! | module | what |
//! |---|---|
//! | [`filter`] | Envoy's CPU per request, with and without the filter and the native tracer |
//! | [`probes`] | nginx's throughput and the node's CPU per request, with and without the agent |
//! | [`table`] | what a bench prints and writes |
//! | [`measure`] | CPU clocks, medians, the order of measurements |
//! | [`load`] | requests over open connections |
//! | [`site`] | the parts of a bench: a folder, ports, processes that end with it |
//! | [`agent`], [`envoy`], [`nginx`] | these parts |
//! | [`collector`] | where the agent exports to: takes everything, keeps nothing |
//!
//! Everything runs on the host's loopback, started by the thread that runs the bench and ended with
//! it, however it ends. Figures depend on the machine; each bench therefore compares within one run,
//! and turns the order of what it compares round from one round to the next.

mod agent;
mod collector;
mod envoy;
pub mod filter;
mod load;
mod measure;
mod nginx;
pub mod probes;
mod site;
mod table;

pub use measure::Interrupt;
pub use table::{Row, Table};

/// What all benches can be told.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How often everything is measured. At least 1.
    pub rounds: u32,
    /// Seconds of each measurement. At least 1.
    pub seconds: u64,
}

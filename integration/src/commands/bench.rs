use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use meshweft_integration::bench::{Interrupt, Settings, filter, probes};
use std::num::NonZeroU32;
use std::path::PathBuf;

/// See `meshweft-lab bench --help`.
#[derive(Args, Debug)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Envoy CPU per request: no filter, our filter, Envoy's own OpenTelemetry tracer.
    Filter {
        /// Requests per second, instead of as many as one Envoy worker can serve.
        #[arg(long, value_parser = clap::value_parser!(u32).range(10..=100_000))]
        rate: Option<u32>,
        #[command(flatten)]
        common: Common,
    },
    /// nginx under wrk: without the agent, instrumented, and beside an instrumented program.
    Probes {
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Args, Debug)]
struct Common {
    /// How often everything is measured; the order turns round each time.
    #[arg(long, default_value = "5")]
    rounds: NonZeroU32,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Write the rows to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Common {
    const fn settings(&self) -> Settings {
        Settings { rounds: self.rounds.get(), seconds: self.seconds }
    }
}

impl Bench {
    pub(crate) fn run(self) -> Result<()> {
        let interrupt = Interrupt::watch()?;
        let progress = |line: &str| eprintln!("{line}");
        let (table, json) = match self.what {
            What::Filter { rate, common } => {
                (filter::run(common.settings(), rate, &interrupt, progress)?, common.json)
            }
            What::Probes { common } => (probes::run(common.settings(), &interrupt, progress)?, common.json),
        };
        println!("{table}");
        if let Some(file) = json {
            let text = serde_json::to_string_pretty(&table.rows)?;
            std::fs::write(&file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(())
    }
}

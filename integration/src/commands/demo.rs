use anyhow::{Context as _, Result};
use clap::Args;
use meshweft_integration::demo::{Demo, Plan};
use std::path::PathBuf;
use std::process::ExitCode;

/// See `meshweft-lab demo --help`.
#[derive(Args, Debug)]
pub(crate) struct DemoCommand {
    /// End when the figures are there, instead of leaving everything open until Ctrl-C.
    #[arg(long)]
    once: bool,
    /// Requests to send.
    #[arg(long, default_value_t = 200)]
    requests: u64,
    /// Requests at once.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1000))]
    concurrency: u64,
    /// Write the figures to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The mesh file; /checkout/<n> must lead through storefront, orders and stock.
    #[arg(long, value_name = "FILE")]
    mesh: Option<PathBuf>,
}

impl DemoCommand {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        runtime.block_on(self.show())
    }

    async fn show(self) -> Result<ExitCode> {
        let mesh = match &self.mesh {
            Some(mesh) => mesh.clone(),
            None => {
                let root = std::env::var_os("MESHWEFT_ROOT")
                    .context("MESHWEFT_ROOT is not set; use `cargo xtask demo`")?;
                PathBuf::from(root).join("integration/meshes/demo.yaml")
            }
        };
        println!("starting the mesh, the agent and Prometheus ...");
        let demo = Demo::start(&mesh).await?;
        let plan = Plan { requests: self.requests, concurrency: self.concurrency };
        let outcome =
            demo.send(1, &plan, |done| println!("  {done:>6} of {} requests", self.requests)).await?;
        if let Some(failure) = &outcome.first_failure {
            println!("the first failure: {failure}");
        }
        println!(
            "{} requests in {:.1} s; p50 {:.1} ms, p99 {:.1} ms\nwaiting for spans and scrapes ...\n",
            self.requests,
            outcome.took.as_secs_f64(),
            outcome.percentile(0.5).as_secs_f64() * 1e3,
            outcome.percentile(0.99).as_secs_f64() * 1e3,
        );
        let (figures, buckets) = demo.settle(1, &outcome, self.requests).await?;
        match demo.show(&buckets) {
            Some(text) => println!("{text}"),
            None => println!("no exemplar yet"),
        }
        for complaint in &figures.verdict.complaints {
            println!("not complete: {complaint}");
        }
        let json = figures.json();
        println!("{}", serde_json::to_string_pretty(&json)?);
        if let Some(file) = &self.json {
            std::fs::write(file, format!("{json}\n"))
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        if !self.once {
            println!();
            for (name, url) in demo.addresses() {
                println!("{name:<11} {url}");
            }
            println!("Ctrl-C ends everything.");
            super::wait_for_signal().await?;
        }
        let sound = figures.failed == 0
            && figures.verdict.complete == self.requests
            && figures.dangling_exemplars == 0;
        Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

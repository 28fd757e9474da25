use anyhow::{Context as _, Result};
use clap::Args;
use meshweft_integration::lab::state::Record;
use meshweft_integration::lab::{exec_command, find_pod};
use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;

/// See `meshweft-lab exec --help`.
#[derive(Args, Debug)]
pub(crate) struct Exec {
    /// The lab's id, as `up` had it.
    #[arg(long, default_value_t = 0)]
    id: u8,
    /// The pod: its workload's name, or as `up` printed it.
    pod: String,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl Exec {
    /// Becomes the command, so that its exit status is ours.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        let record = Record::of_running(self.id)?;
        let pod = &record.pods[find_pod(&record.pods, &self.pod)?];
        let command: Vec<_> = self.command.iter().map(String::as_str).collect();
        Err(exec_command(pod, &command).exec()).with_context(|| format!("cannot run {command:?}"))
    }
}

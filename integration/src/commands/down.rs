use anyhow::Result;
use clap::Args;
use meshweft_integration::lab;

/// See `meshweft-lab down --help`.
#[derive(Args, Debug)]
pub(crate) struct Down {
    /// The lab's id, as `up` had it.
    #[arg(long, default_value_t = 0)]
    id: u8,
}

impl Down {
    pub(crate) fn run(&self) -> Result<()> {
        lab::down(self.id)
    }
}

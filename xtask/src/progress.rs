//! Where the lines about set-up and build go.

use std::fmt::Display;

/// A destination for progress lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The lines are what the user asked for.
    Stdout,
    /// A program follows whose own standard output counts.
    Stderr,
}

impl Progress {
    /// Prints one line.
    pub(crate) fn line(self, text: impl Display) {
        match self {
            Self::Stdout => println!("{text}"),
            Self::Stderr => eprintln!("{text}"),
        }
    }
}

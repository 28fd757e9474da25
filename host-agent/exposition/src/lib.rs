//! Prometheus text in, OpenMetrics with exemplars out.
//!
//! Pure: no clock, no I/O. The caller fetches an Envoy's `/stats/prometheus` (text format 0.0.4),
//! tells [`Exemplars`] about the requests whose traces were exported, and [`render`] writes the
//! page as OpenMetrics 1.0 with an exemplar on each bucket and counter that one of those requests
//! was counted in.
//!
//! A page goes through these modules, in this order:
//!
//! | module | what |
//! |---|---|
//! | `accept` | whether the client wants OpenMetrics at all |
//! | `line`, `labels`, `number` | one line of the page, validated; what is broken is dropped |
//! | `page` | lines to families, with the types that OpenMetrics lets them have |
//! | `series` | the series that exemplars belong to |
//! | `matching` | a request's labels to the one series that counted it |
//! | `buckets` | a request's value to the one bucket that Envoy counted it in |
//! | `exemplars` | the requests that wait for a scrape |
//! | `kept` | the exemplars that stay from one scrape to the next |
//! | `render` | families and exemplars to OpenMetrics text |
//!
//! # What changes on the way, and what does not
//!
//! Each series keeps its sample name, its labels and its value, so that dashboards and alerts see
//! the same series whether Prometheus was given text or OpenMetrics.
//!
//! - A counter `x_total` is written as family `x`, with samples `x_total`. A counter without
//!   `_total` cannot be one in OpenMetrics; it becomes `unknown`, which keeps its name.
//! - The text of `le` is kept as Envoy prints it. The specification would like `le="1.0"`
//!   ("Considerations: Canonical Numbers", a SHOULD); but Prometheus before 3.0 takes `le="1"` and
//!   `le="1.0"` for different series, and rewriting them would cut users' histories in two.
//! - A family whose samples OpenMetrics forbids under its type (a histogram without `+Inf`, a
//!   negative counter), or whose names clash with another family's, is written as `unknown`
//!   families named after its samples.
//! - Of lines that are broken or given twice the page loses only those lines, each counted under
//!   its [`LineDrop`].

mod accept;
mod buckets;
mod exemplars;
mod fingerprint;
mod kept;
mod labels;
mod line;
mod matching;
mod number;
mod page;
mod render;
mod series;

pub use accept::accepts_openmetrics;
pub use exemplars::{Exemplars, Limits, Request, Stats};
pub use line::LineDrop;
pub use page::DroppedLines;
pub use render::{Summary, render};

/// `Content-Type` of what [`render`] writes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Why a page was not converted. Nothing was written then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The page is longer than [`Limits::max_page_bytes`].
    #[error("the page has {len} bytes, more than the {limit} that are converted")]
    PageTooLarge {
        /// Length of the page, in bytes.
        len: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// Lines were dropped and not one sample was left: this is no metrics page. An empty page,
    /// or one of nothing but comments, is not an error.
    #[error("no line of the page is a sample, and {dropped} lines are broken")]
    NoSamples {
        /// How many lines were dropped.
        dropped: u64,
    },
}

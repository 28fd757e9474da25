//! The vocabulary that the filter, the probes' agent and the correlator share.
//!
//! Pure: no clock, no I/O, no randomness of its own; compiles for native targets and for
//! `wasm32-unknown-unknown`.
//!
//! | module | what |
//! |---|---|
//! | [`id`] | trace and span ids that cannot be zero, and the generator that makes them |
//! | [`context`] | the propagated context: trace id, parent span id, flags |
//! | [`traceparent`], [`tracestate`] | W3C Trace Context, level 2 |
//! | [`b3`] | Zipkin B3, single and multi header |
//! | [`propagation`] | those formats together: a request's headers to a context, and back |
//! | [`error`] | what can be wrong with a propagated context |
//! | [`hop`] | which side of which proxy a span is, and what a link between spans rests on |
//! | [`join`] | the two ends of a connection, by which both sides of a proxy meet |
//! | [`workload`] | who a span belongs to |
//! | [`question`] | what the filter asks the agent when a request has no context |
//! | [`sampling`] | which traces are kept |
//! | [`attributes`] | every attribute name that Meshweft writes |
//! | [`loss`] | every reason for which something may be dropped |

// What is parsed here comes off the wire, inside a proxy: there must be nothing that can panic.
#![cfg_attr(
    not(test),
    deny(clippy::indexing_slicing, clippy::unwrap_used, clippy::expect_used, clippy::panic)
)]

pub mod attributes;
pub mod b3;
pub mod context;
pub mod error;
mod hex;
pub mod hop;
pub mod id;
pub mod join;
pub mod loss;
pub mod propagation;
pub mod question;
pub mod sampling;
pub mod traceparent;
pub mod tracestate;
pub mod workload;

pub use context::{SpanContext, TraceFlags};
pub use error::Error;
pub use hop::{Evidence, Hop};
pub use id::{SpanId, TraceId};
pub use join::Connection;
pub use loss::DropReason;
pub use workload::Workload;

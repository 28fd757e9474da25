//! What the filter does to a request and what it reports of it, over a [`Host`].
//!
//! Nothing here knows proxy-wasm: the module's adapter implements [`Host`] by the proxy's host
//! calls, the tests by a host of their own. Nothing here can panic: a panic would take down the
//! worker's VM, and with it the telemetry of every request of that worker.
//!
//! | module | what |
//! |---|---|
//! | [`host`] | what the filter needs of a proxy, and the count of host calls |
//! | [`config`] | `pluginConfig` |
//! | [`filter`] | one VM: configuration, ticks, what its streams share |
//! | [`stream`] | one request: its phases from headers to log |
//! | [`head`], [`pairs`] | a request's headers, read in one pass without copies |
//! | [`connections`], [`table`] | what is known of a downstream connection, and how much is kept |
//! | [`trace`] | where a request's context comes from and what is handed on |
//! | [`question`], [`breaker`] | the question to the agent, and when not to ask |
//! | [`facts`] | what Envoy knows of a finished stream, read in one host call |
//! | [`node`], [`peer`], [`labels`] | who is on either side, and Istio's labels of that |
//! | `report`, [`span`], [`flags`], [`semantics`] | a finished stream as bytes of OTLP |
//! | [`batch`] | spans on their way to the agent |
//! | [`metrics`] | the filter's own counters |

#![cfg_attr(
    not(test),
    deny(
        clippy::panic,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::unreachable,
        clippy::string_slice,
        clippy::arithmetic_side_effects
    )
)]

pub mod batch;
pub mod breaker;
pub mod config;
pub mod connections;
pub mod facts;
pub mod filter;
pub mod flags;
pub mod head;
pub mod host;
pub mod labels;
pub mod metrics;
pub mod node;
pub mod pairs;
pub mod peer;
pub mod question;
mod report;
pub mod semantics;
pub mod span;
pub mod stream;
pub mod table;
pub mod trace;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

pub use config::Config;
pub use filter::Filter;
pub use host::Host;
pub use stream::{Stream, Verdict};

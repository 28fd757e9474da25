//! Stands in for Envoy's `istio.stats` extension in the lab, because stock Envoy lacks it.
//!
//! For every request it counts Istio's four HTTP metrics with their 25 labels, through Envoy's own
//! statistics, so that Envoy's own Prometheus page prints them. See the README beside this crate.
//!
//! | module | what |
//! |---|---|
//! | [`labels`] | the labels, their order, and the name that carries them to Envoy |
//! | [`peers`] | configuration: which workload has which address |
//! | `module` | the adapter to proxy-wasm (only on wasm32) |

#![deny(clippy::panic, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

pub mod labels;
// Clippy only checks, so it can look at the adapter on any target.
#[cfg(any(target_arch = "wasm32", clippy))]
mod module;
pub mod peers;

//! The node agent of Meshweft: spans of the mesh and of apps in, woven traces out.
//!
//! | module | what |
//! |---|---|
//! | [`config`] | what the agent is asked to do |
//! | [`agent`] | the wiring: build, run, drain |
//! | [`capture`] | what the kernel sees of the apps |
//! | [`discovery`] | which processes are apps |
//! | [`weave`] | where both sides meet |
//! | [`otlp`] | OTLP in and out, and the filter's question |
//! | [`intake`] | the boundary between what comes in and what is made of it |
//! | [`admin`] | metrics, scrapes with exemplars, health, debug |
//! | [`listen`], [`reply`] | sockets and HTTP |
//! | [`drain`] | readiness and the end |
//! | [`log`] | the agent's own log |
//! | [`metrics`] | what the agent counts |

pub mod admin;
pub mod agent;
pub mod capture;
pub mod config;
pub mod discovery;
pub mod drain;
pub mod intake;
pub mod listen;
pub mod log;
pub mod metrics;
pub mod otlp;
pub mod reply;
pub mod weave;

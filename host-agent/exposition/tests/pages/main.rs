//! Whole pages, from Prometheus text to OpenMetrics.

mod exemplars;
mod golden;
mod openmetrics;
mod properties;

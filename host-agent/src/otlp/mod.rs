//! OTLP in and out.

pub mod exporter;
mod gzip;
mod message;
pub mod receiver;

pub use exporter::{Exported, Exporter};
pub use receiver::Receiver;
